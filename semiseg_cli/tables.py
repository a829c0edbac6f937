"""The results table of a recipe, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import rich.table

from artifacts.store import Workspace
from semiseg_cli.console import plain_table
from stages.pipeline.table import Cost, Figure, Row, Table, order_sentence, row_cost, table_figures

GAP = 3  # spaces between columns of a terminal's table

Figures = dict[str, dict[str, Figure]]
Costs = dict[str, Cost | None]


def table_text(table: Table, workspace: Workspace, width: int) -> tuple[list[rich.table.Table], list[str]]:
    """The table for a terminal of `width` characters, and the lines that belong below it.

    Where the columns do not fit beside each other without breaking a figure, several tables stand below each other.
    """
    figures, costs = table_figures(table, workspace), _costs(table, workspace)
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
    return parts, _lines(table, figures)


def _beside(widths: list[int], width: int) -> list[list[int]]:
    """Which columns stand in one table: as many as fit, the first one (the row's label) in each."""
    tables = [[0]]
    for index in range(1, len(widths)):
        taken = sum(widths[i] + GAP for i in (*tables[-1], index))
        if taken > width and len(tables[-1]) > 1:
            tables.append([0])
        tables[-1].append(index)
    return tables


def table_markdown(table: Table, workspace: Workspace) -> str:
    figures, costs = table_figures(table, workspace), _costs(table, workspace)
    headers = _headers(table, costs)
    lines = [f"### {table.title}", ""] if table.title else []
    lines.append("| " + " | ".join(headers) + " |")
    lines.append("|" + "|".join(" --- " if index == 0 else " ---: " for index in range(len(headers))) + "|")
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(table, figures, costs)]
    below = _lines(table, figures)
    return "\n".join([*lines, *([""] if below else []), *(f"- {line}" for line in below)]) + "\n"


def table_json(table: Table, workspace: Workspace) -> dict[str, Any]:
    figures, costs = table_figures(table, workspace), _costs(table, workspace)
    rows = []
    for row in table.rows:
        columns = {}
        for column in table.columns:
            figure = figures[row.label][column]
            columns[column] = {"mean": figure.mean, "runs": figure.runs, "missing": figure.missing}
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
        "notes": table.notes,
    }


def _costs(table: Table, workspace: Workspace) -> Costs:
    return {row.label: row_cost(row, workspace) for row in table.rows}


def _headers(table: Table, costs: Costs) -> list[str]:
    headers = [table.metric.replace("_", " ").replace("iou", "IoU"), *table.columns]
    if any(row.published for row in table.rows):
        headers += ["published", "difference"]
    if any(costs.values()):
        headers += ["images/s", "seconds a run"]
    if _with_memory(costs):
        headers.append("peak MiB")
    return headers


def _with_memory(costs: Costs) -> bool:
    return any(cost and cost.peak_memory_mib for cost in costs.values())


def _cost_cells(cost: Cost | None, with_memory: bool) -> list[str]:
    values = [cost.images_per_second, cost.seconds, cost.peak_memory_mib] if cost else [None] * 3
    formats = ("{:.1f}", "{:.0f}", "{:.0f}")
    cells = ["-" if value is None else form.format(value) for form, value in zip(formats, values, strict=True)]
    return cells if with_memory else cells[:2]


def _cells(table: Table, figures: Figures, costs: Costs) -> list[list[str]]:
    published_columns = any(row.published for row in table.rows)
    rows = []
    for row in table.rows:
        cells = [row.label, *(_figure(figures[row.label][column]) for column in table.columns)]
        if published_columns:
            difference = _difference(row, figures)
            cells.append("-" if row.published is None else f"{row.published.value:.1f}")
            cells.append("-" if difference is None else f"{difference:+.1f}")
        if any(costs.values()):
            cells += _cost_cells(costs[row.label], _with_memory(costs))
        rows.append(cells)
    return rows


def _figure(figure: Figure) -> str:
    if figure.mean is None:
        return "-"
    if figure.spread is None:
        return f"{figure.mean:.1f}"
    low, high = figure.spread
    return f"{figure.mean:.1f} ({low:.1f}-{high:.1f})"


def _difference(row: Row, figures: Figures) -> float | None:
    if row.published is None:
        return None
    ours = figures[row.label][row.published.column].mean
    return None if ours is None else ours - row.published.value


def _lines(table: Table, figures: Figures) -> list[str]:
    lines = []
    runs = max((len(f.runs) for columns in figures.values() for f in columns.values()), default=0)
    if runs > 1:
        lines.append(f"Ours: mean of {runs} seeds (lowest-highest), in percent.")
    lines += [sentence for column in table.columns if (sentence := order_sentence(table, figures, column))]
    if table.order and table.order_source:
        lines.append(f"The paper's order: {' > '.join(table.order)} ({table.order_source}).")
    for source in dict.fromkeys(row.published.source for row in table.rows if row.published):
        lines.append(f"Published: {source}.")
    missing = sorted({name for columns in figures.values() for f in columns.values() for name in f.missing})
    if missing:
        lines.append(f"Not made yet: {', '.join(missing)}.")
    return lines + table.notes
