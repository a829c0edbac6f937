"""The confusion matrix of a split, and the scores read from it.

One matrix over all pixels of all images (never a mean of per-image scores). Pixels whose ground truth is 255 are left
out. A prediction of 255 ("no prediction") is not left out: it has its own column and counts as wrong, and its share is
reported, since leaving it out would reward methods that do not predict difficult pixels.

    matrix = ConfusionMatrix(num_classes=21)
    matrix.add(prediction, ground_truth)
    scores = matrix.scores(class_names)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE

SHOWN = 10  # classes named in one sentence


class ConfusionMatrix:
    """Counts of (ground truth, prediction) pairs.

    Attributes:
        counts: int64 (C, C + 1); row: class of the ground truth; column: predicted class, the last: "no prediction"
        (255).
        ignored: pixels left out because their ground truth is 255.
        images: how many images were added; blank: those of them whose ground truth is 255 everywhere.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise ConfigError(f"num_classes is {num_classes}, expected 1..255 (background counted)")
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)
        self.ignored = 0
        self.images = 0
        self.blank = 0
        # One table look-up and one bincount an image: value -> row or column, C: 255, C + 1: outside the classes.
        self._code = np.full(256, num_classes + 1, np.int64)
        self._code[:num_classes] = np.arange(num_classes)
        self._code[IGNORE] = num_classes

    def add(self, prediction: np.ndarray, ground_truth: np.ndarray) -> None:
        """Counts one image: two uint8 masks (H, W). DataError: sizes differ, or values outside the classes."""
        for name, mask in (("prediction", prediction), ("ground truth", ground_truth)):
            if mask.dtype != np.uint8 or mask.ndim != 2:
                raise DataError(f"the {name} is {mask.dtype} {mask.shape}, expected a uint8 mask (height, width)")
        if prediction.shape != ground_truth.shape:
            raise DataError(
                f"the prediction has {prediction.shape[0]} rows and {prediction.shape[1]} columns, "
                f"the ground truth {ground_truth.shape[0]} and {ground_truth.shape[1]}",
                "predict at the size of the image; masks are not resized here",
            )
        side = self.num_classes + 2
        pairs = (self._code * side)[ground_truth] + self._code[prediction]
        table = np.bincount(pairs.ravel(), minlength=side * side).reshape(side, side)
        for name, outside, mask in (
            ("prediction", int(table[:, -1].sum()), prediction),
            ("ground truth", int(table[-1].sum()), ground_truth),
        ):
            if outside:
                values = np.unique(mask[self._code[mask] == side - 1])
                raise DataError(
                    f"the {name} holds {outside} pixels outside the classes (values {values[:5].tolist()}), "
                    f"expected 0..{self.num_classes - 1} or 255"
                )
        self.counts += table[: self.num_classes, : self.num_classes + 1]
        self.ignored += int(table[self.num_classes].sum())
        self.images += 1
        self.blank += not table[: self.num_classes].any()

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another matrix over the same classes."""
        if other.num_classes != self.num_classes:
            raise DataError(f"cannot merge confusion matrices of {self.num_classes} and {other.num_classes} classes")
        self.counts += other.counts
        self.ignored += other.ignored
        self.images += other.images
        self.blank += other.blank

    def scores(self, class_names: Sequence[str] | None = None, classes: Sequence[int] | None = None) -> Scores:
        """The scores; `classes`: ids that enter the two means (default: all)."""
        names = tuple(class_names) if class_names is not None else tuple(map(str, range(self.num_classes)))
        if len(names) != self.num_classes:
            raise ConfigError(f"{len(names)} class names for {self.num_classes} classes")
        chosen = tuple(range(self.num_classes)) if classes is None else tuple(sorted(set(classes)))
        if not chosen or chosen[0] < 0 or chosen[-1] >= self.num_classes:
            raise ConfigError(f"the classes to average are {list(chosen)}, expected ids 0..{self.num_classes - 1}")
        return Scores(self.counts.copy(), self.ignored, self.images, names, chosen, self.blank)


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix, all as fractions 0..1.

    IoU_c = TP / (TP + FP + FN) (PASCAL VOC). A class that is neither in the ground truth nor predicted has no IoU: NaN
    (null in JSON); it is left out of the mean and listed as absent. A class that is not in the ground truth but is
    predicted has IoU 0 and enters the mean.
    """

    counts: np.ndarray  # int64 (C, C + 1)
    ignored: int
    images: int
    class_names: tuple[str, ...]
    classes: tuple[int, ...]
    blank: int = 0  # images whose ground truth is 255 everywhere

    @property
    def looks_binary(self) -> bool:
        """Whether the ground truth holds 0 and 255 alone, as in black-and-white masks, where white is the object."""
        return self.ignored > 0 and self.truth[0] > 0 and len(self.truth) > 1 and not self.truth[1:].any()

    @property
    def true_positives(self) -> np.ndarray:
        return np.diagonal(self.counts).copy()

    @property
    def truth(self) -> np.ndarray:
        """Pixels of each class in the ground truth, int64 (C,)."""
        return self.counts.sum(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """Pixels predicted as each class (where the ground truth is known), int64 (C,)."""
        return self.counts[:, :-1].sum(axis=0)

    @property
    def iou(self) -> np.ndarray:
        return _ratio(self.true_positives, self.truth + self.predicted - self.true_positives)

    @property
    def precision(self) -> np.ndarray:
        return _ratio(self.true_positives, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        return _ratio(self.true_positives, self.truth)

    @property
    def mean_iou(self) -> float:
        return _mean(self.iou[list(self.classes)])

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recalls of the classes that occur in the ground truth."""
        return _mean(self.recall[list(self.classes)])

    @property
    def mean_precision(self) -> float:
        """Mean of the precisions of the classes that are predicted."""
        return _mean(self.precision[list(self.classes)])

    @property
    def pixel_accuracy(self) -> float:
        return float(_ratio(self.true_positives.sum(), self.counts.sum()))

    @property
    def absent(self) -> tuple[str, ...]:
        """Chosen classes without an IoU: neither in the ground truth nor predicted."""
        return tuple(self.class_names[c] for c in self.classes if np.isnan(self.iou[c]))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; NaN becomes None."""
        columns = {"iou": self.iou, "precision": self.precision, "recall": self.recall}
        scored = int(self.counts.sum())
        unanswered = int(self.counts[:, -1].sum())
        return {
            "mean_iou": _plain(self.mean_iou),
            "pixel_accuracy": _plain(self.pixel_accuracy),
            "mean_accuracy": _plain(self.mean_accuracy),
            "images": self.images,
            "pixels": {
                "scored": scored,
                "ignored": self.ignored,  # ground truth 255
                "unanswered": unanswered,  # prediction 255: counted as wrong
                "unanswered_share": unanswered / scored if scored else None,
            },
            "mean_over": [self.class_names[c] for c in self.classes],
            "absent": list(self.absent),
            "classes": {
                name: {key: _plain(values[c]) for key, values in columns.items()}
                | {"truth": int(self.truth[c]), "predicted": int(self.predicted[c])}
                for c, name in enumerate(self.class_names)
            },
            "class_names": list(self.class_names),
            "confusion_matrix": self.counts.tolist(),  # rows: ground truth; columns: classes, then "no prediction"
        }


def remarks(scores: Scores) -> list[str]:
    """Remarks on the masks that put the scores in doubt. DataError if nothing is scored."""
    if not scores.counts.any():
        raise DataError(
            f"the ground truth of all {scores.images:,} images is 255 (ignore) everywhere: nothing is scored",
            "give masks that hold class ids",
        )
    found = []
    if scores.looks_binary:
        found.append(
            f"the ground truth holds 0 and 255 alone: 255 is ignored, and {scores.class_names[0]} the only class that "
            "is scored"
        )
    elif unseen := [scores.class_names[c] for c in scores.classes if not scores.truth[c]]:
        found.append(
            f"{len(unseen)} of {len(scores.classes)} classes occur in no ground truth: {_some(unseen)}; those that are "
            "predicted have IoU 0, the others are left out of the mean"
        )
    if scores.blank:
        found.append(f"the ground truth of {scores.blank:,} of {scores.images:,} images is 255 everywhere")
    if scores.counts[:, -1].any() and not scores.predicted[1:].any() and scores.truth[1:].any():
        found.append("the predictions hold 0 and 255 alone, as black-and-white masks do: 255 counts as no prediction")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64; NaN where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
