"""Average precision of instance masks, as PASCAL VOC defines it for detections, with the IoU of masks.

overlaps = [overlaps_of(numbers, instances, true_numbers, true_classes), ...]      # of each image
figures = precisions(overlaps, class_names)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.instance_masks import Instance

THRESHOLDS = (0.5, 0.7, 0.75)


@dataclass(frozen=True)
class Overlaps:
    """The predicted and the true instances of one image.

    Attributes:
        iou: (N, M), of each predicted with each true mask; border pixels of the truth belong to no instance.
        scores, classes: (N,), of the predicted instances; true_classes: (M,).
    """

    iou: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    true_classes: NDArray[np.int64]


def overlaps_of(
    numbers: NDArray[np.uint8], instances: Sequence[Instance], true_numbers: NDArray[np.integer], classes: Sequence[int]
) -> Overlaps:
    """numbers, true_numbers: (H, W), k + 1 at the pixels of instance k, 0 elsewhere. classes: of the true instances."""
    count, true_count = len(instances), len(classes)
    pairs = numbers.astype(np.int64) * (true_count + 1) + true_numbers
    areas = np.bincount(pairs.ravel(), minlength=(count + 1) * (true_count + 1)).reshape(count + 1, true_count + 1)
    union = areas.sum(1)[1:, None] + areas.sum(0)[None, 1:] - areas[1:, 1:]
    return Overlaps(
        areas[1:, 1:] / np.maximum(union, 1),
        np.array([instance.score for instance in instances], float),
        np.array([instance.class_id for instance in instances], np.int64),
        np.array(classes, np.int64),
    )


def average_precision_of(images: Sequence[Overlaps], threshold: float, class_id: int | None = None) -> float | None:
    """AP of a class, or of all instances as one class; None if there is no true instance of it.

    By falling score each prediction is a hit if the true mask of its image that it overlaps most has an IoU of at least
    `threshold` and was not hit before. AP is the area below the curve of the highest precision at each recall or more
    (VOC from 2010 on).
    """
    scores: list[float] = []
    hits: list[bool] = []
    true = 0
    for image in images:
        chosen = np.ones(len(image.classes), bool) if class_id is None else image.classes == class_id
        wanted = np.ones(len(image.true_classes), bool) if class_id is None else image.true_classes == class_id
        true += int(wanted.sum())
        iou, taken = image.iou[np.ix_(chosen, wanted)], set()
        for index in np.argsort(-image.scores[chosen], kind="stable"):
            best = int(iou[index].argmax()) if iou.shape[1] else -1
            hit = best >= 0 and iou[index, best] >= threshold and best not in taken
            taken |= {best} if hit else set()
            scores.append(image.scores[chosen][index])
            hits.append(hit)
    if not true:
        return None
    right = np.cumsum(np.array(hits, int)[np.argsort(-np.array(scores), kind="stable")])
    recall, precision = right / true, right / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * highest))


def precisions(images: Sequence[Overlaps], class_names: Sequence[str]) -> dict[str, object]:
    """For each threshold: the mean over the classes with a true instance, all as one class, and each class."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    of_class = {
        name: [average_precision_of(images, threshold, class_id) for threshold in THRESHOLDS]
        for class_id, name in enumerate(class_names)
        if name != "background"
    }
    means = [mean(column) for column in zip(*of_class.values(), strict=True)]
    agnostic = [average_precision_of(images, threshold) for threshold in THRESHOLDS]

    def named(values: Sequence[float | None]) -> dict[str, float | None]:
        return {f"ap{threshold * 100:.0f}": value for threshold, value in zip(THRESHOLDS, values, strict=True)}

    return {
        **named(means),
        "class_agnostic": named(agnostic),
        "classes": {name: named(values) for name, values in of_class.items()},
    }
