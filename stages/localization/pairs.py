"""Pairs of nearby cells of a map, and the affinity of the two cells of a pair.

A pair is a cell and one of the cells within a radius of it. Each pair is taken once, from its first cell in row-by-row
order: `offsets` is half of a disc. Ahn & Kwak (CVPR 2018, AffinityNet) and Ahn et al. (CVPR 2019, IRNet) learn from
such pairs, and propagate scores along them (`stages/localization/random_walk.py`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Offset = tuple[int, int]  # (dy, dx), in cells
Area = tuple[Any, slice, slice]


@functools.cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """The offsets (dy, dx) of all pairs nearer than `radius` cells, each pair once: dy > 0, or dy = 0 and dx > 0.

    Radius 5 has 34 of them, radius 10 has 152.
    """
    reach = range(-radius + 1, radius)
    return tuple(
        (dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius and (dy > 0 or dx > 0)
    )


def ends(offset: Offset, height: int, width: int) -> tuple[Area, Area]:
    """The slices of the first and of the second cells of all pairs of an offset within a map (..., height, width)."""
    dy, dx = offset
    first = (..., slice(0, max(height - dy, 0)), slice(max(-dx, 0), width - max(dx, 0)))
    return first, (..., slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))


def inner_ends(offset: Offset, radius: int, height: int, width: int) -> tuple[Area, Area]:
    """The same for the pairs whose first cell has all its partners within the map: one shape for all offsets.

    ValueError for a map without such a cell.
    """
    (dy, dx), rim = offset, radius - 1
    rows, columns = height - rim, width - 2 * rim
    if rows < 1 or columns < 1:
        raise ValueError(f"a map of {height} x {width} cells has no pairs for radius {radius}")
    return (
        (..., slice(0, rows), slice(rim, rim + columns)),
        (..., slice(dy, dy + rows), slice(rim + dx, rim + dx + columns)),
    )


@functools.cache
def line_between(offset: Offset) -> tuple[Offset, ...]:
    """The cells less than one cell away from the line between (0, 0) and `offset`, both ends included (IRNet, 3.2).

    They are cells of the rectangle with the two ends as corners.
    """
    dy, dx = offset
    squared = dy * dy + dx * dx
    columns = range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < squared)


def class_boundary_affinity(boundary: Tensor, radius: int) -> Tensor:
    """a_ij = 1 - the highest boundary probability on the line between i and j (IRNet, eq. 3).

    boundary: (B, h, w), 0..1. Returns (B, P, h - r, w - 2 r) with r = radius - 1 and P pairs in the order of `offsets`:
    of the cells (y, x + r), all those whose partners lie within the map (`inner_ends`).
    """
    import torch

    def at(cell: Offset) -> Tensor:
        """The boundary at a cell of the line, seen from each first cell."""
        return boundary[inner_ends(cell, radius, *boundary.shape[1:])[1]]

    highest = [torch.stack([at(cell) for cell in line_between(offset)]).amax(0) for offset in offsets(radius)]
    return 1 - torch.stack(highest, 1)


def partners(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """(first, second): the labels of the two cells of each pair that `inner_ends` has, (B, P, h', w').

    labels: (B, h, w). `first` is a view: its labels do not depend on the pair.
    """
    import torch

    places = [inner_ends(offset, radius, *labels.shape[1:]) for offset in offsets(radius)]
    second = torch.stack([labels[there] for _, there in places], 1)
    return labels[places[0][0]][:, None].expand_as(second), second
