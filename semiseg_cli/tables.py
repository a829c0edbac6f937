"""The results table of a recipe, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import rich.table

from artifacts.text import visible
from semiseg_cli.console import plain_table
from stages.pipeline.table import Row, Table
from stages.report.figures import Cost, Figure, Figures, Results, order_sentence
from stages.report.how_made import HowMade, how_made_lines

GAP = 3  # spaces between columns of a terminal's table
NAMED = 8  # at most this many missing artifacts are named
STALE = "*"  # marks figures made with different settings
COST_COLUMNS = (
    ("steps", "steps", "{:.0f}"),
    ("images", "images", "{:.0f}"),
    ("steps/s", "steps_per_second", "{:.2f}"),
    ("images/s", "images_per_second", "{:.1f}"),
    ("seconds a run", "seconds", "{:.0f}"),
    ("peak MiB", "peak_memory_mib", "{:.0f}"),
    ("disk MiB", "disk_mib", "{:.1f}"),
)

Costs = dict[str, Cost | None]


def table_text(results: Results, width: int) -> tuple[list[rich.table.Table], list[str]]:
    """The table for a terminal of `width` characters, and the lines below it.

    If the columns do not fit next to each other without breaking a figure, several tables follow each other.
    """
    table, figures, costs = results.table, results.figures, results.costs
    columns = list(zip(_headers(table, costs), *_cells(table, figures, costs), strict=True))
    widths = [max(map(len, cells)) for cells in columns]
    if sum(widths) + GAP * len(widths) > width:  # broken at spaces
        widths = [max(len(word) for cell in cells for word in cell.split()) for cells in columns]
    parts: list[rich.table.Table] = []
    for indices in _beside(widths, width):
        part = plain_table(title=None if parts else table.title)
        for i in indices:
            part.add_column(columns[i][0], justify="right" if i else "left", overflow="fold", width=widths[i])
        for cells in zip(*(columns[i][1:] for i in indices), strict=True):
            part.add_row(*cells)
        parts.append(part)
    return parts, _lines(results)


def _beside(widths: list[int], width: int) -> list[list[int]]:
    """The columns of each table: as many as fit, with the first column (the row's label) in each."""
    tables = [[0]]
    for index in range(1, len(widths)):
        taken = sum(widths[i] + GAP for i in (*tables[-1], index))
        if taken > width and len(tables[-1]) > 1:
            tables.append([0])
        tables[-1].append(index)
    return tables


def table_markdown(results: Results, made: HowMade | None = None) -> str:
    """The table with its notes, then how it was made."""
    table, figures, costs = results.table, results.figures, results.costs
    headers = _headers(table, costs)
    lines = [f"### {_literal(table.title)}", ""] if table.title else []
    lines.append("| " + " | ".join(map(_literal, headers)) + " |")
    lines.append("|" + "|".join(" --- " if index == 0 else " ---: " for index in range(len(headers))) + "|")
    lines += ["| " + " | ".join([_literal(label), *cells]) + " |" for label, *cells in _cells(table, figures, costs)]
    lines += _stage_costs(costs)
    below = _lines(results)
    lines += [*([""] if below else []), *(f"- {line}" for line in below)]
    if made is not None:
        lines += ["", "#### How it was made", "", *(f"- {line}" for line in how_made_lines(made))]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """`text` with Markdown's special characters escaped: a label with a bar would be two cells."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", visible(text).replace("\n", " "))


def table_json(results: Results, made: HowMade | None = None) -> dict[str, Any]:
    table, figures, costs = results.table, results.figures, results.costs
    rows = []
    for row in table.rows:
        columns = {}
        for column in table.columns:
            figure = figures[row.label][column]
            columns[column] = {
                "mean": figure.mean,
                "runs": figure.runs,
                "missing": figure.missing,
                "stale": figure.stale,
                "made": len(figure.runs),
                "planned": figure.planned,
            }
        published = None
        if row.published is not None:
            published = {
                "value": row.published.value,
                "column": row.published.column,
                "source": row.published.source,
                "difference": _difference(row, figures),
            }
        cost = costs[row.label]
        record = {"label": row.label, "ours": columns, "published": published}
        rows.append(record | ({"cost": asdict(cost)} if cost else {}))
    return {
        "title": table.title,
        "metric": table.metric,
        "unit": "percent",
        "rows": rows,
        "order": [sentence for column in table.columns if (sentence := order_sentence(table, figures, column))],
        **({"equality": asdict(results.equality)} if results.equality else {}),
        "notes": table.notes,
        **({"how_made": asdict(made)} if made else {}),
    }


def _headers(table: Table, costs: Costs) -> list[str]:
    headers = [table.metric.replace("_", " ").replace("iou", "IoU"), *table.columns]
    if any(row.published for row in table.rows):
        headers += ["published", "difference"]
    return headers + [header for header, _, _ in _cost_columns(costs)]


def _cost_columns(costs: Costs) -> list[tuple[str, str, str]]:
    """Header, field and format of the columns that have a value in at least one row."""
    known = [cost for cost in costs.values() if cost]
    return [column for column in COST_COLUMNS if any(getattr(cost, column[1]) is not None for cost in known)]


def _stage_costs(costs: Costs) -> list[str]:
    """Markdown: seconds and MiB of each stage of each row's runs; [] where no run has more than one stage."""
    known = {label: cost for label, cost in costs.items() if cost and len(cost.stages) > 1}
    stages = list(dict.fromkeys(stage for cost in known.values() for stage in cost.stages))
    if not stages:
        return []
    rows = []
    for label, cost in known.items():
        found = (cost.stages.get(stage) for stage in stages)
        cells = ["-" if one is None else f"{one.seconds:.0f} s, {one.disk_mib:.1f} MiB" for one in found]
        rows.append(f"| {_literal(label)} | {' | '.join(cells)} |")
    return ["", f"| stage by stage | {' | '.join(stages)} |", "| --- |" + " ---: |" * len(stages), *rows]


def _cost_cell(cost: Cost | None, name: str, form: str) -> str:
    value = getattr(cost, name) if cost else None
    return "-" if value is None else form.format(value) + (STALE if cost and cost.stale else "")


def _cells(table: Table, figures: Figures, costs: Costs) -> list[list[str]]:
    published_columns = any(row.published for row in table.rows)
    rows = []
    for row in table.rows:
        cells = [row.label, *(_figure(figures[row.label][column]) for column in table.columns)]
        if published_columns:
            difference = _difference(row, figures)
            cells.append("-" if row.published is None else f"{row.published.value:.1f}")
            cells.append("-" if difference is None else f"{difference:+.1f}{_stale_mark(row, figures)}")
        cells += [_cost_cell(costs[row.label], name, form) for _, name, form in _cost_columns(costs)]
        rows.append(cells)
    return rows


def _figure(figure: Figure) -> str:
    """53.0; 53.0 (50.0-56.0); 53.0 (1 of 2 runs); 53.0* where a run is stale."""
    if figure.mean is None:
        return "-"
    text = f"{figure.mean:.1f}{STALE if figure.stale else ''}"
    about = [f"{figure.spread[0]:.1f}-{figure.spread[1]:.1f}"] if figure.spread else []
    about += [f"{len(figure.runs)} of {figure.planned} runs"] if figure.missing else []
    return f"{text} ({'; '.join(about)})" if about else text


def _difference(row: Row, figures: Figures) -> float | None:
    if row.published is None:
        return None
    ours = figures[row.label][row.published.column].mean
    return None if ours is None else ours - row.published.value


def _stale_mark(row: Row, figures: Figures) -> str:
    return STALE if row.published and figures[row.label][row.published.column].stale else ""


def _lines(results: Results) -> list[str]:
    table, figures = results.table, results.figures
    lines = [*_runs_line(results), *_stale_line(results), *_cost_line(results)]
    lines += [sentence for column in table.columns if (sentence := order_sentence(table, figures, column))]
    lines += [results.equality.sentence] if results.equality else []
    if table.order and table.order_source:
        lines.append(f"The paper's order: {' > '.join(table.order)} ({table.order_source}).")
    for source in dict.fromkeys(row.published.source for row in table.rows if row.published):
        lines.append(f"Published: {source}.")
    missing = sorted({name for figure in results.cells for name in figure.missing})
    if missing:
        more = f" and {len(missing) - NAMED} more (semiseg status)" if len(missing) > NAMED else ""
        lines.append(f"Not made yet: {', '.join(missing[:NAMED])}{more}.")
    return lines + table.notes


def _runs_line(results: Results) -> list[str]:
    """How many runs a figure is the mean of; figures of fewer runs than planned are marked in the table."""
    numbers = sorted({figure.planned for figure in results.cells if figure.runs})
    if not numbers:
        return []
    if numbers == [1]:
        return ["Ours: one run per figure, in percent; the spread between runs is not known."]
    return [f"Ours: mean of {' or '.join(map(str, numbers))} runs (lowest-highest), in percent."]


def _stale_line(results: Results) -> list[str]:
    costs = any(cost and cost.stale for cost in results.costs.values())
    if not costs and not any(figure.stale for figure in results.cells):
        return []
    return [
        f"{STALE} made with different settings, inputs or versions than a run would use now: semiseg status lists them."
    ]


def _cost_line(results: Results) -> list[str]:
    if not any(results.costs.values()):
        return []
    seconds = (
        "Seconds a run: all stages that make one run's segmenter, a teacher's training and predictions included; "
        "a mean over the row's runs."
    )
    if any(cost and cost.steps for cost in results.costs.values()):
        seconds += " Steps and images: of all trainings among them, an image as often as it is seen."
    if not any(cost and cost.images_per_second for cost in results.costs.values()):
        return [seconds]
    return [
        f"{seconds} steps/s and images/s: of the run's last training. Every image of a step's batch counts, labelled "
        "or not: rows with batches of different sizes compare by steps/s."
    ]
