"""The results table of a recipe: rows of metrics, repeated over seeds, beside published figures.

table:
  title: Table 1
  metric: mean_iou
  columns: [without CRF, with CRF]
  order: [dual branch, strong only, mixed]         # best first, as published
  order_source: "where the order comes from"
  notes: ["shown below the table"]
  rows:
    - label: strong only
      nodes: {without CRF: "evaluate-strong-s{seed}", with CRF: "evaluate-strong-crf-s{seed}"}
      published: {value: 68.9, column: without CRF, source: "..."}
"""

from __future__ import annotations

import difflib
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from artifacts.errors import ArtifactError
from artifacts.store import Workspace

_TABLE_KEYS = ("title", "metric", "columns", "rows", "order", "order_source", "notes")
_ROW_KEYS = ("label", "nodes", "published")
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


@dataclass(frozen=True)
class Table:
    title: str
    metric: str
    columns: list[str]
    rows: list[Row]
    order: list[str] = field(default_factory=list)
    order_source: str = ""
    notes: list[str] = field(default_factory=list)


def read_table(
    values: Mapping[str, Any],
    repeat: Mapping[str, list[Any]],
    kinds: Mapping[str, str | None],
    add_mistake: Callable[[str, str], None],
) -> Table:
    """The table of a recipe; mistakes go to `add_mistake`.

    `kinds` gives the kind of artifact every node makes, None where the node itself has a mistake.
    """
    for key in values:
        if key not in _TABLE_KEYS:
            add_mistake(f"table.{key}", f"unknown key; known: {', '.join(_TABLE_KEYS)}")
    columns = [str(column) for column in values.get("columns") or []]
    rows = []
    for index, row in enumerate(values.get("rows") or []):
        place = f"table.rows.{index}"
        if not isinstance(row, Mapping) or not isinstance(row.get("nodes"), Mapping) or "label" not in row:
            add_mistake(place, "expected label and nodes: {column: node}")
            continue
        for key in row:
            if key not in _ROW_KEYS:
                add_mistake(f"{place}.{key}", f"unknown key; known: {', '.join(_ROW_KEYS)}")
        nodes = {}
        for column, pattern in row["nodes"].items():
            if column not in columns:
                add_mistake(f"{place}.nodes.{column}", f"no such column; columns: {', '.join(columns)}")
            nodes[str(column)] = _expanded(str(pattern), repeat)
            for name in nodes[str(column)]:
                if name not in kinds:
                    add_mistake(f"{place}.nodes.{column}", f"there is no node {name!r}{_meant(name, kinds)}")
                elif kinds[name] not in ("metrics", None):
                    add_mistake(f"{place}.nodes.{column}", f"node {name!r} makes {kinds[name]}, expected metrics")
        rows.append(Row(str(row["label"]), nodes, _published(row.get("published"), columns, place, add_mistake)))
    labels = [row.label for row in rows]
    order = [str(label) for label in values.get("order") or []]
    for label in order:
        if label not in labels:
            add_mistake("table.order", f"there is no row {label!r}; rows: {', '.join(labels)}")
    return Table(
        title=str(values.get("title", "")),
        metric=str(values.get("metric", "mean_iou")),
        columns=columns,
        rows=rows,
        order=order,
        order_source=str(values.get("order_source", "")),
        notes=[str(note) for note in values.get("notes") or []],
    )


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _expanded(pattern: str, repeat: Mapping[str, list[Any]]) -> list[str]:
    """Every node name that `pattern` stands for."""
    used = [name for name in repeat if f"{{{name}}}" in pattern]
    names = []
    for values in itertools.product(*(repeat[name] for name in used)):
        name = pattern
        for key, value in zip(used, values, strict=True):
            name = name.replace(f"{{{key}}}", str(value))
        names.append(name)
    return names


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


@dataclass(frozen=True)
class Figure:
    """Ours for one row and column, in percent: the mean over runs, and the runs."""

    runs: dict[str, float]  # node -> value
    missing: list[str]  # nodes without a result

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.runs.values()) if self.runs else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Smallest and largest run; None with fewer than two runs."""
        return (min(self.runs.values()), max(self.runs.values())) if len(self.runs) > 1 else None


def table_figures(table: Table, workspace: Workspace) -> dict[str, dict[str, Figure]]:
    """Ours by row label and column, read from the metrics artifacts of the workspace."""
    return {
        row.label: {column: _figure(row.nodes.get(column, []), table.metric, workspace) for column in table.columns}
        for row in table.rows
    }


def _figure(nodes: list[str], metric: str, workspace: Workspace) -> Figure:
    runs, missing = {}, []
    for name in nodes:
        try:
            value = workspace.artifact(name).summary.get(metric)
        except ArtifactError:
            value = None
        if isinstance(value, (int, float)):
            runs[name] = 100.0 * value
        else:
            missing.append(name)
    return Figure(runs, missing)


def order_sentence(table: Table, figures: Mapping[str, Mapping[str, Figure]], column: str) -> str | None:
    """One sentence: our order of the rows in this column against the published one. None when there is none."""
    if len(table.order) < 2:
        return None
    means = {label: figures[label][column].mean for label in table.order}
    values = {label: mean for label, mean in means.items() if mean is not None}
    if absent := [label for label in table.order if label not in values]:
        return f"Order of the rows ({column}): not yet known, {', '.join(absent)} missing."
    shares = {label: round(value, 1) for label, value in values.items()}  # as they are shown
    ours = sorted(table.order, key=lambda label: -shares[label])
    shown = " > ".join(f"{label} {shares[label]:.1f}" for label in ours)
    pairs = list(itertools.combinations(table.order, 2))
    swapped = [f"{low} is above {high}" for high, low in pairs if shares[low] > shares[high]]
    level = [f"{high} and {low} are level" for high, low in pairs if shares[low] == shares[high]]
    if swapped:
        verdict = f"not the paper's order: {'; '.join([*swapped, *level])}"
    elif level:
        verdict = f"not against the paper's order, but {'; '.join(level)}"
    else:
        verdict = "the paper's order"
    close = [
        f"{first} and {second}"
        for first, second in itertools.pairwise(ours)
        if _overlap(figures[first][column], figures[second][column])
    ]
    overlap = f" (the runs of {', '.join(close)} overlap)" if close else ""
    return f"Order of the rows ({column}): {shown}: {verdict}{overlap}."


def _overlap(first: Figure, second: Figure) -> bool:
    return bool(first.spread and second.spread and first.spread[0] <= second.spread[1])
