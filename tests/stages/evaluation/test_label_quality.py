from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_score, recall_score

from stages.evaluation.label_quality import count_labels, label_quality

NAMES = ("background", "a", "b", "c")


def test_quality_equals_scikit_learn():
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(5):
        mask = generator.choice([0, 1, 2, 3, 255], (20, 30), p=[0.5, 0.2, 0.1, 0.1, 0.1]).astype(np.uint8)
        labels = np.where(generator.random(mask.shape) < 0.6, mask, generator.integers(0, 4, mask.shape))
        labels = np.where(generator.random(mask.shape) < 0.4, 255, labels).astype(np.uint8)
        labels[labels == 255] = 255
        pairs.append((labels, mask))
    counts = sum(count_labels(labels, mask, 4) for labels, mask in pairs)
    quality = label_quality(counts, NAMES)

    given = np.concatenate([labels[mask != 255] for labels, mask in pairs])
    truth = np.concatenate([mask[mask != 255] for _, mask in pairs])
    assert counts.dtype == np.int64
    assert counts.sum() == truth.size
    for figure, score in (("precision", precision_score), ("recall", recall_score), ("iou", jaccard_score)):
        expected = score(truth, given, labels=[0, 1, 2, 3], average=None)
        found = [quality["per_class"][name][figure] for name in NAMES]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert quality["mean"][figure] == pytest.approx(expected.mean(), abs=1e-5)
    assert quality["coverage"] == pytest.approx((given != 255).mean(), abs=1e-6)
    assert quality["accuracy"] == pytest.approx((given == truth)[given != 255].mean(), abs=1e-6)
    assert quality["per_class"]["b"]["coverage"] == pytest.approx((given != 255)[truth == 2].mean(), abs=1e-6)


def test_classes_without_pixels_have_no_figure_and_do_not_enter_the_mean():
    labels = np.array([[0, 0, 255, 2]], dtype=np.uint8)
    mask = np.array([[0, 1, 1, 255]], dtype=np.uint8)
    quality = label_quality(count_labels(labels, mask, 4), NAMES)
    assert quality["per_class"]["background"] == {"precision": 0.5, "recall": 1.0, "iou": 0.5, "coverage": 1.0}
    assert quality["per_class"]["a"] == {"precision": None, "recall": 0.0, "iou": 0.0, "coverage": 0.5}
    assert quality["per_class"]["b"]["iou"] is None  # its only label lies on an ignored pixel
    assert quality["mean"] == {"precision": 0.5, "recall": 0.5, "iou": 0.25}


def test_wrong_shapes_and_values_are_named():
    with pytest.raises(ValueError, match="differ in shape"):
        count_labels(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 4)
    with pytest.raises(ValueError, match="outside the classes"):
        count_labels(np.full((2, 3), 9, np.uint8), np.zeros((2, 3), np.uint8), 4)
