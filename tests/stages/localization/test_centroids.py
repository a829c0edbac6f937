"""stages/localization/centroids.py: centroids against a plain loop, clusters and instances by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.score_maps import ScoreMap
from stages.localization.centroids import (
    centroids_of,
    clusters_of,
    connected_parts,
    instances_between_boundaries,
)
from stages.localization.random_walk import boundary_affinities, walk
from stages.refiners.settings.irn import InstanceSettings


def to_centres(size: tuple[int, int], centres: list[tuple[float, float]]) -> np.ndarray:
    """(2, h, w): from each cell half of the way to the nearest centre."""
    y, x = np.indices(size)
    nearest = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in centres], axis=0)
    return (
        np.stack([np.choose(nearest, values) - at for values, at in zip(np.transpose(centres), (y, x), strict=True)])
        / 2
    )


def by_a_loop(displacement: np.ndarray, steps: int) -> np.ndarray:
    _, height, width = displacement.shape
    found = np.zeros((2, height, width), int)
    for y in range(height):
        for x in range(width):
            at = [float(y), float(x)]
            for _ in range(steps):
                top, left = math.floor(at[0]), math.floor(at[1])
                move = [0.0, 0.0]
                for j, i in ((top, left), (top + 1, left), (top, left + 1), (top + 1, left + 1)):
                    share = (1 - abs(at[0] - j)) * (1 - abs(at[1] - i))
                    if share > 0:
                        move = [m + share * d for m, d in zip(move, displacement[:, j, i], strict=True)]
                at = [min(max(a + m, 0), n - 1) for a, m, n in zip(at, move, (height, width), strict=True)]
            found[:, y, x] = [round(a) for a in at]
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 5))
def test_a_centroid_is_where_the_displacements_lead(seed, steps):
    rng = np.random.default_rng(seed)
    displacement = rng.normal(size=(2, *rng.integers(1, 8, 2))) * 2
    assert np.array_equal(centroids_of(displacement, steps), by_a_loop(displacement, steps))


def test_the_cells_around_two_centres_are_two_clusters():
    displacement = to_centres((12, 20), [(6, 4), (5, 15)])
    centroids = centroids_of(displacement, 50)
    assert {tuple(place) for place in centroids.reshape(2, -1).T} == {(6, 4), (5, 15)}
    clusters = clusters_of(centroids, displacement, 1.0)
    assert clusters.max() == 1
    assert (clusters[:, :9] == clusters[0, 0]).all()
    assert (clusters[:, 11:] == 1 - clusters[0, 0]).all()


def test_cells_that_end_at_long_displacements_are_the_first_cluster():
    """A field that leads out of the map at the right, and one still cell at the left."""
    displacement = np.zeros((2, 3, 6))
    displacement[1, :, 1:] = 4
    clusters = clusters_of(centroids_of(displacement, 10), displacement, 2.5)
    assert np.array_equal(clusters, np.tile([1, 0, 0, 0, 0, 0], (3, 1)))


def maps(scores: np.ndarray, size: tuple[int, int]) -> ScoreMap:
    return ScoreMap("x", scores.astype(np.float32), np.arange(3, 3 + len(scores), dtype=np.uint8), size, 4, "cam")


SETTINGS = InstanceSettings(doublings=2, radius=3, still=1.0)


def test_two_objects_of_one_class_are_two_instances():
    scores = np.zeros((1, 12, 20))
    scores[0, 3:9, 2:7] = 1
    scores[0, 3:8, 12:18] = 0.8
    displacement = to_centres((12, 20), [(6, 4), (5, 15)])
    boundary = np.zeros((12, 20), np.float32)
    found = instances_between_boundaries(maps(scores, (45, 77)), boundary, displacement, SETTINGS)
    assert [one.class_id for one in found.instances] == [3, 3]
    assert found.numbers[24, 16] == 1  # the highest score first
    assert found.numbers[20, 60] == 2
    assert (found.numbers[:, :28][found.numbers[:, :28] > 0] == 1).all()
    # apart, the two are walked to the values that the walk of each has alone
    first = walk(scores * (np.arange(20) < 10), boundary_affinities(boundary, 3), 10, 2)
    second = walk(scores * (np.arange(20) >= 10), boundary_affinities(boundary, 3), 10, 2)
    assert found.instances[0].score == pytest.approx(1)
    assert found.instances[1].score == pytest.approx(second.max() / first.max(), rel=1e-5)


def test_one_cluster_gives_the_semantic_mask():
    """Without displacements no cell moves: one instance, where the refined map exceeds the background."""
    scores = np.random.default_rng(0).random((1, 9, 9)) ** 4
    found = instances_between_boundaries(maps(scores, (33, 33)), np.zeros((9, 9)), np.zeros((2, 9, 9)), SETTINGS)
    refined = walk(scores, boundary_affinities(np.zeros((9, 9)), 3), 10, 2)[0]
    assert ((found.numbers > 0)[::4, ::4] == (refined / refined.max() > 0.25)).mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 41)])
def test_an_image_of_any_size_without_scores_has_no_instances(size):
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    for scores in (np.zeros((0, height, width)), np.zeros((2, height, width))):
        field = np.ones((2, height, width))
        found = instances_between_boundaries(maps(scores, size), np.zeros((height, width)), field, SETTINGS)
        assert found.numbers.shape == size
        assert not found.numbers.any()
        assert found.instances == ()
    one = instances_between_boundaries(
        maps(np.ones((1, height, width)), size), np.zeros((height, width)), np.zeros((2, height, width)), SETTINGS
    )
    assert (one.numbers == 1).all()


def test_small_parts_are_left_out_and_the_rest_is_ordered_by_score():
    winner = np.full((10, 10), -1)
    winner[:2, :5] = 0  # 10 pixels, in two parts ...
    winner[:2, 2] = -1  # ... of 4 and 4
    winner[5:, 5:] = 1  # 25 pixels
    winner[9, 0] = 1  # 1 pixel
    highest = np.where(winner >= 0, 0.5, 0)
    highest[0, 4], highest[1, 0] = 0.9, 0.6
    numbers, instances = connected_parts(highest, winner, [7, 2], 0.04)
    assert [(one.class_id, one.score) for one in instances] == [(7, 0.9), (7, 0.6), (2, 0.5)]
    assert np.array_equal(np.bincount(numbers.ravel()), [67, 4, 4, 25])
    assert (numbers[0, 4], numbers[1, 0], numbers[9, 9], numbers[9, 0]) == (1, 2, 3, 0)
