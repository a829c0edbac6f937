"""The confusion matrix against scikit-learn, a plain loop and numbers worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from artifacts.errors import ConfigError, DataError
from stages.evaluation.confusion import ConfusionMatrix


def mask(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_worked_by_hand() -> None:
    #  truth  0 0 1 1 255      found  0 1 1 2 0
    matrix = ConfusionMatrix(4)
    matrix.add(mask([0, 1, 1, 2, 0]), mask([0, 0, 1, 1, 255]))
    scores = matrix.scores(["background", "cat", "cow", "dog"])
    assert scores.iou[:3].tolist() == [1 / 2, 1 / 3, 0]  # 1/(1+0+1), 1/(1+1+1), predicted but not there
    assert np.isnan(scores.iou[3])  # neither there nor predicted
    assert scores.mean_iou == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert scores.absent == ("dog",)
    assert scores.pixel_accuracy == 2 / 4
    assert scores.mean_accuracy == pytest.approx((1 / 2 + 1 / 2) / 2)  # over the classes that are there
    assert (matrix.ignored, matrix.images) == (1, 1)


def test_no_answer_counts_as_wrong_and_is_reported() -> None:
    silent, honest = ConfusionMatrix(2), ConfusionMatrix(2)
    honest.add(mask([0, 0, 1, 1]), mask([0, 0, 1, 1]))
    silent.add(mask([0, 255, 1, 255]), mask([0, 0, 1, 1]))
    assert honest.scores().mean_iou == 1
    scores = silent.scores()
    assert scores.iou.tolist() == [0.5, 0.5]  # missed, but no other class is blamed for it
    assert scores.precision.tolist() == [1, 1]
    assert scores.pixel_accuracy == 0.5
    pixels = scores.to_json()["pixels"]
    assert (pixels["unanswered"], pixels["unanswered_share"], pixels["ignored"]) == (2, 0.5, 0)


def test_no_answer_where_the_truth_is_unknown_is_not_counted() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(mask([255, 1]), mask([255, 1]))
    assert matrix.counts.sum() == 1
    assert matrix.scores().to_json()["pixels"]["unanswered"] == 0


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    num_classes = draw(st.integers(1, 8))
    values = st.sampled_from([*range(num_classes), 255])
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    count = shape[0] * shape[1]
    masks = [
        np.array(draw(st.lists(values, min_size=count, max_size=count)), np.uint8).reshape(shape) for _ in range(2)
    ]
    return num_classes, masks[0], masks[1]


@settings(max_examples=150)
@given(pairs())
def test_equals_scikit_learn(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    num_classes, found, truth = case
    matrix = ConfusionMatrix(num_classes)
    matrix.add(found, truth)
    known = truth != 255
    answer = np.where(found == 255, num_classes, found)[known]  # "no answer" as a class of its own
    expected = confusion_matrix(truth[known], answer, labels=range(num_classes + 1)) if known.any() else None
    if expected is None:
        assert matrix.counts.sum() == 0
        assert np.isnan(matrix.scores().mean_iou)
        return
    np.testing.assert_array_equal(matrix.counts, expected[:num_classes])
    scores = matrix.scores()
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth[known], answer))
    occurs = np.union1d(truth[known], answer[answer < num_classes])
    iou = jaccard_score(truth[known], answer, labels=occurs, average=None, zero_division=0)
    np.testing.assert_allclose(scores.iou[occurs], iou)
    assert scores.mean_iou == pytest.approx(iou.mean())
    assert np.isnan(scores.iou).sum() == num_classes - len(occurs)
    there = np.unique(truth[known])
    recall = recall_score(truth[known], answer, labels=there, average="macro", zero_division=0)
    assert scores.mean_accuracy == pytest.approx(recall)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.integers(0, 1000))
def test_merging_parts_equals_one_matrix(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, merged = ConfusionMatrix(5), ConfusionMatrix(5)
    for size in sizes:
        part = ConfusionMatrix(5)
        for _ in range(size):
            found, truth = rng.choice([0, 1, 2, 3, 4, 255], (2, 7, 6)).astype(np.uint8)
            whole.add(found, truth)
            part.add(found, truth)
        merged.merge(part)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (merged.images, merged.ignored) == (whole.images, whole.ignored)


def test_counts_beyond_what_float32_holds() -> None:
    # 2^24 + 1 is the first integer float32 cannot hold; a val split has 2.6e8 pixels
    matrix = ConfusionMatrix(2)
    big = np.zeros((4097, 4096), np.uint8)
    matrix.add(big, big)
    matrix.add(mask([0]), mask([0]))
    assert matrix.counts[0, 0] == 4097 * 4096 + 1


def test_mean_over_chosen_classes() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(mask([0, 1, 2, 2]), mask([0, 1, 1, 2]))
    scores = matrix.scores(["background", "cat", "dog"], classes=[0, 2])
    assert scores.mean_iou == pytest.approx((1 + 1 / 2) / 2)
    assert scores.to_json()["mean_over"] == ["background", "dog"]
    assert set(scores.to_json()["classes"]) == {"background", "cat", "dog"}


def test_json_holds_no_nan() -> None:
    matrix = ConfusionMatrix(3)
    text = json.dumps(matrix.scores().to_json(), allow_nan=False)
    assert json.loads(text)["mean_iou"] is None


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "2 rows and 3 columns"),
        (np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8), "prediction is int64"),
        (mask([0, 7, 7]), mask([0, 0, 0]), r"prediction holds 2 pixels .*values \[7\]"),
        (mask([0, 0, 0]), mask([0, 3, 0]), r"ground truth holds 1 pixels .*values \[3\]"),
        (mask([5]), mask([255]), "prediction holds 1 pixels"),  # an impossible value is no prediction, wherever it is
    ],
)
def test_bad_masks_are_named(found: np.ndarray, truth: np.ndarray, message: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(DataError, match=message):
        matrix.add(found, truth)
    assert matrix.counts.sum() == matrix.images == 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"expected 1\.\.255"):
        ConfusionMatrix(256)
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        ConfusionMatrix(3).scores(["a", "b"])
    with pytest.raises(DataError, match="3 and 4 classes"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
