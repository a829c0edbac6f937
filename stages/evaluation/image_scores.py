"""The mean IoU of every scored image, kept beside an evaluation for people who look at single images.

It lies in `local/` of the evaluation, so that it is not part of its content.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from artifacts.json_items import Shape
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.intervals import counts_of
from stages.evaluation.pixel_counts import CountsRecord
from stages.evaluation.scoring import Pairs, score_pairs

IMAGE_IOU = "local/image_iou.json"


class ImageIou(Shape):
    """local/image_iou.json of an evaluation: image id -> mean IoU, null where the ground truth is 255 everywhere."""

    schema_version: Literal[1] = Field(1, alias="schema")
    mean_iou: dict[str, float | None]


class MasksRecord(Shape):
    """What `score_with_images` finds in some images, in the order of their ids."""

    all: CountsRecord
    mean_iou: dict[str, float | None]
    counts: str  # (N, 2, C), packed


def image_iou(matrix: ConfusionMatrix) -> float | None:
    """The mean IoU of one image, over the classes in its ground truth or prediction; None if nothing is scored.

    Figures of a data set are never means of these, see `ConfusionMatrix`.
    """
    mean = matrix.scores().mean_iou
    return None if math.isnan(mean) else mean


def score_with_images(
    pairs: Pairs, num_classes: int, workers: int, advance: Callable[[], object] = lambda: None, counted: bool = False
) -> tuple[ConfusionMatrix, ImageIou, list[np.ndarray]]:
    """The confusion matrix of all pairs of mask files, the mean IoU of each image, and if `counted`, `counts_of` each,
    by id. `advance` is called after each image.
    """
    found: dict[str, float | None] = {}
    counts: dict[str, np.ndarray] = {}

    def each(image_id: str, of_image: ConfusionMatrix) -> None:
        found[image_id] = image_iou(of_image)
        if counted:
            counts[image_id] = counts_of(of_image)

    matrix = score_pairs(pairs, num_classes, workers, advance, each=each)
    return matrix, ImageIou(mean_iou=dict(sorted(found.items()))), [counts[image_id] for image_id in sorted(counts)]
