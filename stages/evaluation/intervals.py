"""How sure a mean IoU is: an interval by the bootstrap over images.

The images are drawn again with replacement, as many as there are, and the mean IoU of the joint confusion matrix is
taken each time; the interval holds the middle 95 % of these figures (the percentile method, Efron & Tibshirani 1993,
chapter 13). It says what other images of the same kind would change, not what another seed of the training would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    means = np.concatenate([_means(times, counts) for times in _draws(len(counts), resamples, seed)])
    low, high = np.nanquantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


def share_of_draws_higher(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], resamples: int, seed: int = 0
) -> float:
    """In what share of the draws the mean IoU of `first` is above that of `second`; draws with equal ones count half.

    Both hold `counts_of` the same images in the same order: a draw takes the same images of both (a paired bootstrap).
    Near 1 or 0 where other images of the kind would hardly turn the order round, .5 where they may.
    """
    one, other = (np.stack(images).astype(np.float64) for images in (first, second))
    if one.shape != other.shape:
        raise ValueError(f"counts of shapes {one.shape} and {other.shape} are not of the same images and classes")
    gain = [_means(times, one) - _means(times, other) for times in _draws(len(one), resamples, seed)]
    return float(np.mean((np.sign(np.nan_to_num(np.concatenate(gain))) + 1) / 2))


def _draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """int64 (draws, images): how often each draw has each image, a portion of the draws at a time."""
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, _AT_A_TIME):
        yield rng.multinomial(images, np.full(images, 1 / images), min(_AT_A_TIME, resamples - first))


def _means(times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean IoU of each draw; nan where no class has a pixel. times: (draws, N); counts: (N, 2, C)."""
    shared, joint = np.moveaxis(np.tensordot(times, counts, 1), 1, 0)  # (draws, C) each
    there = joint > 0
    with np.errstate(invalid="ignore"):
        ratios = np.where(there, shared / np.where(there, joint, 1), 0)
        mean: np.ndarray = ratios.sum(1) / there.sum(1)
    return mean
