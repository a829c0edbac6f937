"""Pairs and random walks against the definition: dense matrices, plain loops, numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stages.localization.pair_learning import feature_affinities
from stages.localization.pairs import class_boundary_affinity, line_between, offsets, partners
from stages.localization.random_walk import boundary_affinities, walk


def test_half_a_disc_holds_each_pair_once() -> None:
    assert [len(offsets(radius)) for radius in (2, 5, 10)] == [4, 34, 152]
    for radius in (3, 5, 8):
        disc = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < radius**2}
        half = set(offsets(radius))
        assert half | {(-y, -x) for y, x in half} == disc
        assert not half & {(-y, -x) for y, x in half}


def test_lines_by_hand() -> None:
    assert line_between((0, 3)) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert line_between((2, 0)) == ((0, 0), (1, 0), (2, 0))
    assert set(line_between((1, 1))) == {(0, 0), (0, 1), (1, 0), (1, 1)}  # the others are .7 cells away
    assert set(line_between((2, -2))) == {(0, 0), (0, -1), (1, 0), (1, -1), (1, -2), (2, -1), (2, -2)}
    for dy, dx in offsets(7):
        length = math.hypot(dy, dx)
        for y, x in line_between((dy, dx)):
            assert abs(dy * x - dx * y) / length < 1


def test_the_boundary_of_a_line_is_its_highest_cell() -> None:
    rng = np.random.default_rng(0)
    boundary = rng.random((9, 12), dtype=np.float32)
    found = class_boundary_affinity(torch.from_numpy(boundary)[None], 4)[0].numpy()
    assert found.shape == (len(offsets(4)), 6, 6)
    for number, (dy, dx) in enumerate(offsets(4)):
        for y in range(6):
            for x in range(6):
                path = [boundary[y + j, x + 3 + i] for j, i in line_between((dy, dx))]
                assert found[number, y, x] == pytest.approx(1 - max(path))
    everywhere = boundary_affinities(boundary, 4)
    for number, (dy, dx) in enumerate(offsets(4)):
        left = max(-dx, 0)  # column 0 of `everywhere` is column `left` of the map
        assert np.allclose(everywhere[dy, dx][:6, 3 - left : 9 - left], found[number])


def test_a_map_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a map of 3 x 8 cells has no pairs for radius 5"):
        class_boundary_affinity(torch.zeros(1, 3, 8), 5)


def test_partners_are_the_labels_at_both_ends() -> None:
    labels = torch.arange(8 * 9).reshape(1, 8, 9)
    first, second = partners(labels, 3)
    assert first.shape == second.shape == (1, len(offsets(3)), 6, 5)
    for number, (dy, dx) in enumerate(offsets(3)):
        assert torch.equal(second[0, number] - first[0, number], torch.full((6, 5), 9 * dy + dx))


def dense_walk(
    scores: np.ndarray, affinity: Callable[[int, int, int, int], float], radius: int, beta: float, doublings: int
) -> np.ndarray:
    """By the definition: an n x n matrix, squared `doublings` times. affinity: of (y, x) and (y + dy, x + dx)."""
    height, width = scores.shape[1:]
    matrix = np.eye(height * width)
    for y in range(height):
        for x in range(width):
            for dy, dx in offsets(radius):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    matrix[i, j] = matrix[j, i] = affinity(y, x, dy, dx) ** beta
    matrix /= matrix.sum(0, keepdims=True)
    for _ in range(doublings):
        matrix = matrix @ matrix
    return (scores.reshape(len(scores), -1) @ matrix).reshape(scores.shape)


def between(boundary: np.ndarray) -> Callable[[int, int, int, int], float]:
    """IRNet's affinity, pair by pair."""
    return lambda y, x, dy, dx: 1 - max(boundary[y + j, x + i] for j, i in line_between((dy, dx)))


def of_features(features: np.ndarray) -> Callable[[int, int, int, int], float]:
    """AffinityNet's affinity, pair by pair."""
    return lambda y, x, dy, dx: math.exp(-np.abs(features[:, y, x] - features[:, y + dy, x + dx]).mean())


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.sampled_from([1, 4, 10]), st.integers(0, 6))
def test_the_sparse_walk_is_the_dense_one(height: int, width: int, radius: int, beta: float, doublings: int) -> None:
    rng = np.random.default_rng(height * 100 + width)
    boundary, scores = rng.random((height, width)), rng.random((2, height, width))
    found = walk(scores, boundary_affinities(boundary, radius), beta, doublings)
    assert np.allclose(found, dense_walk(scores, between(boundary), radius, beta, doublings), rtol=1e-5, atol=1e-6)


def test_scores_stay_on_their_side_of_a_boundary_and_even_out_within() -> None:
    boundary = np.zeros((12, 16), np.float32)
    boundary[:, 8] = 1
    scores = np.zeros((1, 12, 16), np.float32)
    scores[0, 6, 3] = 1
    found = walk(scores, boundary_affinities(boundary, 5), 10, 8)[0]
    assert found[:, 9:].max() == 0
    assert found[:, :8].min() > 0
    assert found[:, :8].std() < 1e-3 * found[:, :8].mean() + 1e-4


@pytest.mark.parametrize("paper", ["irn", "psa"])
def test_every_pixel_of_small_images_has_the_class_that_the_dense_walk_gives_it(paper: str) -> None:
    """Published settings: radius 5, 256 steps; two classes and background in blobs, of which the highest wins."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        size = (int(rng.integers(9, 15)), int(rng.integers(9, 15)))
        scores = np.stack([ndimage.gaussian_filter(rng.random(size), 1.5) for _ in range(3)])
        if paper == "irn":
            boundary = rng.random(size) ** 3
            found = walk(scores, boundary_affinities(boundary, 5), 10, 8)
            expected = dense_walk(scores, between(boundary), 5, 10, 8)
        else:
            features = ndimage.gaussian_filter(rng.normal(0, 6, (7, *size)), (0, 1, 1))
            affinities = feature_affinities(torch.from_numpy(features)[None], 5)
            found = walk(scores, {offset: of_one[0].numpy() for offset, of_one in affinities.items()}, 8, 8)
            expected = dense_walk(scores, of_features(features), 5, 8, 8)
        assert np.array_equal(found.argmax(0), expected.argmax(0))
        assert len(np.unique(expected.argmax(0))) > 1
