"""stages/evaluation/instance_precision.py: overlaps of masks and average precision, by hand and by plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.instance_masks import Instance
from stages.evaluation.instance_precision import Overlaps, average_precision_of, overlaps_of, precisions


def overlaps(iou: list[list[float]], scores: list[float], classes: list[int], true_classes: list[int]) -> Overlaps:
    shaped = np.array(iou, float).reshape(len(classes), len(true_classes))
    return Overlaps(shaped, np.array(scores), np.array(classes, int), np.array(true_classes, int))


def test_the_overlaps_are_those_of_the_masks():
    rng = np.random.default_rng(0)
    found, true = rng.integers(0, 4, (2, 20, 30)).astype(np.uint8)
    result = overlaps_of(found, [Instance(k, 0.5) for k in (1, 2, 1)], true, [2, 1, 1])
    for i in range(3):
        for j in range(3):
            one, two = found == i + 1, true == j + 1
            assert result.iou[i, j] == pytest.approx((one & two).sum() / (one | two).sum())
    assert result.iou.shape == (3, 3)
    assert overlaps_of(found, [Instance(1, 0.5)] * 3, true * 0, []).iou.shape == (3, 0)


def test_the_precision_by_hand():
    """Hits by falling score: yes, no (the mask was hit before), no (overlap too small), yes; three true masks.

    Precision 1 at recall 1/3, 1/2 at recall 2/3: AP = 1/3 + 1/3 * 1/2.
    """
    first = overlaps([[0.9, 0.0], [0.8, 0.0], [0.0, 0.4]], [0.9, 0.8, 0.7], [1, 1, 1], [1, 1])
    second = overlaps([[0.6]], [0.2], [1], [1])
    assert average_precision_of([first, second], 0.5) == pytest.approx(1 / 3 + 1 / 6)
    assert average_precision_of([first, second], 0.7) == pytest.approx(1 / 3)
    assert average_precision_of([first, second], 0.4) == pytest.approx(1 / 3 + 3 / 4 * 2 / 3)


def test_classes_are_matched_apart_unless_all_are_one():
    image = overlaps([[0.9], [0.8]], [0.9, 0.8], [1, 2], [2])
    assert average_precision_of([image], 0.5, 1) is None
    assert average_precision_of([image], 0.5, 2) == 1
    assert average_precision_of([image], 0.5) == 1
    figures = precisions([image], ("background", "cat", "dog"))
    assert (figures["ap50"], figures["ap75"]) == (1, 1)
    assert figures["classes"] == {
        "cat": {"ap50": None, "ap70": None, "ap75": None},
        "dog": {"ap50": 1.0, "ap70": 1.0, "ap75": 1.0},
    }
    assert figures["class_agnostic"]["ap70"] == 1


def test_without_predictions_the_precision_is_0_and_without_truth_there_is_none():
    nothing_found = overlaps([], [], [], [1, 2])
    assert average_precision_of([nothing_found], 0.5) == 0
    assert precisions([nothing_found], ("background", "cat", "dog"))["ap50"] == 0
    nothing_there = overlaps([], [0.3], [1], [])
    assert precisions([nothing_there], ("background", "cat"))["ap50"] is None
