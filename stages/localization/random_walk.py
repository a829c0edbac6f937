"""Random walk of scores over the cells of an image, along pairs of cells with high affinity (AffinityNet, IRNet).

    affinities = boundary_affinities(boundary, radius=5)
    scores = walk(scores * (1 - boundary), affinities, beta=10, doublings=8)

The transition matrix of n cells has n x n entries: 552 MB for an image of 375 x 500 pixels at stride 4, and the
authors square it eight times. But a cell has only 68 neighbours, and there are few rows of scores: a polynomial of the
sparse matrix, applied to them by shifts of the image, gives the same scores in 2 MB and a thousandth of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from stages.localization.grid import cell_means, resize_maps
from stages.localization.pairs import Offset, ends, line_between, offsets
from stages.localization.seed_labels import activation_background

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMap

Values = TypeVar("Values", bound=Any)  # arrays or tensors


def boundary_affinities(boundary: NDArray[np.floating], radius: int) -> dict[Offset, NDArray[np.float32]]:
    """For each offset the affinity 1 - max boundary on the line, of all its pairs within the map (IRNet, eq. 3).

    boundary: (h, w), 0..1. The affinities of an offset are (h - dy, w - |dx|): (y, x) is the pair whose upper cell is
    in row y, and whose left cell is in column x.
    """
    height, width = boundary.shape
    found = {}
    for dy, dx in offsets(radius):
        if dy >= height or abs(dx) >= width:
            continue
        rows, columns, left = height - dy, width - abs(dx), max(-dx, 0)
        highest = np.zeros((rows, columns), np.float32)
        for y, x in line_between((dy, dx)):
            np.maximum(highest, boundary[y : y + rows, left + x : left + x + columns], out=highest)
        found[dy, dx] = 1 - highest
    return found


def walk_between_boundaries(
    scores: ScoreMap, boundary: NDArray[np.floating], radius: int, beta: float, doublings: int
) -> ScoreMap:
    """IRNet's refined maps (section 4.1): random walk of scores times (1 - boundary), divided by their joint maximum.

    boundary: (h, w), 0..1, at the cells of the scores. An image without classes has no scores.
    """
    refined = np.zeros(scores.scores.shape, np.float32)
    if len(scores.classes):
        affinities = boundary_affinities(boundary, radius)
        refined = walk(scores.scores * (1 - boundary), affinities, beta, doublings)
        highest = float(refined.max())
        refined /= highest or 1.0
    return dataclasses.replace(scores, scores=refined, meaning="refined")


def walk_with_background(
    scores: ScoreMap,
    affinities: Mapping[Offset, NDArray[np.floating]],
    stride: int,
    alpha: float,
    beta: float,
    doublings: int,
) -> ScoreMap:
    """AffinityNet's refined maps (section 3.4): random walk of scores, with (1 - highest score)^alpha as class 0.

    The walk starts from the means of the scores over the pixels nearest to each cell; cells have the given `stride`, as
    the refined maps have.
    """
    full = resize_maps(scores.scores, scores.size, scores.stride)  # (K, H, W)
    start = cell_means(np.concatenate([activation_background(full, alpha)[None], full]), stride)
    walked = np.minimum(walk(start, affinities, beta, doublings), 1)
    classes = np.concatenate([[0], scores.classes]).astype(np.uint8)
    return dataclasses.replace(scores, scores=walked, classes=classes, stride=stride, meaning="refined")


def walk(
    scores: NDArray[np.floating], affinities: Mapping[Offset, NDArray[np.floating]], beta: float, doublings: int
) -> NDArray[np.float32]:
    """scores T^s with s = 2^doublings; T: the symmetric affinities^beta, ones on the diagonal, columns divided by sums.

    scores: (K, h, w). affinities: from `boundary_affinities`. A cell's new score is a mean of those around it.
    Returns float32 (K, h, w), exact to about 1e-6 of the highest score.
    """
    # float64: single precision would lose three digits in the recursion below
    weights = {offset: np.power(affinity, beta, dtype=np.float64) for offset, affinity in affinities.items()}
    start = np.ascontiguousarray(scores, np.float64)
    sums = _weighted_neighbours(np.ones_like(start[:1]), weights)
    walked = power_of(lambda x: _weighted_neighbours(x, weights) / sums, start, 2**doublings)
    return np.maximum(walked, 0).astype(np.float32)


def power_of(step: Callable[[Values], Values], start: Values, steps: int, precise_to: float = 1e-7) -> Values:
    """step^steps of `start`, exact to about `precise_to` of the highest value.

    step: a linear map of arrays or tensors that is similar to a symmetric matrix with eigenvalues in -1..1, as the
    steps of a walk are. x^s is a sum of Chebyshev polynomials, most of which have negligible weights.
    """
    if steps == 1:
        return step(start)
    coefficients = _power_in_chebyshev_polynomials(steps, precise_to)
    before, now = start, step(start)
    found: Any = coefficients[0] * before + coefficients[1] * now
    for coefficient in coefficients[2:]:
        before, now = now, step(now) * 2 - before
        if coefficient:
            found += coefficient * now
    return cast(Values, found)


def _weighted_neighbours(x: NDArray[np.float64], weights: Mapping[Offset, NDArray[np.float64]]) -> NDArray[np.float64]:
    """W x of each row of x (K, h, w), by shifts: W is symmetric, with ones on its diagonal."""
    height, width = x.shape[1:]
    found = x.copy()
    for offset, weight in weights.items():
        here, there = ends(offset, height, width)
        found[here] += weight * x[there]
        found[there] += weight * x[here]
    return found


@functools.cache
def _power_in_chebyshev_polynomials(power: int, precise_to: float) -> tuple[float, ...]:
    """c_k of x^s = sum of c_k T_k(x), k up to the point from which all further ones sum to less than `precise_to`.

    c_k = 2^(1 - s) binomial(s, (s - k) / 2) where s - k is even, half of it for k = 0, else 0. A degree of about
    sqrt(2 s ln(2 / precision)) is enough (Sachdeva & Vishnoi, Faster Algorithms via Approximation Theory, 2014,
    theorem 3.3): 91 applications of T for s = 256.
    """
    exact = [
        0.0 if (power - k) % 2 else math.comb(power, (power - k) // 2) * 2.0 ** (1 - power) for k in range(power + 1)
    ]
    exact[0] /= 2
    kept = next(k for k in range(1, power + 1) if sum(exact[k + 1 :]) < precise_to)
    return tuple(exact[: kept + 1])
