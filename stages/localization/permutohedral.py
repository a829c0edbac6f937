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

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from artifacts.errors import ConfigError

LONGEST = 64  # rows that a GPU adds one after the other: longer sums are divided, so that none is waited for


@dataclass(frozen=True)
class WeightedSums:
    """Sum m is that of weights[n] * values[rows[n]] for starts[m] <= n < starts[m + 1]."""

    rows: Tensor  # int32 (n,)
    weights: Tensor | None  # float32 (n,); None: 1
    starts: Tensor  # int32 (m + 1,)

    def __call__(self, values: Tensor) -> Tensor:
        """float32 (rows, C) -> (m, C)."""
        return embedding_bag(
            self.rows, values, self.starts, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


def _divided(sums: WeightedSums) -> list[WeightedSums]:
    """The same in two steps on a GPU: sums of at most LONGEST rows, and the sums of those."""
    if not sums.starts.is_cuda:
        return [sums]
    starts = sums.starts.long()
    parts = (starts.diff() + LONGEST - 1) // LONGEST
    ends = parts.cumsum(0)
    part = torch.arange(int(ends[-1]), device=starts.device)
    whole = torch.arange(len(parts), device=starts.device).repeat_interleave(parts)
    begin = starts[whole] + LONGEST * (part - (ends - parts)[whole])
    first = replace(sums, starts=torch.cat([begin, starts[-1:]]).int())
    return [first, WeightedSums(part.int(), None, torch.cat([ends.new_zeros(1), ends]).int())]


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
    base, rank, inside = _simplices(features)
    keys, moves = _corner_keys(base, rank, groups)
    ordered, order = keys.flatten().sort(stable=True)  # (N * (d+1),)
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    corners = torch.empty_like(order, dtype=torch.int32)
    corners.scatter_(0, order, new.cumsum(0, dtype=torch.int32).sub_(1))
    first = new.nonzero()[:, 0]
    blur = _blurs(ordered.index_select(0, first), moves)
    # one more corner than there are: it stands for the neighbours that are none, and stays 0
    starts = torch.cat([first, first.new_full((2,), len(ordered))]).int()
    every = _every(inside.shape[1], len(inside), inside.device)

    gather = WeightedSums(order.int(), None, starts)
    found = Kernel([*_divided(gather), *blur, WeightedSums(corners, inside.flatten(), every)])(inside.view(-1, 1))
    weights = (inside * ((found + 1e-20) / weight).rsqrt()).flatten()
    splat = WeightedSums(gather.rows // inside.shape[1], weights.index_select(0, order), starts)
    return Kernel([*_divided(splat), *blur, WeightedSums(corners, weights, every)])


def _every(step: int, count: int, device: torch.device) -> Tensor:
    return torch.arange(0, step * count + 1, step, dtype=torch.int32, device=device)


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of each point, and the place in it.

    Returns the nearest lattice point whose coordinates are multiples of d+1, divided by that (float32, (d+1, N)), the
    rank of each coordinate's distance from it, 0 the greatest (int8, (d+1, N)), and the barycentric coordinates
    (float32, (N, d+1)).
    """
    d, count = features.shape
    elevated = features.new_empty(d + 1, count)
    total = features.new_zeros(count)
    for j in range(d, 0, -1):  # onto the plane in d+1 dimensions whose coordinates have the sum 0
        scaled = features[j - 1] * (math.sqrt(2 / 3) * (d + 1) / math.sqrt(j * (j + 1)))
        torch.sub(total, scaled, alpha=j, out=elevated[j])
        total += scaled
    elevated[0] = total
    base = (elevated / (d + 1)).round_()
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
    rest = (elevated - base * (d + 1)) / (d + 1)
    ranked = torch.empty_like(rest).scatter_(0, rank.long(), rest)
    inside = features.new_empty(count, d + 1)
    torch.sub(ranked[d] + 1, ranked[0], out=inside[:, 0])
    for corner in range(1, d + 1):
        torch.sub(ranked[d - corner], ranked[d - corner + 1], out=inside[:, corner])
    return base, rank, inside


@dataclass(frozen=True)
class _Moves:
    """How a corner's key changes by a step along each axis: by `axes`, and `same` or, from remainder 0, `wrapped`."""

    axes: Sequence[int]
    remainder: int  # keys below are of remainder 0
    same: int
    wrapped: int


def _corner_keys(base: Tensor, rank: Tensor, groups: Tensor | None) -> tuple[Tensor, _Moves]:
    """A number for each corner of each point's simplex, equal for equal corners: (N, d+1).

    The coordinates of corner r are (d+1) q + r for whole q: from corner r-1 to r, q falls by 1 in the coordinate of
    rank d+1-r. The number has r, the group and the first d coordinates of q as digits.
    """
    d, count = len(base) - 1, base.shape[1]
    low, high = (found.long().tolist() for found in (base[:d].amin(1) - 2, base[:d].amax(1) + 1))
    values, digit = [0] * (d + 1), 1
    for i in range(d):
        values[i], digit = digit, digit * (high[i] - low[i] + 1)
    remainder = digit * (1 if groups is None else int(groups.max()) + 1)
    if remainder * (d + 1) >= 2**62:
        raise ConfigError("dense CRF: the standard deviations are too small for this image", "take larger ones")
    kind = torch.int32 if remainder * (d + 1) < 2**31 else torch.int64  # the sort is faster with fewer bits
    key = base.new_zeros(count, dtype=kind)
    for i in range(d):
        key += (base[i].to(kind) - low[i]) * values[i]
    if groups is not None:
        key += (groups * digit).to(kind)
    fall = torch.tensor(values, dtype=kind, device=base.device)[:, None].expand(d + 1, count)
    fall = torch.empty_like(base, dtype=kind).scatter_(0, rank.long(), fall)
    keys = key.new_empty(count, d + 1)
    keys[:, 0] = key
    for r in range(1, d + 1):
        key = key - fall[d + 1 - r]
        torch.add(key, r * remainder, out=keys[:, r])
    return keys, _Moves(values, remainder, -remainder, d * remainder - sum(values))


def _blurs(corners: Tensor, moves: _Moves) -> list[WeightedSums]:
    """For each axis, each corner (key, ascending) with half of its two neighbours."""
    count = len(corners)
    own = torch.arange(count + 1, dtype=torch.int32, device=corners.device)
    moved = torch.where(corners < moves.remainder, corners + moves.wrapped, corners + moves.same)
    weights = corners.new_tensor([1.0, 0.5, 0.5], dtype=torch.float32).repeat(count + 1)
    starts = _every(3, count + 1, corners.device)
    blurs = []
    for step in moves.axes:
        wanted = moved + step
        found = torch.searchsorted(corners, wanted, out_int32=True).clamp_(max=count - 1)
        known = corners.index_select(0, found) == wanted
        rows = torch.full((count + 1, 3), count, dtype=torch.int32, device=corners.device)
        rows[:, 0] = own
        rows[:count, 1] = torch.where(known, found, count)
        rows[:, 2].scatter_(0, torch.where(known, found, count).long(), own[:count])
        rows[count, 2] = count
        blurs.append(WeightedSums(rows.flatten(), weights, starts))
    return blurs
