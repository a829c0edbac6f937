"""The graph of a workspace's artifacts, placed in layers from left to right."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.pipeline.graph import topological_order, upstream

MOST_NODES = 60  # more artifacts are shown in groups
_SEED = re.compile(r"-s[0-9]+(?=-|$)")
_SWEEPS = 4


@dataclass(frozen=True)
class Place:
    """One box of the graph: the artifacts in it, its layer from the left, and its height, in rows from the top."""

    label: str
    members: tuple[str, ...]
    layer: int
    row: float


@dataclass(frozen=True)
class Layout:
    """Boxes by key, and edges as the places they pass, (layer, row), from a box to the box that reads it."""

    places: dict[str, Place]
    edges: dict[tuple[str, str], list[tuple[int, float]]]
    layers: int
    rows: float


Reads = Mapping[str, Iterable[str]]  # artifact -> the artifacts it reads


def layout(reads: Reads, stages: Mapping[str, str], most: int = MOST_NODES) -> Layout:
    """The graph without edges that longer ways imply; with more than `most` artifacts, like ones are one box."""
    known = {name: [source for source in sources if source in reads] for name, sources in reads.items()}
    groups = grouped(known, stages, most)
    group_of = {name: label for label, members in groups.items() for name in members}
    between = {
        label: sorted({group_of[source] for name in members for source in known[name]})
        for label, members in groups.items()
    }
    lean = reduced(between)
    layer = depths(lean)
    columns, links = _with_bends(lean, layer)
    rows = _rows(_ordered(columns, links), links)
    top = min(rows.values(), default=0.0)
    rows = {node: row - top for node, row in rows.items()}
    places = {
        label: Place(_words(label, members), members, layer[label], rows[label]) for label, members in groups.items()
    }
    edges = {
        (source, label): [
            (layer[source], rows[source]),
            *((depth, rows[_bend(source, label, depth)]) for depth in range(layer[source] + 1, layer[label])),
            (layer[label], rows[label]),
        ]
        for label, sources in lean.items()
        for source in sources
    }
    return Layout(places, edges, len(columns), max(rows.values(), default=0.0) + 1)


def grouped(reads: Mapping[str, Sequence[str]], stages: Mapping[str, str], most: int) -> dict[str, tuple[str, ...]]:
    """The artifacts of each box, by its key; each alone if there are at most `most`.

    Artifacts of one depth are put together, so that the groups have no circle: those that differ by their seed; if
    these are too many, by any number; if these are, of one stage.
    """
    if len(reads) <= most:
        return {name: (name,) for name in reads}
    depth = depths(reads)
    patterns = (
        lambda name: _SEED.sub("", name),
        lambda name: re.sub(r"[0-9]+", "*", _SEED.sub("", name)),
        lambda name: stages.get(name, name),
    )
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        found = {}
        for name in reads:
            found.setdefault(f"{pattern(name)} {depth[name]}", []).append(name)
        if len(found) <= most:
            break
    return {label: tuple(members) for label, members in found.items()}


def _words(label: str, members: Sequence[str]) -> str:
    """What the names have in common, with * for numbers that differ; for names of different words what groups them."""
    parts = [re.split("([0-9]+)", name) for name in members]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return label.rpartition(" ")[0]
    return "".join(same[0] if len(set(same)) == 1 else "*" for same in zip(*parts, strict=True))


def depths(reads: Reads) -> dict[str, int]:
    """The number of edges on the longest way to each node."""
    found: dict[str, int] = {}
    for name in topological_order(reads):
        found[name] = max((found[source] + 1 for source in reads[name] if source in found), default=0)
    return found


def reduced(reads: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without the edges from a source that is also reached over another source."""
    above = {name: upstream(reads, name) for name in reads}
    return {
        name: [source for source in sources if not any(source in above[other] for other in sources)]
        for name, sources in reads.items()
    }


def _bend(source: str, label: str, depth: int) -> str:
    return f"{source}\n{label}\n{depth}"


def _with_bends(
    reads: Mapping[str, Sequence[str]], layer: Mapping[str, int]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    """The nodes of each layer, and what each is linked to on its left; an edge has a bend in each layer it crosses."""
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    links: dict[str, list[str]] = {name: [] for name in reads}
    for name, depth in layer.items():
        columns[depth].append(name)
    for name, sources in reads.items():
        for source in sources:
            last = source
            for depth in range(layer[source] + 1, layer[name]):
                bend = _bend(source, name, depth)
                columns[depth].append(bend)
                links[bend] = [last]
                last = bend
            links[name].append(last)
    return columns, links


def _ordered(columns: list[list[str]], links: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The nodes of each layer in an order with few crossings: by the mean place of their neighbours, back and forth."""
    right = _reversed(links)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = links if forward else right
        for before, column in itertools.pairwise(columns if forward else columns[::-1]):
            place = {name: index for index, name in enumerate(before)}
            own = {name: float(index) for index, name in enumerate(column)}
            means = {n: statistics.fmean(place[m] for m in neighbours[n]) if neighbours[n] else own[n] for n in column}
            column.sort(key=means.__getitem__)
    return columns


def _rows(columns: list[list[str]], links: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """A row for each node: that of the uppermost of its neighbours, or one below the node above it."""
    right = _reversed(links)
    rows = {name: float(index) for column in columns for index, name in enumerate(column)}
    for neighbours, ordered in ((links, columns), (right, columns[::-1]), (links, columns)):
        for column in ordered[1:]:
            last = -1.0
            for name in column:
                last = rows[name] = max(last + 1, min((rows[m] for m in neighbours[name]), default=0.0))
    return rows


def _reversed(links: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in links}
    for name, others in links.items():
        for other in others:
            found[other].append(name)
    return found
