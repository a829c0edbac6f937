"""Evaluations: IoU of each class, confusion matrix, and the distribution of the mean IoU of the images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from artifacts.text import amount
from stages.report.page.charts import histogram
from stages.report.page.graph_section import artifact_id
from stages.report.page.markup import Markup, join, script_json, tag
from stages.report.page.scored import Evaluation


def evaluation_section(evaluations: Sequence[Evaluation], best: Evaluation | None, stale: set[str]) -> Markup:
    ordered = sorted(
        evaluations, key=lambda e: (e is not best, not e.of_scored_split, -(e.metrics.mean_iou or 0.0), e.artifact)
    )
    return join([_evaluation(e, e is best or len(ordered) == 1, e.artifact in stale) for e in ordered])


def evaluation_id(name: str) -> str:
    return f"evaluation-{name}"


def _evaluation(found: Evaluation, opened: bool, stale: bool) -> Markup:
    metrics = found.metrics
    mean = "-" if metrics.mean_iou is None else f"{100 * metrics.mean_iou:.1f}"
    about = f"{', '.join(metrics.splits)}, {amount(metrics.images, 'image')}" + (", maps" if found.of_maps else "")
    summary = tag(
        "summary",
        tag("span", found.artifact, class_="name"),
        tag("span", f"{mean} %", class_="value") if metrics.mean_iou is not None else None,
        tag("span", about, class_="faint"),
        tag("span", "stale", class_="badge stale") if stale else None,
        tag("span", "best", class_="badge") if opened and metrics.mean_iou is not None else None,
    )
    parts = [tag("div", tag("h3", "IoU of each class"), _bars(found)), _confusion(found), _images(found)]
    links = [tag("a", "settings", href=f"#{artifact_id(found.artifact)}")]
    if found.scored:
        links.append(tag("a", f"what was scored: {found.scored}", href=f"#{artifact_id(found.scored)}"))
    if metrics.mean_iou_interval is not None:
        low, high = metrics.mean_iou_interval
        links.append(tag("span", f"95 % interval {100 * low:.1f} to {100 * high:.1f}, by the bootstrap over images"))
    body = tag("div", parts, class_="evaluation")
    return tag("details", summary, tag("p", links, class_="links"), body, id=evaluation_id(found.artifact), open=opened)


def _bars(found: Evaluation) -> Markup:
    """A table of the classes whose IoU is drawn as a bar."""
    rows = []
    for name in found.metrics.class_names:
        own = found.metrics.classes[name]
        wide = 0.0 if own.iou is None else 100 * own.iou
        bar = tag("span", tag("span", style=f"width:{wide:.1f}%"), class_="bar", aria_hidden="true")
        figures = [tag("td", _percent(value)) for value in (own.iou, own.precision, own.recall)]
        rows.append(tag("tr", tag("th", name, scope="row", class_="label"), tag("td", bar, class_="bars"), figures))
    names = ("IoU", "precision", "recall")
    head = [tag("th", "class", scope="col", class_="label"), tag("td"), [tag("th", n, scope="col") for n in names]]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="classes")
    return tag(
        "div", table, class_="scroll", tabindex=0, role="region", aria_label=f"IoU of each class of {found.artifact}"
    )


def _confusion(found: Evaluation) -> Markup:
    """The counts as JSON; the script draws the heat map when the evaluation is opened first."""
    counts = {"classes": found.metrics.class_names, "counts": found.metrics.confusion_matrix}
    data = tag("script", script_json(counts), type="application/json")
    missing = tag("noscript", tag("p", "The matrix is drawn by the page's script; metrics.json has its counts."))
    note = "Rows: truth, columns: prediction. The shade is the share of the row."
    return tag("div", tag("h3", "Confusion matrix"), tag("p", note, class_="faint"), missing, data, class_="confusion")


def _images(found: Evaluation) -> Markup:
    values = [value for value in (found.images or {}).values() if value is not None]
    heading = tag("h3", "Mean IoU of single images")
    if not values:
        return tag("div", heading, tag("p", f"Not known: {found.why or 'no image was scored'}.", class_="faint"))
    mean = statistics.fmean(values)
    words = (
        f"{amount(len(values), 'image')}, over the classes in an image's truth or prediction. Their mean, "
        f"{100 * mean:.1f} %, is not the mean IoU of the split, which counts all pixels together."
    )
    ordered = sorted((found.images or {}).items(), key=lambda item: (item[1] is None, item[1] or 0.0, item[0]))
    rows = [[image_id, None if value is None else round(100 * value, 1)] for image_id, value in ordered]
    data = tag("script", script_json(rows), type="application/json")
    every = tag("details", tag("summary", f"{amount(len(rows), 'image')}, the worst first"), data, class_="every-image")
    return tag("div", heading, histogram(values, mean), tag("p", words, class_="faint"), every)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
