"""The table of a recipe with means, spreads and costs, who leads in it, and the runs behind it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from stages.report.figures import Figure, Results
from stages.report.leads import Difference, Lead, leads_of
from stages.report.page.evaluation_section import evaluation_id
from stages.report.page.facts import PageFacts
from stages.report.page.graph_section import artifact_id
from stages.report.page.lineage import network_of
from stages.report.page.markup import Markup, command_block, join, tag
from stages.report.table_cells import Costs, cells_of, headers_of, lines_below


def result_section(facts: PageFacts, results: Results) -> Markup:
    table, leads = results.table, leads_of(results)
    headers, highest = headers_of(table, results.costs), {lead.column: lead.highest for lead in leads}
    head = [tag("th", name, scope="col", class_=None if index else "label") for index, name in enumerate(headers)]
    low, high = _range(results)
    evaluated = {evaluation.artifact for evaluation in facts.evaluations}
    rows = []
    for number, (row, cells) in enumerate(
        zip(table.rows, cells_of(table, results.figures, results.costs), strict=True)
    ):
        written = [tag("th", row.label, scope="row", class_="label")]
        for index, text in enumerate(cells[1:]):
            column = table.columns[index] if index < len(table.columns) else None
            if column is None:
                written.append(tag("td", text, class_=None if text != "-" else "none"))
                continue
            figure = results.figures[row.label][column]
            to = _target(figure, number, evaluated)
            written.append(_cell(text, figure, row.label in highest.get(column, ()), to, low, high))
        rows.append(tag("tr", written))
    body = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="results")
    return join(
        [
            _scroll(body, "Table of results"),
            _leads(leads),
            tag("ul", [tag("li", line) for line in lines_below(results)], class_="notes"),
            _runs(facts, results),
            _stages(results),
        ]
    )


def _scroll(table: Markup, label: str) -> Markup:
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _target(figure: Figure, row: int, evaluated: Collection[str]) -> str | None:
    """Where a figure leads: to the evaluation of its only run, or to the runs of its row."""
    if len(figure.runs) == 1 and (name := next(iter(figure.runs))) in evaluated:
        return evaluation_id(name)
    return _runs_id(row) if figure.runs else None


def _runs_id(row: int) -> str:
    return f"runs-{row}"


def _leads(leads: Sequence[Lead]) -> Markup | None:
    """Which row leads in each column, and by how much."""
    if not leads:
        return None
    names = ("column", "highest", "mean", "runs", "above the next row", "above the first row")
    head = [tag("th", name, scope="col", class_="label" if place != 2 else None) for place, name in enumerate(names)]
    rows = []
    for lead in leads:
        cells = [tag("td", " = ".join(lead.highest), class_="words"), tag("td", tag("b", f"{lead.mean:.1f}"))]
        cells += [tag("td", lead.runs), _difference(lead.second), _difference(lead.first)]
        rows.append(tag("tr", tag("th", lead.column, scope="row", class_="label"), cells))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="leads")
    return join([tag("h3", "Highest in each column"), _scroll(table, "Highest in each column")])


def _difference(difference: Difference | None) -> Markup:
    if difference is None:
        return tag("td", "it is the first row", class_="words none")
    return tag(
        "td", f"{difference.points:+.1f} ({difference.known})", tag("small", f" {difference.label}"), class_="words"
    )


def _runs(facts: PageFacts, results: Results) -> Markup | None:
    """What stands behind the figures of each row: its runs, what they were scored on, and their networks."""
    made = {artifact.name: artifact.manifest for artifact in facts.artifacts if artifact.manifest}
    splits = {one.artifact: f"{', '.join(one.metrics.splits)}, {one.metrics.images:,}" for one in facts.evaluations}
    rows: list[Markup] = []
    for number, row in enumerate(results.table.rows):
        there = {column: figure for column, figure in results.figures[row.label].items() if figure.runs}
        for place, (column, figure) in enumerate(there.items()):
            networks = list(dict.fromkeys(n for name in figure.runs if (n := network_of(name, made))))
            on = dict.fromkeys(splits[name] for name in figure.runs if name in splits)
            scores = [
                tag("div", _link(name, splits), f" {value:.2f}{'*' if name in figure.stale else ''}")
                for name, value in figure.runs.items()
            ]
            cells = [tag("td", column, class_="words"), tag("td", scores, class_="words")]
            cells += [tag("td", [tag("div", text) for text in on], class_="words")]
            links = [tag("div", tag("a", name, href=f"#{artifact_id(name)}")) for name in networks]
            cells.append(tag("td", links or "-", class_="words"))
            label = tag("th", row.label, scope="row", class_="label")
            rows.append(tag("tr", label, cells, id=None if place else _runs_id(number)))
    if not rows:
        return None
    names = ("row", "column", "runs", "images scored", "network")
    head = tag("tr", [tag("th", name, scope="col", class_="label") for name in names])
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="runs")
    summary = tag("summary", "Runs behind the table: scores, networks, and how to make one again")
    return tag("details", summary, _scroll(table, "Runs behind the table"), _again(facts))


def _link(name: str, evaluated: Collection[str]) -> Markup:
    return tag("a", name, href=f"#{evaluation_id(name) if name in evaluated else artifact_id(name)}")


def _again(facts: PageFacts) -> Markup | None:
    """How a network, and what depends on it, is made again."""
    if facts.made is None or facts.made.command is None or facts.best is None:
        return None
    made = {artifact.name: artifact.manifest for artifact in facts.artifacts if artifact.manifest}
    if (network := network_of(facts.best.artifact, made)) is None:
        return None
    command = f"{facts.made.command} --workspace {shlex.quote(facts.workspace)} --force {shlex.quote(network)}"
    words = (
        f"A network lies in the folder of its name in the workspace {facts.workspace}. To train one again, and make "
        "what depends on it, name it after --force:"
    )
    return join([tag("p", words), command_block(command, f"trains {network} again")])


def _cell(text: str, figure: Figure, best: bool, to: str | None, low: float, high: float) -> Markup:
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
    number = tag("b", mean, tag("span", " highest", class_="unseen")) if best else mean
    linked = tag("a", number, href=f"#{to}") if to else number
    return tag("td", linked, runs, track, class_=classes, title=title)


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
    return tag("details", tag("summary", "Costs of each stage of a run"), _scroll(table, "Costs of each stage"))
