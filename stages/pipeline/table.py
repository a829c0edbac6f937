"""The results table of a recipe: rows of metrics, repeated over seeds, next to published figures.

table:
  title: Table 1
  metric: mean_iou
  columns: [without CRF, with CRF]
  order: [dual branch, strong only, mixed]         # best first, as published
  order_source: "where the order comes from"
  equal: [strong only, mixed]                      # two rows that must be equal; the report checks it
  notes: ["shown below the table"]
  rows:
    - label: strong only
      nodes: {without CRF: "evaluate-strong-s{seed}", with CRF: "evaluate-strong-crf-s{seed}"}
      published: {value: 68.9, column: without CRF, source: "..."}
      costs: ["train-strong-s{seed}"]              # shown: steps, speed, memory and time of these nodes

`costs: {up_to: "train-strong-s{seed}"}` names this node and all that it was made from, without data sets.

A column or label that refers to a repeated value makes one column or row for each value; the nodes of a row are
averaged over the values that neither its label nor the column fixes. With `plot` the columns become points over that
value:

  columns: ["{labelled} labels"]
  plot: {over: labelled, column: "{labelled} labels", label: labelled images, note: "points: last weights"}
  rows:
    - label: "{method}"
      nodes: {"{labelled} labels": "evaluate-{method}-n{labelled}-s{seed}"}

`plot: {panels: [COLUMN, ...]}` draws a panel for each of these columns instead, with the rows below each other. A
column of a repeated value stands for one column for each value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from artifacts.text import did_you_mean
from stages.pipeline.graph import topological_order, upstream
from stages.pipeline.parameters import fill_repeated, repeated_in

LEFT_OUT = "nothing"  # the kind of a node that is not made
_TABLE_KEYS = ("title", "metric", "columns", "rows", "order", "order_source", "notes", "plot", "equal")
_ROW_KEYS = ("label", "nodes", "published", "costs")
_PLOT_KEYS = ("over", "column", "label")  # and note
_PUBLISHED_KEYS = ("value", "column", "source")


@dataclass(frozen=True)
class Published:
    """A figure from a paper, in percent, for one column."""

    value: float
    column: str
    source: str


@dataclass(frozen=True)
class Row:
    label: str
    nodes: dict[str, list[str]]  # column -> the nodes whose metric is averaged
    published: Published | None
    costs: list[list[str]] = field(default_factory=list)  # the nodes of each run whose cost is shown


@dataclass(frozen=True)
class Plot:
    """Figures over a repeated value: one line for each row, one point for each column.

    With `panels`: one panel for each column, one point for each row.
    """

    label: str
    points: dict[str, str]  # column -> its value, or with panels its title, as text
    note: str = ""  # what the points mean
    panels: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    metric: str
    columns: list[str]
    rows: list[Row]
    order: list[str] = field(default_factory=list)
    order_source: str = ""
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None
    equal: list[str] = field(default_factory=list)  # labels of two rows that must be equal, or none


def read_table(
    values: Mapping[str, Any],
    repeat: Mapping[str, list[Any]],
    kinds: Mapping[str, str | None],
    add_mistake: Callable[[str, str], None],
    reads: Mapping[str, Iterable[str]] | None = None,
) -> Table:
    """The table of a recipe; mistakes are passed to `add_mistake`.

    `kinds` gives the kind of artifact every node makes, None if the node itself has a mistake; LEFT_OUT: the table has
    nothing for it. `reads` gives the nodes that each node reads.
    """
    for key in values:
        if key not in _TABLE_KEYS:
            add_mistake(f"table.{key}", f"unknown key; known: {', '.join(_TABLE_KEYS)}")
    columns = [name for column in values.get("columns") or [] for name in _expanded(str(column), repeat)]
    rows = []
    for index, row in enumerate(values.get("rows") or []):
        place = f"table.rows.{index}"
        if not isinstance(row, Mapping) or not isinstance(row.get("nodes"), Mapping) or "label" not in row:
            add_mistake(place, "expected label and nodes: {column: node}")
            continue
        for key in row:
            if key not in _ROW_KEYS:
                add_mistake(f"{place}.{key}", f"unknown key; known: {', '.join(_ROW_KEYS)}")
        for chosen in _choices(str(row["label"]), repeat):
            rows.append(_row(row, chosen, columns, repeat, kinds, reads or {}, place, add_mistake))
    labels = [row.label for row in rows]
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        add_mistake("table.rows", f"{labels.count(label)} rows are called {label!r}; give each its own label")
    order = [str(label) for label in values.get("order") or []]
    equal = [str(label) for label in values.get("equal") or []]
    for key, named in (("order", order), ("equal", equal)):
        for label in named:
            if label not in labels:
                add_mistake(f"table.{key}", f"there is no row {label!r}; rows: {', '.join(labels)}")
    if len(equal) not in (0, 2):
        add_mistake("table.equal", f"expected the labels of two rows, found {len(equal)}")
    return Table(
        title=str(values.get("title", "")),
        metric=str(values.get("metric", "mean_iou")),
        columns=columns,
        rows=rows,
        order=order,
        order_source=str(values.get("order_source", "")),
        notes=[str(note) for note in values.get("notes") or []],
        plot=_plot(values.get("plot"), repeat, columns, add_mistake),
        equal=equal,
    )


def figures_planned(values: Mapping[str, Any], repeat: Mapping[str, list[Any]]) -> int:
    """The number of nodes whose figures are in the table."""
    count = 0
    for row in values.get("rows") or []:
        if isinstance(row, Mapping) and isinstance(row.get("nodes"), Mapping):
            for column, pattern in row["nodes"].items():
                count += len(_choices(f"{row.get('label')} {column} {pattern}", repeat))
    return count


def _row(
    row: Mapping[str, Any],
    chosen: Mapping[str, Any],
    columns: list[str],
    repeat: Mapping[str, list[Any]],
    kinds: Mapping[str, str | None],
    reads: Mapping[str, Iterable[str]],
    place: str,
    add_mistake: Callable[[str, str], None],
) -> Row:
    """The row for the repeated values that its label fixes."""
    nodes: dict[str, list[str]] = {}
    for column, pattern in row["nodes"].items():
        for fixed in _choices(str(column), repeat):
            name = _filled(str(column), fixed)
            if name not in columns:
                add_mistake(f"{place}.nodes.{column}", f"no such column; columns: {', '.join(columns)}")
            named = _expanded(_filled(str(pattern), {**chosen, **fixed}), repeat)
            nodes[name] = [node for node in named if kinds.get(node) != LEFT_OUT]
            for node in nodes[name]:
                if node not in kinds:
                    meant = did_you_mean(node, kinds, list_known=False)
                    add_mistake(f"{place}.nodes.{column}", f"there is no node {node!r}{meant}")
                elif kinds[node] not in ("metrics", None):
                    add_mistake(f"{place}.nodes.{column}", f"node {node!r} makes {kinds[node]}, expected metrics")
    costs = row.get("costs") or []
    if whole := isinstance(costs, Mapping) and costs.keys() == {"up_to"}:
        costs = [costs["up_to"]]
    runs = _runs(costs, chosen, repeat, kinds, f"{place}.costs", add_mistake)
    if whole:
        runs = [[*_made_from(run[0], kinds, reads), *run] for run in runs]
    published = _published(row.get("published"), columns, place, add_mistake)
    return Row(_filled(str(row["label"]), chosen), nodes, published, runs)


def _runs(
    costs: Any,
    chosen: Mapping[str, Any],
    repeat: Mapping[str, list[Any]],
    kinds: Mapping[str, str | None],
    place: str,
    add_mistake: Callable[[str, str], None],
) -> list[list[str]]:
    """The nodes of each run; a node that does not depend on a repeated value (a teacher's) is part of all runs."""
    if not isinstance(costs, list):
        add_mistake(place, f"expected a list of nodes, or up_to: NODE, found {costs!r}")
        return []
    patterns = [_filled(str(pattern), chosen) for pattern in costs]
    together = _choices(" ".join(patterns), repeat) if patterns else []
    named = [[_filled(pattern, values) for pattern in patterns] for values in together]
    runs = [[node for node in run if kinds.get(node) != LEFT_OUT] for run in named]
    for node in dict.fromkeys(node for run in runs for node in run):
        if node not in kinds:
            add_mistake(place, f"there is no node {node!r}{did_you_mean(node, kinds, list_known=False)}")
    return runs


def _made_from(node: str, kinds: Mapping[str, str | None], reads: Mapping[str, Iterable[str]]) -> list[str]:
    """What `node` was made from, directly or not, without data sets; in an order that can run."""
    found = upstream(reads, node)
    order = topological_order({name: sources for name, sources in reads.items() if name in found})
    return [name for name in order if kinds.get(name) != "dataset"]


def _plot(
    value: Any, repeat: Mapping[str, list[Any]], columns: list[str], add_mistake: Callable[[str, str], None]
) -> Plot | None:
    if value is None:
        return None
    if isinstance(value, Mapping) and "panels" in value:
        if set(value) - {"note", "panels"} or not isinstance(value["panels"], list) or not value["panels"]:
            add_mistake("table.plot", "expected panels: [COLUMN, ...], and note")
            return None
        points = {name: name for column in value["panels"] for name in _expanded(str(column), repeat)}
        _check_points(points, "panels", columns, add_mistake)
        return Plot("", points, str(value.get("note", "")), panels=True)
    if not isinstance(value, Mapping) or set(value) - {"note"} != set(_PLOT_KEYS) or str(value["over"]) not in repeat:
        known = ", ".join(repeat) or "nothing, no value is repeated"
        add_mistake("table.plot", f"expected {', '.join(_PLOT_KEYS)}; over: one of {known}")
        return None
    over, pattern = str(value["over"]), str(value["column"])
    points = {_filled(pattern, {over: x}): str(x) for x in repeat[over]}
    if over not in repeated_in(pattern):
        add_mistake("table.plot.column", f"{pattern!r} does not refer to {{{over}}}, so all points would be the same")
    _check_points(points, "column", columns, add_mistake)
    return Plot(str(value["label"]), points, str(value.get("note", "")))


def _check_points(
    points: Mapping[str, str], key: str, columns: list[str], add_mistake: Callable[[str, str], None]
) -> None:
    if unknown := [column for column in points if column not in columns]:
        add_mistake(f"table.plot.{key}", f"no such column: {', '.join(unknown)}; columns: {', '.join(columns)}")


def _choices(text: str, repeat: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the repeated values that `text` refers to."""
    named = repeated_in(text)
    used = [name for name in repeat if name in named]
    return [dict(zip(used, values, strict=True)) for values in itertools.product(*(repeat[name] for name in used))]


def _filled(text: str, chosen: Mapping[str, Any]) -> str:
    return str(fill_repeated(text, chosen))


def _expanded(pattern: str, repeat: Mapping[str, list[Any]]) -> list[str]:
    """Every node name that `pattern` refers to."""
    return [_filled(pattern, chosen) for chosen in _choices(pattern, repeat)]


def _published(value: Any, columns: list[str], place: str, add_mistake: Callable[[str, str], None]) -> Published | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not {"value", "source"} <= set(value) or set(value) - set(_PUBLISHED_KEYS):
        add_mistake(f"{place}.published", f"expected {', '.join(_PUBLISHED_KEYS)}")
        return None
    column = str(value.get("column", columns[0] if columns else ""))
    if column not in columns:
        add_mistake(f"{place}.published.column", f"no such column {column!r}; columns: {', '.join(columns)}")
    return Published(float(value["value"]), column, str(value["source"]))
