"""Curves of all trainings: a panel for each logged quantity, a line for each training."""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.text import amount
from stages.report.page.charts import curves_chart, series_style
from stages.report.page.curves import SEED, Training, ends, series_of
from stages.report.page.graph_section import artifact_id
from stages.report.page.markup import Markup, join, tag


def curve_section(trainings: Sequence[Training]) -> Markup:
    series = series_of([training.artifact for training in trainings])
    panels = []
    for quantity in quantities(trainings):
        curves = {t.artifact: t.curves[quantity] for t in trainings if quantity in t.curves}
        title = (
            quantity.replace("_", " ").replace("lr", "learning rate")
            if quantity == "lr"
            else quantity.replace("_", " ")
        )
        panels.append(
            tag("figure", tag("figcaption", title), curves_chart(title, curves, series), tag("p", class_="readout"))
        )
    level = [training.artifact for training in trainings if training.fell is False]
    words = f"No term of the loss is lower at the end than at the beginning: {', '.join(level)}."
    return join(
        [
            tag("p", words, class_="warning") if level else None,
            _legend(series) if len(trainings) > 1 else None,
            tag("div", panels, class_="panels"),
            _last_values(trainings),
        ]
    )


def quantities(trainings: Sequence[Training]) -> list[str]:
    """What was logged: terms of losses first, the learning rate last, those of most trainings before others."""
    counts: dict[str, int] = {}
    losses: set[str] = set()
    for training in trainings:
        losses |= training.losses
        for quantity in training.curves:
            counts[quantity] = counts.get(quantity, 0) + 1
    return sorted(counts, key=lambda q: (q == "lr", q not in losses, -counts[q], q))


def _legend(series: dict[str, int]) -> Markup:
    """A button for each series, which hides and shows its lines."""
    labels: dict[int, list[str]] = {}
    for name, number in series.items():
        labels.setdefault(number, []).append(name)
    buttons = []
    for number, names in labels.items():
        text = names[0] if len(names) == 1 else f"{SEED.sub('', names[0])} ({len(names)})"
        line = tag("line", x1=0, x2=22, y1=5, y2=5, style=series_style(number))
        swatch = tag("svg", line, width=22, height=10, viewBox="0 0 22 10", aria_hidden="true", class_="swatch")
        buttons.append(tag("button", swatch, text, type="button", aria_pressed="true", data_series=number))
    return tag("div", buttons, class_="legend", role="group", aria_label="Trainings: press to hide or show")


def _last_values(trainings: Sequence[Training]) -> Markup:
    names = quantities(trainings)
    head = [tag("th", name, scope="col") for name in ("steps", *(n.replace("_", " ") for n in names))]
    rows = []
    for training in trainings:
        label = tag("a", training.artifact, href=f"#{artifact_id(training.artifact)}")
        remarks = [] if training.finished else ["unfinished"]
        remarks += [f"its log has {amount(training.unread, 'damaged line')}"] if training.unread else []
        about = tag("small", f" {'; '.join(remarks)}") if remarks else None
        cells = [tag("td", _change(training, name)) for name in names]
        rows.append(
            tag("tr", tag("th", label, about, scope="row", class_="label"), tag("td", f"{training.steps:,}"), cells)
        )
    first = tag("th", "training", scope="col", class_="label")
    table = tag("table", tag("thead", tag("tr", first, head)), tag("tbody", rows))
    scroll = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Last values of trainings")
    note = "Losses: mean of the first tenth and of the last tenth of what was logged; others: the last value."
    return tag("details", tag("summary", "Losses and last values as a table"), scroll, tag("p", note, class_="faint"))


def _change(training: Training, name: str) -> str:
    if name not in training.curves:
        return "-"
    if name in training.losses:
        return " → ".join(f"{value:.4g}" for value in ends(training.curves[name]))
    return f"{training.curves[name][-1][1]:.4g}"
