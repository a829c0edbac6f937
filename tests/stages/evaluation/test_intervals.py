"""The bootstrap interval of a mean IoU against a plain loop over draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.intervals import counts_of, mean_iou_interval


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
