"""The results table of a recipe, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import rich.table

from artifacts.text import visible
from semiseg_cli.console import plain_table
from stages.report.figures import Results, order_sentence
from stages.report.how_made import HowMade, how_made_lines
from stages.report.table_cells import Costs, cells_of, difference_of, headers_of, lines_below

GAP = 3  # spaces between columns of a terminal's table


def table_text(results: Results, width: int) -> tuple[list[rich.table.Table], list[str]]:
    """The table for a terminal of `width` characters, and the lines below it.

    If the columns do not fit next to each other without breaking a figure, several tables follow each other.
    """
    table, figures, costs = results.table, results.figures, results.costs
    columns = list(zip(headers_of(table, costs), *cells_of(table, figures, costs), strict=True))
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
    return parts, lines_below(results)


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
    headers = headers_of(table, costs)
    lines = [f"### {_literal(table.title)}", ""] if table.title else []
    lines.append("| " + " | ".join(map(_literal, headers)) + " |")
    lines.append("|" + "|".join(" --- " if index == 0 else " ---: " for index in range(len(headers))) + "|")
    lines += ["| " + " | ".join([_literal(label), *cells]) + " |" for label, *cells in cells_of(table, figures, costs)]
    lines += _stage_costs(costs)
    below = lines_below(results)
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
                "difference": difference_of(row, figures),
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
