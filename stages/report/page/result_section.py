"""The table of a recipe with means, spreads and costs, and the sentences below it."""

from __future__ import annotations

from stages.report.figures import Figure, Results
from stages.report.page.markup import Markup, join, tag
from stages.report.table_cells import Costs, cells_of, headers_of, lines_below


def result_section(results: Results) -> Markup:
    table = results.table
    headers, best = headers_of(table, results.costs), best_rows(results)
    head = [tag("th", name, scope="col", class_=None if index else "label") for index, name in enumerate(headers)]
    low, high = _range(results)
    rows = []
    for row, cells in zip(table.rows, cells_of(table, results.figures, results.costs), strict=True):
        written = [_label(row.label, [column for column, labels in best.items() if row.label in labels], len(best))]
        for index, text in enumerate(cells[1:]):
            column = table.columns[index] if index < len(table.columns) else None
            if column is None:
                written.append(tag("td", text, class_=None if text != "-" else "none"))
                continue
            figure = results.figures[row.label][column]
            written.append(_cell(text, figure, row.label in best.get(column, ()), low, high))
        rows.append(tag("tr", written, class_="best" if any(row.label in labels for labels in best.values()) else None))
    body = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="results")
    scroll = tag("div", body, class_="scroll", tabindex=0, role="region", aria_label="Table of results")
    return join(
        [scroll, tag("ul", [tag("li", line) for line in lines_below(results)], class_="notes"), _stages(results)]
    )


def best_rows(results: Results) -> dict[str, list[str]]:
    """Column -> labels of the rows with the highest mean, as it is shown; columns without a lower one are left out."""
    found = {}
    for column in results.table.columns:
        figures = ((label, columns[column].mean) for label, columns in results.figures.items())
        means = {label: round(mean, 1) for label, mean in figures if mean is not None}
        best = [label for label, mean in means.items() if mean == max(means.values())]
        if len(best) < len(means):
            found[column] = best
    return found


def _label(label: str, best_in: list[str], columns: int) -> Markup:
    """A row's label; where it is best in some columns only, these are named."""
    words = "best" if len(best_in) == columns else f"best: {', '.join(best_in)}"
    badge = tag("span", words, class_="badge") if best_in else None
    return tag("th", tag("span", label), badge, scope="row", class_="label")


def _cell(text: str, figure: Figure, best: bool, low: float, high: float) -> Markup:
    """The figure, and below it its place between the lowest and the highest of the table, with its spread."""
    if figure.mean is None:
        return tag("td", "-", class_="none")
    mean, _, about = text.partition(" ")
    span = (high - low) or 1.0
    begin, end = figure.spread or (figure.mean, figure.mean)
    left, wide = 100 * (begin - low) / span, 100 * (end - begin) / span
    bar = tag("span", class_="range", style=f"left:{left:.1f}%;width:{wide:.1f}%")
    dot = tag("span", class_="dot", style=f"left:{100 * (figure.mean - low) / span:.1f}%")
    track = tag("span", bar, dot, class_="track", aria_hidden="true")
    title = "; ".join(f"{name} {value:.2f}" for name, value in figure.runs.items())
    runs = tag("small", f" {about}") if about else None
    classes = " ".join(filter(None, ["figure", "top" if best else "", "stale" if figure.stale else ""]))
    return tag("td", tag("b", mean) if best else mean, runs, track, class_=classes, title=title)


def _range(results: Results) -> tuple[float, float]:
    """The lowest and the highest run of the table."""
    runs = [value for figure in results.cells for value in figure.runs.values()]
    return min(runs, default=0.0), max(runs, default=100.0)


def _stages(results: Results) -> Markup | None:
    """Seconds and MiB of each stage of each row's runs, where a run has more than one stage."""
    known: Costs = {label: cost for label, cost in results.costs.items() if cost and len(cost.stages) > 1}
    stages = list(dict.fromkeys(stage for cost in known.values() if cost for stage in cost.stages))
    if not stages:
        return None
    rows = []
    for label, cost in known.items():
        found = [cost.stages.get(stage) if cost else None for stage in stages]
        cells = [tag("td", "-" if one is None else f"{one.seconds:.0f} s, {one.disk_mib:.1f} MiB") for one in found]
        rows.append(tag("tr", tag("th", label, scope="row", class_="label"), cells))
    head = tag("tr", tag("th", "row", scope="col", class_="label"), [tag("th", stage, scope="col") for stage in stages])
    table = tag("table", tag("thead", head), tag("tbody", rows))
    scroll = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Costs of each stage")
    return tag("details", tag("summary", "Costs of each stage of a run"), scroll)
