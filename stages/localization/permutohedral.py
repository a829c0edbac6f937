"""Gaussian filtering of points in a few dimensions by the permutohedral lattice, on a CPU or a GPU.

Each point lies in a simplex of the lattice. Its values are spread over the d+1 corners (splat), the corners are blurred
with (1/2, 1, 1/2) along each of the d+1 axes, and the point takes the weighted mean of its corners (slice). This
approximates sums weighted by exp(-|f_i - f_j|^2 / 2) over all points j, in time linear in their number.
Source: Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.

    kernel = normalised_kernel(features)  # float32 (d, N), in standard deviations
    filtered = kernel(values)             # float32 (N, C)

The three steps are weighted sums of rows, which `embedding_bag` computes without atomic additions: on one device every
run gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from artifacts.errors import ConfigError

LONGEST = 64  # rows that a GPU adds one after the other: longer sums are divided, so that none is waited for
FARTHEST = 1e5  # standard deviations: float32 no longer tells neighbours apart


@dataclass(frozen=True)
class WeightedSums:
    """Sum m is that of weights[n] * values[rows[n]] for starts[m] <= n < starts[m + 1]."""

    rows: Tensor  # int32 (n,)
    weights: Tensor  # float32 (n,)
    starts: Tensor  # int32 (m + 1,)

    def __call__(self, values: Tensor) -> Tensor:
        """float32 (rows, C) -> (m, C)."""
        return embedding_bag(
            self.rows, values, self.starts, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


def divided(sums: WeightedSums) -> list[WeightedSums]:
    """The same in two steps: sums of at most LONGEST rows, and the sums of those."""
    starts = sums.starts.long()
    parts = (starts.diff() + LONGEST - 1) // LONGEST
    ends = parts.cumsum(0)
    part = torch.arange(int(ends[-1]), device=starts.device)
    whole = torch.arange(len(parts), device=starts.device).repeat_interleave(parts)
    begin = starts[whole] + LONGEST * (part - (ends - parts)[whole])
    first = replace(sums, starts=torch.cat([begin, starts[-1:]]).int())
    ones = torch.ones_like(part, dtype=torch.float32)
    return [first, WeightedSums(part.int(), ones, torch.cat([ends.new_zeros(1), ends]).int())]


@dataclass(frozen=True)
class Kernel:
    """A filter of fixed points: splat, blur and slice, one after the other."""

    steps: Sequence[WeightedSums]

    def __call__(self, values: Tensor) -> Tensor:
        """float32 (N, C) -> (N, C)."""
        for step in self.steps:
            values = step(values)
        return values


def normalised_kernel(features: Tensor, weight: float = 1.0, groups: Tensor | None = None) -> Kernel:
    """The filter weight * D^-1/2 K D^-1/2 for points with `features` (d, N); D: the sums of the rows of K.

    Points of different groups, int64 (N,) from 0, such as the pixels of different images, do not meet.
    """
    inside, keys, steps = _corners(features, groups)
    axes, count = inside.shape
    pixels = torch.empty((axes, count), dtype=torch.int32, device=features.device)
    corners = torch.empty((count, axes), dtype=torch.int32, device=features.device)
    starts, classes, known = [], [], 0
    for number in range(axes):  # corners of different remainders are different corners
        ordered, order = keys.pop(0).sort(stable=True)
        new = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=new[1:])
        first = new.nonzero()[:, 0]
        ids = new.cumsum(0, dtype=torch.int32).add_(known - 1)
        corners[:, number] = torch.empty_like(ids).scatter_(0, order, ids)
        pixels[number] = order
        starts.append(first + number * count)
        classes.append(ordered.index_select(0, first))
        known += len(first)
    starts.append(first.new_full((2,), axes * count))  # one corner more stands for neighbours that are none: it stays 0
    blur = _blurs(classes, steps)
    splats = divided if features.is_cuda else lambda sums: [sums]
    splat = WeightedSums(pixels.flatten(), _taken(inside, pixels), torch.cat(starts).int())
    slices = WeightedSums(corners.flatten(), inside.T.flatten(), _every(axes, count, features.device))
    sums = Kernel([*splats(splat), *blur, slices])(inside.new_ones(count, 1))  # (N, 1)
    norm = ((sums + 1e-20) / weight).rsqrt()
    splat = replace(splat, weights=_taken(inside * norm[:, 0], pixels))
    slices.weights.view(count, axes).mul_(norm)
    return Kernel([*splats(splat), *blur, slices])


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """The values at `places` of each row: both (d+1, N) -> ((d+1) * N,)."""
    return torch.cat([row.index_select(0, own) for row, own in zip(values, places, strict=True)])


def _too_far() -> ConfigError:
    return ConfigError("dense CRF: the standard deviations are too small for this image", "take larger ones")


def _every(step: int, count: int, device: torch.device) -> Tensor:
    return torch.arange(0, step * count + 1, step, dtype=torch.int32, device=device)


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of each point, and the place in it.

    Returns the nearest lattice point whose coordinates are multiples of d+1, divided by that (float32, (d+1, N)), the
    rank of each coordinate's distance from it, 0 the greatest (int64, (d+1, N)), and the barycentric coordinates
    (float32, (d+1, N)).
    """
    d, count = features.shape
    elevated = features.new_empty(d + 1, count)
    total = features.new_zeros(count)
    deviation = np.float32(math.sqrt(2 / 3) * (d + 1))  # rounded as by others, for equal places in the lattice
    for j in range(d, 0, -1):  # onto the plane in d+1 dimensions whose coordinates have the sum 0
        scaled = features[j - 1] * float(np.float32(deviation / math.sqrt(j * (j + 1))))
        torch.sub(total, j * scaled, out=elevated[j])
        total += scaled
    elevated[0] = total
    share = float(np.float32(1) / np.float32(d + 1))
    base = (elevated * share).round_()
    off = base.sum(0).to(torch.int8)
    rest = elevated - base * (d + 1)
    rank = torch.zeros_like(rest, dtype=torch.int8)
    for i in range(d):
        less = (rest[i] < rest[i + 1 :]).view(torch.int8)
        for row in less:
            rank[i] += row
        rank[i + 1 :] += 1 - less
    rank += off  # not on the plane: the coordinates that were rounded most go one step back
    wrap = (rank < 0).view(torch.int8) - (rank > d).view(torch.int8)
    rank += wrap * (d + 1)
    base += wrap
    rest = (elevated - base * (d + 1)) * share
    place = rank.long()
    ranked = torch.empty_like(rest).scatter_(0, place, rest).flip(0)
    inside = ranked.clone()
    inside[1:] -= ranked[:-1]
    inside[0] += 1 - ranked[d]
    return base, place, inside


def _corners(features: Tensor, groups: Tensor | None) -> tuple[Tensor, list[Tensor], list[int]]:
    """The barycentric coordinates of each point (d+1, N), and a number for each corner of its simplex.

    The numbers are (N,) for each remainder r = 0..d; the last value is how they change by a step along each axis.

    The coordinates of corner r are (d+1) q + r for whole q: from corner r-1 to r, q falls by 1 in the coordinate of
    rank d+1-r. The first d coordinates of q are the digits of the number, and the group is the first one.
    """
    if features.abs().amax() > FARTHEST:
        raise _too_far()
    base, rank, inside = _simplices(features)
    d, count = features.shape
    low, high = (found.long().tolist() for found in (base[:d].amin(1) - 2, base[:d].amax(1) + 1))
    steps, digit = [0] * (d + 1), 1
    for i in range(d):
        steps[i], digit = digit, digit * (high[i] - low[i] + 1)
    largest = digit * (1 if groups is None else int(groups.max()) + 1)
    if largest >= 2**62:
        raise _too_far()
    kind = torch.int32 if largest < 2**31 else torch.int64  # the sort is faster with fewer bits
    key = base.new_zeros(count, dtype=kind)
    for i in range(d):
        key += (base[i].to(kind) - low[i]) * steps[i]
    if groups is not None:
        key += (groups * digit).to(kind)
    step = torch.tensor(steps, dtype=kind, device=base.device)[:, None].expand(d + 1, count)
    fall = torch.empty_like(base, dtype=kind).scatter_(0, rank, step)
    keys = [key]
    for r in range(1, d + 1):
        keys.append(keys[-1] - fall[d + 1 - r])
    return inside, keys, steps


def _blurs(classes: Sequence[Tensor], steps: Sequence[int]) -> list[WeightedSums]:
    """For each axis, each corner with half of its two neighbours. classes: the keys of each remainder, ascending."""
    device, sizes = classes[0].device, [len(keys) for keys in classes]
    none = sum(sizes)  # the corner that is none
    own = torch.arange(none + 1, dtype=torch.int32, device=device)
    rows = torch.full((len(steps), none + 1, 3), none, dtype=torch.int32, device=device)
    rows[:, :, 0] = own
    moves = torch.tensor(steps, dtype=classes[0].dtype, device=device)[:, None]
    begin = 0
    for r, keys in enumerate(classes):  # a step back along axis i: from (d+1) q + r to (d+1) (q + e_i) + r - 1
        below, before = (classes[r - 1], begin - sizes[r - 1]) if r else (classes[-1], none - sizes[-1])
        wanted = keys + moves if r else keys - sum(steps) + moves  # (d+1, corners)
        found = torch.searchsorted(below, wanted, out_int32=True).clamp_(max=len(below) - 1)
        there = below.index_select(0, found.flatten()).view_as(wanted) == wanted
        neighbours = torch.where(there, found + before, none)
        rows[:, begin : begin + len(keys), 1] = neighbours
        rows[:, :, 2].scatter_(1, neighbours.long(), own[begin : begin + len(keys)].expand_as(neighbours))
        begin += len(keys)
    rows[:, none, 2] = none
    weights = torch.tensor([1.0, 0.5, 0.5], device=device).repeat(none + 1)
    return [WeightedSums(axis.flatten(), weights, _every(3, none + 1, device)) for axis in rows]
