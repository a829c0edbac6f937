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
      costs: ["train-strong-s{seed}"]              # shown: images/s, memory and time of these nodes

A column or label that refers to a repeated value stands for one column or row a value; the nodes of a row are averaged
over the values that neither its label nor the column has fixed. With `plot` the columns become points over that value:

  columns: ["{labelled} labels"]
  plot: {over: labelled, column: "{labelled} labels", label: labelled pictures}
  rows:
    - label: "{method}"
      nodes: {"{labelled} labels": "evaluate-{method}-n{labelled}-s{seed}"}
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

_TABLE_KEYS = ("title", "metric", "columns", "rows", "order", "order_source", "notes", "plot")
_ROW_KEYS = ("label", "nodes", "published", "costs")
_PLOT_KEYS = ("over", "column", "label")
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
    """Figures over a repeated value: a line a row, a point a column."""

    label: str
    points: dict[str, str]  # column -> the value it stands for, as text


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
            rows.append(_row(row, chosen, columns, repeat, kinds, place, add_mistake))
    labels = [row.label for row in rows]
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        add_mistake("table.rows", f"{labels.count(label)} rows are called {label!r}; each needs a label of its own")
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
        plot=_plot(values.get("plot"), repeat, columns, add_mistake),
    )


def _row(
    row: Mapping[str, Any],
    chosen: Mapping[str, Any],
    columns: list[str],
    repeat: Mapping[str, list[Any]],
    kinds: Mapping[str, str | None],
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
            nodes[name] = _expanded(_filled(str(pattern), {**chosen, **fixed}), repeat)
            for node in nodes[name]:
                if node not in kinds:
                    add_mistake(f"{place}.nodes.{column}", f"there is no node {node!r}{_meant(node, kinds)}")
                elif kinds[node] not in ("metrics", None):
                    add_mistake(f"{place}.nodes.{column}", f"node {node!r} makes {kinds[node]}, expected metrics")
    runs = _runs(row.get("costs") or [], chosen, repeat, kinds, f"{place}.costs", add_mistake)
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
    """The nodes of each run; one that does not depend on a repeated value (a teacher's) is part of all its runs."""
    if not isinstance(costs, list):
        add_mistake(place, f"expected a list of nodes, found {costs!r}")
        return []
    patterns = [_filled(str(pattern), chosen) for pattern in costs]
    together = _choices(" ".join(patterns), repeat) if patterns else []
    runs = [[_filled(pattern, values) for pattern in patterns] for values in together]
    for node in dict.fromkeys(node for run in runs for node in run):
        if node not in kinds:
            add_mistake(place, f"there is no node {node!r}{_meant(node, kinds)}")
    return runs


def _plot(
    value: Any, repeat: Mapping[str, list[Any]], columns: list[str], add_mistake: Callable[[str, str], None]
) -> Plot | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != set(_PLOT_KEYS) or str(value["over"]) not in repeat:
        known = ", ".join(repeat) or "nothing, no value is repeated"
        add_mistake("table.plot", f"expected {', '.join(_PLOT_KEYS)}; over: one of {known}")
        return None
    over, pattern = str(value["over"]), str(value["column"])
    points = {_filled(pattern, {over: x}): str(x) for x in repeat[over]}
    if f"{{{over}}}" not in pattern:
        add_mistake("table.plot.column", f"{pattern!r} does not refer to {{{over}}}, so all points would be one")
    if unknown := [column for column in points if column not in columns]:
        add_mistake("table.plot.column", f"no such column: {', '.join(unknown)}; columns: {', '.join(columns)}")
    return Plot(str(value["label"]), points)


def _choices(text: str, repeat: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the repeated values that `text` refers to."""
    used = [name for name in repeat if f"{{{name}}}" in text]
    return [dict(zip(used, values, strict=True)) for values in itertools.product(*(repeat[name] for name in used))]


def _filled(text: str, chosen: Mapping[str, Any]) -> str:
    for key, value in chosen.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _expanded(pattern: str, repeat: Mapping[str, list[Any]]) -> list[str]:
    """Every node name that `pattern` stands for."""
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


@dataclass(frozen=True)
class Cost:
    """What the runs of a row cost, as means over those that are there.

    Attributes:
        seconds: of all nodes of a run together.
        images_per_second: of the last node of a run (the training that gives the result).
        peak_memory_mib: the highest of a run's nodes: of tensors on a GPU, of the process on a CPU. None: not known.
    """

    seconds: float
    images_per_second: float | None
    peak_memory_mib: float | None


def row_cost(row: Row, workspace: Workspace) -> Cost | None:
    """None where no run of the row is whole yet, or the row names no nodes."""
    runs = []
    for names in row.costs:
        try:
            runs.append([workspace.artifact(name).manifest for name in names])
        except ArtifactError:
            continue
    if not runs:
        return None

    def mean(values: Iterable[Any]) -> float | None:
        known = [float(value) for value in values if value is not None]
        return statistics.fmean(known) if known else None

    memory = [[m.summary["peak_memory_mib"] for m in run if m.summary.get("peak_memory_mib")] for run in runs]
    return Cost(
        seconds=statistics.fmean(sum(manifest.seconds for manifest in run) for run in runs),
        images_per_second=mean(run[-1].summary.get("images_per_second") for run in runs),
        peak_memory_mib=mean(max(values) if values else None for values in memory),
    )


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
