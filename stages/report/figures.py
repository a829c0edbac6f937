"""The figures of a recipe's table in a workspace: those of its rows, their costs, and conclusions from them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from artifacts.errors import ArtifactError
from artifacts.manifest import Manifest
from artifacts.store import Workspace
from artifacts.text import amount
from stages.pipeline.status import FRESH, State
from stages.pipeline.table import Row, Table


@dataclass(frozen=True)
class Figure:
    """Our figure for one row and column, in percent: the mean over runs, and the runs."""

    runs: dict[str, float]  # node -> value
    missing: list[str]  # nodes without a result
    stale: list[str] = field(default_factory=list)  # nodes of `runs` that are not fresh

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.runs.values()) if self.runs else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Smallest and largest run; None with fewer than two runs."""
        return (min(self.runs.values()), max(self.runs.values())) if len(self.runs) > 1 else None

    @property
    def planned(self) -> int:
        return len(self.runs) + len(self.missing)


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run took, and wrote: means over the finished runs."""

    seconds: float
    disk_mib: float


@dataclass(frozen=True)
class Cost:
    """The cost of a row's runs, as means over the finished ones.

    Attributes:
        seconds: of all nodes of a run together.
        images_per_second: of the last node of a run (the training that gives the result).
        peak_memory_mib: the maximum over a run's nodes: tensors on a GPU, the process on a CPU. None: not known.
        steps_per_second: of the last node of a run. For rows with different numbers of images in a step.
        disk_mib: of the artifacts of all nodes of a run together.
        stages: time and size of each node of a run, by its stage; a stage that several nodes share is their sum.
        stale: whether one of the nodes is not fresh.
        steps, images: of all trainings of a run together; an image counts as often as it is seen. None: not known.
    """

    seconds: float
    images_per_second: float | None
    peak_memory_mib: float | None
    steps_per_second: float | None = None
    disk_mib: float = 0.0
    stages: dict[str, StageCost] = field(default_factory=dict)
    stale: bool = False
    steps: float | None = None
    images: float | None = None


Figures = Mapping[str, Mapping[str, Figure]]  # row label -> column


@dataclass(frozen=True)
class Equality:
    """Whether two rows that must be equal are equal, run by run.

    Attributes:
        rows: their labels.
        compared: finished pairs of runs with the recipe's present settings, in all columns.
        planned: pairs of runs in the recipe.
        difference: the largest one of the table's metric, in percent; None if nothing could be compared.
        sentence: the result in words.
    """

    rows: tuple[str, str]
    compared: int
    planned: int
    difference: float | None
    sentence: str


@dataclass(frozen=True)
class Results:
    """A table with its figures in a workspace, read once."""

    table: Table
    figures: dict[str, dict[str, Figure]]
    costs: dict[str, Cost | None]
    equality: Equality | None = None

    @property
    def cells(self) -> list[Figure]:
        return [figure for columns in self.figures.values() for figure in columns.values()]


def read_results(table: Table, workspace: Workspace, stale: Collection[str] = ()) -> Results:
    """The results of the workspace; `stale` names the artifacts that are not fresh (`not_fresh`)."""
    figures = {
        row.label: {
            column: _figure(row.nodes.get(column, []), table.metric, workspace, stale) for column in table.columns
        }
        for row in table.rows
    }
    costs = {row.label: row_cost(row, workspace, stale) for row in table.rows}
    return Results(table, figures, costs, _equality(table, workspace, stale))


def not_fresh(states: Iterable[State]) -> set[str]:
    """Names of the artifacts that are not fresh, of their states by `semiseg status`."""
    return {state.name for state in states if state.state != FRESH}


def _figure(nodes: list[str], metric: str, workspace: Workspace, stale: Collection[str]) -> Figure:
    runs, missing = {}, []
    for name in nodes:
        try:
            value = workspace.artifact(name).summary.get(metric)
        except ArtifactError:
            value = None
        if _is_number(value):
            runs[name] = 100.0 * value
        else:
            missing.append(name)
    return Figure(runs, missing, [name for name in runs if name in stale])


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equality(table: Table, workspace: Workspace, stale: Collection[str]) -> Equality | None:
    """Compares every number in the summaries of both rows' artifacts; None if no rows must be equal."""
    if not table.equal:
        return None
    first, second = (next(row for row in table.rows if row.label == label) for label in table.equal)
    pairs = [
        (column, a, b)
        for column in table.columns
        for a, b in zip(first.nodes.get(column, []), second.nodes.get(column, []), strict=False)
    ]
    found = [
        (column, numbers)
        for column, a, b in pairs
        if not {a, b} & set(stale) and (numbers := _both_numbers(workspace, a, b, table.metric))
    ]
    rows, name = (first.label, second.label), table.metric.replace("_", " ").replace("iou", "IoU")
    if not found:
        text = f"Whether {second.label} equals {first.label}, as it must: not yet known, no run of both is finished."
        return Equality(rows, 0, len(pairs), None, text)
    runs = amount(len(found), "run")
    runs += f" of {len(pairs)}" if len(found) < len(pairs) else ""
    column, (x, y) = max(
        ((column, numbers[table.metric]) for column, numbers in found), key=lambda pair: abs(pair[1][0] - pair[1][1])
    )
    others = sorted({key for _, numbers in found for key, (a, b) in numbers.items() if a != b})
    if x != y:
        verdict = (
            f"differs from {first.label} by up to {100 * abs(x - y):.2g} points of {name} ({column}: {100 * y:.2f} and "
            f"{100 * x:.2f}; {runs} compared): the rows were not on equal terms, or this device does not repeat sums "
            "exactly"
        )
    elif others:
        verdict = f"equals {first.label} in {name}, but not in {', '.join(others[:3])} ({runs} compared)"
    else:
        verdict = f"equals {first.label} in every recorded figure, as it must ({runs} compared)"
    return Equality(rows, len(found), len(pairs), 100 * abs(x - y), f"{second.label} {verdict}.")


def _both_numbers(workspace: Workspace, first: str, second: str, metric: str) -> dict[str, tuple[float, float]] | None:
    """The numbers that both summaries hold, by dotted key; None if one is missing or has no `metric`."""
    try:
        a, b = (dict(_numbers(workspace.artifact(name).summary)) for name in (first, second))
    except ArtifactError:
        return None
    both = {key: (a[key], b[key]) for key in a.keys() & b.keys()}
    return both if metric in both else None


def _numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif _is_number(value):
            yield f"{prefix}{key}", value


def row_cost(row: Row, workspace: Workspace, stale: Collection[str] = ()) -> Cost | None:
    """None if no run of the row is complete yet, or the row names no nodes."""
    runs, counted = [], []
    for names in row.costs:
        try:
            runs.append([workspace.artifact(name).manifest for name in names])
        except ArtifactError:
            continue
        counted += names
    if not runs:
        return None

    def mean(values: Iterable[Any]) -> float | None:
        known = [float(value) for value in values if _is_number(value)]
        return statistics.fmean(known) if known else None

    memory = [
        [mib for manifest in run if _is_number(mib := manifest.summary.get("peak_memory_mib")) and mib] for run in runs
    ]
    return Cost(
        seconds=statistics.fmean(sum(manifest.seconds for manifest in run) for run in runs),
        images_per_second=mean(run[-1].summary.get("images_per_second") for run in runs),
        peak_memory_mib=mean(max(values) if values else None for values in memory),
        steps_per_second=mean(_steps_per_second(run[-1]) for run in runs),
        disk_mib=statistics.fmean(sum(map(_disk_mib, run)) for run in runs),
        stages={
            stage: StageCost(
                sum(manifest.seconds for run in runs for manifest in run if manifest.stage == stage) / len(runs),
                sum(_disk_mib(manifest) for run in runs for manifest in run if manifest.stage == stage) / len(runs),
            )
            for stage in dict.fromkeys(manifest.stage for manifest in runs[0])
        },
        stale=any(name in stale for name in counted),
        steps=mean(_of_trainings(run, "iterations") for run in runs),
        images=mean(_of_trainings(run, "images_seen") for run in runs),
    )


def _of_trainings(run: Iterable[Manifest], key: str) -> float | None:
    """The sum of a number over the trainings of a run; None if it has none, or one does not tell it."""
    values = [manifest.summary.get(key) for manifest in run if "iterations" in manifest.summary]
    numbers = [value for value in values if _is_number(value)]
    return sum(numbers) if numbers and len(numbers) == len(values) else None


def _disk_mib(manifest: Manifest) -> float:
    return manifest.bytes / 2**20


def _steps_per_second(manifest: Manifest) -> float | None:
    images, batch = manifest.summary.get("images_per_second"), manifest.config.get("batch_size")
    return images / batch if _is_number(images) and _is_number(batch) and batch else None


def order_sentence(table: Table, figures: Figures, column: str) -> str | None:
    """A sentence that compares our order of the rows in this column with the published one; None if there is none."""
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
    level = [f"{high} and {low} are equal" for high, low in pairs if shares[low] == shares[high]]
    if len(level) == len(pairs):
        verdict = "all are equal"
    elif swapped:
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
    old = " (with figures marked *)" if any(figures[label][column].stale for label in ours) else ""
    return f"Order of the rows ({column}): {shown}: {verdict}{overlap}{old}."


def _overlap(first: Figure, second: Figure) -> bool:
    return bool(first.spread and second.spread and first.spread[0] <= second.spread[1])
