"""Masks at every background threshold, judged in one pass over the score maps.

A pixel is background unless its highest score exceeds the threshold: a score equal to the threshold is background, as
in `stages.localization.seed_labels.dense_labels`. So it is enough to know of each pixel its true class, the class of
its highest score, and how many of the thresholds lie below that score. One histogram of the three holds the confusion
matrix at every threshold, in sums over the last of them.

    sweep = ThresholdSweep(num_classes=21, thresholds=[0.0, 0.01, 0.02])
    sweep.add(classes, count_pixels(winner, highest, truth, len(classes), sweep.thresholds, 21))
    sweep.matrices()[2]     # as of the masks at threshold 0.02
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import DataError
from artifacts.masks import IGNORE
from stages.evaluation.confusion import ConfusionMatrix, Scores
from stages.evaluation.label_quality import label_quality

RULE = "a pixel is background unless its highest score exceeds the threshold"


def count_pixels(
    winner: NDArray, highest: NDArray, truth: NDArray, num_maps: int, thresholds: Sequence[float], num_classes: int
) -> NDArray[np.int64]:
    """int64 (C + 1, K, T + 1): an image's pixels by true class (the last: 255), winner, and thresholds below its score.

    winner: (H, W), which of the K maps has the highest score. highest: float32 (H, W), that score. truth: uint8 (H, W).
    thresholds: ascending; compared as float32, in which a score is compared with one threshold alone, too.
    """
    below = np.searchsorted(np.asarray(thresholds, np.float32), highest.astype(np.float32), side="left")
    rows = np.where(truth == IGNORE, num_classes, truth).astype(np.int64)
    shape = (num_classes + 1, num_maps, len(thresholds) + 1)
    codes = (rows * num_maps + winner) * shape[2] + below
    return np.bincount(codes.ravel(), minlength=int(np.prod(shape))).reshape(shape)


class ThresholdSweep:
    """Pixels of images by true class, class of the highest score, and number of thresholds below that score.

    Attributes:
        counts: int64 (C, C, T + 1). ignored, images, blank: as of `ConfusionMatrix`.
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float]) -> None:
        self.num_classes, self.thresholds = num_classes, tuple(thresholds)
        self.counts = np.zeros((num_classes, num_classes, len(self.thresholds) + 1), np.int64)
        self.ignored = self.images = self.blank = 0

    def add(self, classes: NDArray, counted: NDArray[np.int64]) -> None:
        """An image, of `count_pixels`; classes: (K,), the class id of each of its maps."""
        self.counts[:, classes] += counted[:-1]
        self.ignored += int(counted[-1].sum())
        self.images += 1
        self.blank += not counted[:-1].any()

    def matrices(self) -> list[ConfusionMatrix]:
        """The confusion matrix at each threshold."""
        exceeding = self.counts[..., ::-1].cumsum(-1)[..., ::-1]  # (C, C, T + 1): pixels with so many below, or more
        found = []
        for index in range(len(self.thresholds)):
            matrix = ConfusionMatrix(self.num_classes)
            matrix.counts[:, :-1] = exceeding[..., index + 1]
            matrix.counts[:, 0] += (exceeding[..., 0] - exceeding[..., index + 1]).sum(1)
            matrix.ignored, matrix.images, matrix.blank = self.ignored, self.images, self.blank
            found.append(matrix)
        return found


@dataclass(frozen=True)
class Judgement:
    """Score maps judged: the curve over the thresholds, and the scores at the one that is best where it is chosen.

    Attributes:
        curve: scores of the scored images at each threshold. choosing: the mean IoU of those to choose by.
        chosen: index of the threshold; the lowest of several that are alike.
        images, shared: how many images it was chosen on, and how many of these are scored.
    """

    thresholds: tuple[float, ...]
    curve: tuple[Scores, ...]
    choosing: tuple[float, ...]
    chosen: int
    images: int
    shared: int

    @property
    def scores(self) -> Scores:
        return self.curve[self.chosen]

    @property
    def remark(self) -> str:
        """What makes the figure too good; "" where nothing was chosen, or on other images."""
        if len(self.thresholds) == 1 or not self.shared:
            return ""
        if self.shared == self.images:
            return "the threshold was chosen on the scored images: the figure flatters"
        return (
            f"{self.shared:,} of the {self.images:,} images the threshold was chosen on are scored: the figure flatters"
        )

    def sentences(self) -> list[str]:
        """What a person should know of the choice."""
        threshold, last = self.thresholds[self.chosen], len(self.thresholds) - 1
        there = f"mean IoU {100 * self.choosing[self.chosen]:.2f} on the {self.images:,} images it was chosen on"
        found = [f"threshold {threshold:g}" + (f": {there}" if last else ", which was given")]
        if last and self.chosen in (0, last):
            found.append(
                f"the best threshold is the {'first' if self.chosen == 0 else 'last'} of those tried: try more"
            )
        return [*found, self.remark] if self.remark else found

    def to_json(self, chosen_on: Sequence[str]) -> dict[str, Any]:
        """The scores as `Scores.to_json` gives them, with coverages, and under "sweep" the curve."""
        scores = self.scores
        coverage, of_classes = object_coverage(scores.counts, scores.class_names)
        metrics: dict[str, Any] = scores.to_json() | {"coverage": coverage}
        for name, share in zip(scores.class_names, of_classes, strict=True):
            metrics["classes"][name]["coverage"] = share
        best = best_of([scores.mean_iou for scores in self.curve])
        columns = {
            "mean_iou": [scores.mean_iou for scores in self.curve],
            "mean_precision": [scores.mean_precision for scores in self.curve],
            "mean_recall": [scores.mean_accuracy for scores in self.curve],
            "mean_iou_where_chosen": self.choosing,
        }
        metrics["sweep"] = {
            "rule": RULE,
            "threshold": self.thresholds[self.chosen],
            "chosen_on": list(chosen_on) if len(self.thresholds) > 1 else None,
            "chosen_on_images": self.images,
            "chosen_on_scored_images": self.shared,
            "remark": self.remark or None,
            "best": {"threshold": self.thresholds[best], "mean_iou": self.curve[best].mean_iou},
            "thresholds": list(self.thresholds),
            **{name: [None if np.isnan(value) else value for value in values] for name, values in columns.items()},
            "coverage": [object_coverage(scores.counts, scores.class_names)[0] for scores in self.curve],
        }
        return metrics


def judge(
    choosing: ThresholdSweep,
    scoring: ThresholdSweep,
    shared: int,
    class_names: Sequence[str],
    classes: Sequence[int] | None = None,
) -> Judgement:
    """Chooses on one sweep and scores the other; shared: how many images are in both.

    DataError where there is nothing to choose by. `classes`: ids that enter the mean IoU (None: all).
    """
    curve = tuple(matrix.scores(class_names, classes) for matrix in scoring.matrices())
    tried = tuple(matrix.scores(class_names, classes).mean_iou for matrix in choosing.matrices())
    for images, values in ((choosing.images, tried), (scoring.images, [scores.mean_iou for scores in curve])):
        if np.isnan(values).all():
            raise DataError(
                f"{images:,} images show none of the classes, or their ground truth is 255 everywhere: no threshold is "
                "better than another",
                "name other splits or classes",
            )
    return Judgement(scoring.thresholds, curve, tried, best_of(tried), choosing.images, shared)


def best_of(curve: Sequence[float]) -> int:
    """Where a curve is highest; the first place of several."""
    return int(np.nanargmax(curve))


def object_coverage(counts: NDArray[np.int64], class_names: Sequence[str]) -> tuple[float | None, list[float | None]]:
    """The share of all pixels that are labelled as some object, and of the pixels of each class.

    That is the coverage of `label_quality` where background counts as unknown: masks of one threshold know no other.
    """
    objects = counts.copy()
    objects[:, -1] += objects[:, 0]
    objects[:, 0] = 0
    quality = label_quality(objects, class_names)
    return quality["coverage"], [quality["per_class"][name]["coverage"] for name in class_names]
