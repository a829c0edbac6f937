"""The random walk of IRNet and AffinityNet, against the dense matrix that their authors square."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from stages.localization.pairs import Offset, ends
from stages.localization.random_walk import boundary_affinities, walk
from tests.benchmarks.measure import Result, in_turn

# (cells of the map, repeats); full: a matrix of 43 million entries
SIZES = {"tiny": ((6, 9), 1), "quick": ((47, 63), 3), "full": ((70, 94), 1)}
RADIUS, BETA, DOUBLINGS = 5, 10, 8  # IRNet's
CLASSES = 3


def random_walk(scale: str, folder: Path) -> Result:
    """256 steps of three score maps; by numpy on both sides, the dense one in single precision."""
    size, repeats = SIZES[scale]
    rng = np.random.default_rng(0)
    scores = np.stack([ndimage.gaussian_filter(rng.random(size), 3) for _ in range(CLASSES)]).astype(np.float32)
    boundary = ndimage.gaussian_filter(rng.random(size) ** 8, 0.7).astype(np.float32)

    def dense(doublings: int = DOUBLINGS) -> np.ndarray:
        return dense_walk(scores, boundary_affinities(boundary, RADIUS), doublings)

    def sparse() -> np.ndarray:
        return walk(scores, boundary_affinities(boundary, RADIUS), BETA, DOUBLINGS)

    baseline, ours, expected, found = in_turn(dense, sparse, repeats)
    # the number of squarings changes nothing about the memory
    dense_bytes, sparse_bytes = (peak(work) for work in (lambda: dense(1), sparse))
    clear = np.diff(np.sort(expected, 0)[-2:], axis=0)[0] > 1e-4  # single precision decides no closer ones
    equal = float(np.mean(expected.argmax(0)[clear] == found.argmax(0)[clear]))
    return Result(
        "random-walk",
        f"256 steps by shifts of the image, one core, at most {sparse_bytes / 1e6:.1f} MB; baseline: the dense matrix, "
        f"squared 8 times, {dense_bytes / 1e6:.0f} MB",
        f"{CLASSES} score maps of {size[0]} x {size[1]} cells, radius {RADIUS}",
        baseline,
        ours,
        f"the class of each cell with a lead of 1e-4, {100 * equal:.3f} % equal (wanted: 100)",
        equal == 1,
        target_ratio=100.0,
        target_most=1.0,
        figures={
            "dense_bytes": dense_bytes,
            "sparse_bytes": sparse_bytes,
            "memory_ratio": dense_bytes / sparse_bytes,
            "largest_difference": float(np.abs(expected - found).max()),
        },
    )


def dense_walk(scores: np.ndarray, affinities: dict[Offset, np.ndarray], doublings: int) -> np.ndarray:
    height, width = scores.shape[1:]
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.eye(height * width, dtype=np.float32)
    for offset, affinity in affinities.items():
        first, second = (cells[place].ravel() for place in ends(offset, height, width))
        matrix[first, second] = matrix[second, first] = affinity.ravel() ** BETA
    matrix /= matrix.sum(0)
    for _ in range(doublings):
        matrix = matrix @ matrix
    return (scores.reshape(CLASSES, -1) @ matrix).reshape(scores.shape)


def peak(work: Callable[[], Any]) -> int:
    """The most bytes that numpy held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
