"""The bootstrap interval of a mean IoU against a plain loop over draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.intervals import counts_of, mean_iou_interval, share_of_draws_higher


def matrix_of(truth: np.ndarray, predicted: np.ndarray, num_classes: int = 3) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    matrix.add(predicted.astype(np.uint8), truth.astype(np.uint8))
    return matrix


def some_matrices(count: int, seed: int = 0) -> list[ConfusionMatrix]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        truth = rng.integers(0, 3, (6, 6))
        found.append(matrix_of(truth, np.where(rng.random((6, 6)) < rng.random(), truth, rng.integers(0, 3, (6, 6)))))
    return found


def test_as_a_loop_over_joint_matrices() -> None:
    matrices = some_matrices(7)
    rng, figures = np.random.default_rng(0), []
    for times in rng.multinomial(7, [1 / 7] * 7, 200):
        joint = ConfusionMatrix(3)
        for matrix, count in zip(matrices, times, strict=True):
            for _ in range(count):
                joint.merge(matrix)
        figures.append(joint.scores().to_json()["mean_iou"])
    assert mean_iou_interval([counts_of(m) for m in matrices], 200) == pytest.approx(
        tuple(np.quantile(figures, [0.025, 0.975]))
    )


def test_a_class_that_a_draw_lacks_does_not_count_there() -> None:
    perfect = [matrix_of(np.zeros((2, 2)), np.zeros((2, 2))), matrix_of(np.ones((2, 2)), np.ones((2, 2)))]
    assert mean_iou_interval([counts_of(m) for m in perfect], 50) == (1.0, 1.0)


def test_the_classes_that_are_named_count_alone() -> None:
    truth, wrong = np.ones((2, 2)), np.zeros((2, 2))
    counts = [counts_of(matrix_of(truth, truth)), counts_of(matrix_of(wrong, wrong))]
    assert mean_iou_interval(counts, 50, classes=[1]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no image has a pixel"):
        mean_iou_interval(counts, 50, classes=[2])


@given(st.integers(1, 12), st.integers(0, 99))
def test_an_interval_lies_between_0_and_1_and_does_not_depend_on_portions(count: int, seed: int) -> None:
    counts = [counts_of(m) for m in some_matrices(count, seed)]
    low, high = mean_iou_interval(counts, 40, seed=seed)
    assert 0 <= low <= high <= 1
    if count == 1:
        assert low == pytest.approx(high)


def test_the_share_of_draws_as_a_loop_over_joint_matrices() -> None:
    first, second = some_matrices(6, 9), some_matrices(6, 19)
    rng, higher = np.random.default_rng(0), []
    for times in rng.multinomial(6, [1 / 6] * 6, 300):
        means = []
        for matrices in (first, second):
            joint = ConfusionMatrix(3)
            for matrix, count in zip(matrices, times, strict=True):
                for _ in range(count):
                    joint.merge(matrix)
            means.append(joint.scores().to_json()["mean_iou"])
        higher.append((np.sign(means[0] - means[1]) + 1) / 2)
    counts = [[counts_of(m) for m in matrices] for matrices in (first, second)]
    assert share_of_draws_higher(*counts, 300) == pytest.approx(np.mean(higher))
    assert 0.05 < np.mean(higher) < 0.95  # neither order is sure: the loop tests something


@given(st.integers(1, 9), st.integers(0, 99))
def test_the_shares_of_both_orders_are_the_whole(count: int, seed: int) -> None:
    first, second = ([counts_of(m) for m in some_matrices(count, seed + n)] for n in (0, 1))
    assert share_of_draws_higher(first, second, 60) + share_of_draws_higher(second, first, 60) == pytest.approx(1)
    assert share_of_draws_higher(first, first, 60) == 0.5


def test_counts_of_other_images_are_refused() -> None:
    counts = [counts_of(m) for m in some_matrices(3)]
    with pytest.raises(ValueError, match="not of the same images"):
        share_of_draws_higher(counts, counts[:2], 10)
