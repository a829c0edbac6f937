"""The rules of stages/localization/seed_labels.py, on maps worked by hand and against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.localization.seed_labels import dense_labels, saliency_labels, seed_labels, sure_background
from stages.localization.seeds_config import SaliencyRule

U = 255


def maps(*rows):
    return np.array(rows, dtype=np.float32)[:, None, :]  # (K, 1, w)


def test_a_class_may_have_pixels_from_its_share_of_its_own_maximum_on():
    scores = maps([1.0, 0.2, 0.19, 0.0], [0.05, 0.0, 0.0, 0.5])  # 0.05 is below 0.2 * 0.5
    labels = seed_labels(scores, np.array([3, 7]), background=None)
    np.testing.assert_array_equal(labels, [[3, 3, U, 7]])


def test_the_smaller_area_wins_or_the_higher_score():
    scores = maps([1.0, 0.9, 0.8], [0.0, 0.3, 1.0])
    np.testing.assert_array_equal(seed_labels(scores, np.array([1, 2]), None), [[1, 2, 2]])
    by_score = seed_labels(scores, np.array([1, 2]), None, overlap="highest_score")
    np.testing.assert_array_equal(by_score, [[1, 1, 2]])
    tie = seed_labels(scores[:, :, 1:], np.array([2, 1]), None)  # both may have two pixels: the lower id
    np.testing.assert_array_equal(tie, [[1, 1]])


@pytest.mark.parametrize(("score", "expected"), [(0.15, 1), (0.2, 0), (0.25, 0), (0.5, 0)])
def test_a_score_equal_to_the_background_is_compared_as_it_is_stored(score, expected):
    """float16 holds .15002 for .15, .19995 for .2, and .25 and .5 exactly; the background is not rounded."""
    scores = np.full((1, 1, 1), score, np.float16).astype(np.float32)
    assert dense_labels(scores, np.array([1]), score) == expected


@pytest.mark.parametrize(("conflict", "expected"), [("foreground", 5), ("ignore", U), ("background", 0)])
def test_conflicts_of_classes_and_background(conflict, expected):
    scores = maps([1.0, 1.0, 0.0, 0.0])
    background = np.array([[True, False, True, False]])
    labels = seed_labels(scores, np.array([5]), background, conflict=conflict)
    np.testing.assert_array_equal(labels, [[expected, 5, 0, U]])


@pytest.mark.parametrize("overlap", ["smaller_area", "highest_score"])
def test_maps_of_zeros_and_images_without_labels_give_no_seeds(overlap):
    background = np.array([[True, False]])
    zeros = seed_labels(np.zeros((1, 1, 2), np.float32), np.array([4]), background, overlap=overlap)
    none = seed_labels(np.zeros((0, 1, 2), np.float32), np.array([], np.uint8), background, overlap=overlap)
    np.testing.assert_array_equal(zeros, [[0, U]])
    np.testing.assert_array_equal(none, [[0, U]])
    np.testing.assert_array_equal(dense_labels(np.zeros((0, 1, 2), np.float32), np.array([])), [[0, 0]])


def test_dense_labels_with_a_constant_and_with_affinitynets_background():
    scores = maps([0.1, 0.25, 0.6], [0.15, 0.2, 0.9])
    classes = np.array([2, 6])
    np.testing.assert_array_equal(dense_labels(scores, classes, 0.2), [[0, 2, 6]])
    # (1 - .15)^4 = .52 > .15, (1 - .25)^4 = .32 > .25, (1 - .9)^4 = .0001 < .9
    np.testing.assert_array_equal(dense_labels(scores, classes, alpha=4), [[0, 0, 6]])
    # (1 - .15)^32 = .006 < .15; the background is sure nowhere
    np.testing.assert_array_equal(sure_background(scores, 32), [[False, False, False]])
    np.testing.assert_array_equal(sure_background(scores, 4), [[True, True, False]])


@settings(max_examples=100, derandomize=True)
@given(
    seed=st.integers(0, 9999),
    count=st.integers(0, 4),
    overlap=st.sampled_from(["smaller_area", "highest_score"]),
    conflict=st.sampled_from(["foreground", "ignore", "background"]),
    threshold=st.sampled_from([0.2, 0.5, 1.0]),
)
def test_seeds_equal_a_loop_over_the_pixels(seed, count, overlap, conflict, threshold):
    generator = np.random.default_rng(seed)
    scores = generator.random((count, 5, 6)).astype(np.float32) * generator.choice([0, 1, 0.3], (count, 1, 1))
    classes = np.sort(generator.choice(np.arange(1, 21), count, replace=False))
    background = generator.random((5, 6)) < 0.4
    labels = seed_labels(scores, classes, background, threshold, overlap, conflict)

    peaks = [plane.max() for plane in scores]
    areas = [sum(v >= threshold * p for v in plane.ravel()) for plane, p in zip(scores, peaks, strict=True)]
    for y in range(5):
        for x in range(6):
            candidates = [k for k in range(count) if peaks[k] > 0 and scores[k, y, x] >= threshold * peaks[k]]
            if overlap == "smaller_area":
                candidates.sort(key=lambda k: (areas[k], classes[k]))
            else:
                candidates.sort(key=lambda k: -scores[k, y, x])
            if candidates and background[y, x]:
                expected = {"foreground": classes[candidates[0]], "ignore": U, "background": 0}[conflict]
            elif candidates:
                expected = classes[candidates[0]]
            else:
                expected = 0 if background[y, x] else U
            assert labels[y, x] == expected


# --- masks by saliency ---

GROUP_WSSS = {"least": 0.0}
DRS = {"score": "binary", "threshold": 0.2, "most_sure": 2, "attended": 1.0, "least": 0.0}


@pytest.mark.parametrize(
    ("scores", "saliency", "of_group_wsss", "of_drs"),
    [
        ((0.5, 0.1), 0.0, 0, 0),  # 1 - saliency is highest
        ((0.5, 0.1), 0.7, 3, 3),
        ((0.1, 0.85), 0.1, 255, 0),  # background wins, a class is attended
        ((0.1, 0.15), 0.14, 255, 0),  # background wins, but is not sure
        ((0.1, 0.15), 0.6, 255, 255),  # as before; too low to count
        ((0.1, 0.15), 0.9, 8, 255),
        ((0.95, 0.1), 0.05, 255, 0),  # two sure ones: class 3 and background
        ((0.95, 0.99), 0.05, 255, 255),  # three
        ((0.95, 0.99), 0.5, 255, 8),  # two classes
        ((0.95, 0.9), 0.5, 3, 3),  # .9 is not above .9
    ],
)
def test_masks_by_saliency_pixel_by_pixel(scores, saliency, of_group_wsss, of_drs):
    maps, grey = np.array(scores, np.float32)[:, None, None], np.full((1, 1), saliency, np.float32)
    for values, salient, expected in ((GROUP_WSSS, 0.125, of_group_wsss), (DRS, 0.2, of_drs)):
        rule = SaliencyRule.model_validate({"mode": "saliency", **values})
        assert saliency_labels(maps, np.array([3, 8]), grey, salient, rule).tolist() == [[expected]]


def test_too_small_a_share_of_classes_makes_all_of_an_image_unknown():
    scores, saliency = np.zeros((1, 10, 10), np.float32), np.zeros((10, 10), np.float32)
    scores[0, 0, 0], saliency[0, 0] = 1, 1
    for least, expected in ((0.01, {0, 4}), (0.02, {255})):
        rule = SaliencyRule(mode="saliency", least=least)
        assert set(saliency_labels(scores, np.array([4]), saliency, 0.125, rule).ravel().tolist()) == expected


def test_masks_by_saliency_of_an_image_without_a_class():
    saliency = np.array([[0.0, 0.5]], np.float32)
    none = np.zeros((0, 1, 2), np.float32), np.array([], np.uint8), saliency, 0.125
    assert saliency_labels(*none, SaliencyRule(mode="saliency", least=0)).tolist() == [[0, 255]]
    assert saliency_labels(*none, SaliencyRule(mode="saliency")).tolist() == [[255, 255]]
