"""The quality of label maps with unknown pixels, compared with masks: precision, recall, IoU and coverage per class.

The definitions are DSRG's (Huang et al., CVPR 2018, Fig. 4: supervision quality): of each class over the whole
split, then the mean over the classes. Pixels whose mask is 255 are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.masks import IGNORE


def count_labels(labels: NDArray, mask: NDArray, num_classes: int) -> NDArray[np.int64]:
    """int64 (C, C + 1): pixels of true class (row) by given label (column); the last column is unknown (255).

    Add the counts of several images. Raises ValueError for different shapes or a value outside the classes.
    """
    if labels.shape != mask.shape:
        raise ValueError(f"labels {labels.shape} and mask {mask.shape} differ in shape")
    valid = mask != IGNORE
    truth = mask[valid].astype(np.int64)
    given = labels[valid].astype(np.int64)
    given[given == IGNORE] = num_classes
    if truth.size and (truth.max() >= num_classes or given.max() > num_classes):
        raise ValueError(f"a value outside the classes 0..{num_classes - 1} and {IGNORE}")
    counts = np.bincount(truth * (num_classes + 1) + given, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1).astype(np.int64)


def label_quality(counts: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Figures from the counts of `count_labels`, as JSON.

    Per class: precision = TP / labelled as it, recall = TP / all its pixels, iou = TP / (labelled as it or truly
    it), coverage = share of its pixels that have any label. A figure without pixels to divide by is None and
    left out of the mean. The overall `coverage` is the share of all pixels that have a label, `accuracy` the
    share of those that are right.
    """
    known = counts[:, :-1]
    hits = np.diagonal(known)
    given, truth = known.sum(axis=0), counts.sum(axis=1)
    figures = {
        "precision": _shares(hits, given),
        "recall": _shares(hits, truth),
        "iou": _shares(hits, given + truth - hits),
        "coverage": _shares(known.sum(axis=1), truth),
    }
    per_class = {
        name: {key: values[index] for key, values in figures.items()} for index, name in enumerate(class_names)
    }
    (coverage,) = _shares(known.sum(keepdims=True).ravel(), counts.sum(keepdims=True).ravel())
    (accuracy,) = _shares(hits.sum(keepdims=True), known.sum(keepdims=True).ravel())
    mean = {key: _mean(figures[key]) for key in ("precision", "recall", "iou")}
    return {"mean": mean, "coverage": coverage, "accuracy": accuracy, "per_class": per_class}


def _shares(parts: NDArray, wholes: NDArray) -> list[float | None]:
    return [round(int(part) / int(whole), 6) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None
