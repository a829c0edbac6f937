"""Pairs of nearby cells of a map, and the affinity of the two cells of a pair.

A pair is a cell and one of the cells within a radius of it. Each pair is taken once, from the cell that comes first row
by row: `offsets` holds half of a disc. Ahn & Kwak (CVPR 2018, AffinityNet) and Ahn et al. (CVPR 2019, IRNet) learn from
such pairs, and propagate scores along them (`stages/localization/random_walk.py`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Offset = tuple[int, int]  # (dy, dx), in cells


@functools.cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """The offsets (dy, dx) of all pairs nearer than `radius` cells, each pair once: dy > 0, or dy = 0 and dx > 0.

    Radius 5 has 34 of them, radius 10 has 152.
    """
    reach = range(-radius + 1, radius)
    return tuple(
        (dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius and (dy > 0 or dx > 0)
    )


@functools.cache
def line_between(offset: Offset) -> tuple[Offset, ...]:
    """The cells less than one cell away from the line between (0, 0) and `offset`, both ends among them (IRNet, 3.2).

    They are cells of the rectangle with the two ends as corners.
    """
    dy, dx = offset
    squared = dy * dy + dx * dx
    columns = range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < squared)


def class_boundary_affinity(boundary: Tensor, radius: int) -> Tensor:
    """a_ij = 1 - the highest boundary probability on the line between i and j (IRNet, eq. 3).

    boundary: (B, h, w), 0..1. Returns (B, P, h - r, w - 2 r) with r = radius - 1 and P pairs in the order of `offsets`:
    of the cells (y, x + r), all those whose partners lie within the map. ValueError for a map that has none.
    """
    import torch

    rim = radius - 1
    rows, columns = boundary.shape[1] - rim, boundary.shape[2] - 2 * rim
    if rows < 1 or columns < 1:
        raise ValueError(f"a map of {boundary.shape[1]} x {boundary.shape[2]} cells has no pairs for radius {radius}")
    highest = [
        torch.stack([boundary[:, y : y + rows, rim + x : rim + x + columns] for y, x in line_between(offset)]).amax(0)
        for offset in offsets(radius)
    ]
    return 1 - torch.stack(highest, 1)


def partners(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """(first, second): the labels of the two cells of each pair that `class_boundary_affinity` has, (B, P, h', w').

    labels: (B, h, w). `first` is a view: its labels do not depend on the pair.
    """
    import torch

    rim = radius - 1
    rows, columns = labels.shape[1] - rim, labels.shape[2] - 2 * rim
    first = labels[:, None, :rows, rim : rim + columns]
    second = [labels[:, dy : dy + rows, rim + dx : rim + dx + columns] for dy, dx in offsets(radius)]
    stacked = torch.stack(second, 1)
    return first.expand_as(stacked), stacked
