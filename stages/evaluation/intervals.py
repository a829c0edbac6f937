"""How sure a mean IoU is: an interval by the bootstrap over images.

The images are drawn again with replacement, as many as there are, and the mean IoU of the joint confusion matrix is
taken each time; the interval holds the middle 95 % of these figures (the percentile method, Efron & Tibshirani 1993,
chapter 13). It says what other images of the same kind would change, not what another seed of the training would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.evaluation.confusion import ConfusionMatrix

COVERED = 0.95
_AT_A_TIME = 256  # draws; memory: this times the images


def counts_of(matrix: ConfusionMatrix) -> np.ndarray:
    """int64 (2, C): pixels of the intersection and of the union of each class, of which all IoUs are made."""
    scores = matrix.scores()
    shared = scores.true_positives
    return np.stack([shared, scores.truth + scores.predicted - shared])


def mean_iou_interval(
    images: Sequence[np.ndarray], resamples: int, classes: Sequence[int] | None = None, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean IoU, fractions.

    images: `counts_of` each image. classes: ids that enter the mean; None: all. As in `Scores`, a class without a pixel
    in truth and prediction of a draw does not enter its mean. ValueError without an image that has a class.
    """
    counts = np.stack(images).astype(np.float64)  # (N, 2, C)
    counts = counts if classes is None else counts[:, :, list(classes)]
    if not counts.any():
        raise ValueError("no image has a pixel of the classes")
    rng, found = np.random.default_rng(seed), []
    for first in range(0, resamples, _AT_A_TIME):
        draws = min(_AT_A_TIME, resamples - first)
        times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)  # (draws, N)
        shared, joint = np.moveaxis(np.tensordot(times, counts, 1), 1, 0)  # (draws, C) each
        with np.errstate(invalid="ignore"):
            ratios = shared / joint
        some = np.isfinite(ratios).any(1)
        found.append(np.nanmean(ratios[some], 1))
    low, high = np.quantile(np.concatenate(found), [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
