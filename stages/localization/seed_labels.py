"""Label maps from score maps and saliency: sparse seeds with unknown pixels, or dense masks.

Sources: SEC (Kolesnikov & Lampert, ECCV 2016) and DSRG (Huang et al., CVPR 2018) for seeds, AffinityNet (Ahn &
Kwak, CVPR 2018) for dense masks and for the background score computed from the maps, DRS (Kim et al., AAAI 2021) and
Group-WSSS (Li et al., AAAI 2021) for masks by saliency.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from artifacts.masks import IGNORE
from stages.localization.seeds_config import SaliencyRule

Overlap = Literal["smaller_area", "highest_score"]
Conflict = Literal["foreground", "ignore", "background"]


def seed_labels(
    scores: NDArray,
    classes: NDArray,
    background: NDArray | None,
    threshold: float = 0.2,
    overlap: Overlap = "smaller_area",
    conflict: Conflict = "foreground",
) -> NDArray[np.uint8]:
    """Seeds of one image: a label map (h, w) with 255 for unknown pixels.

    Args:
        scores: (K, h, w) class-activation maps, not negative; classes: (K,) their class ids.
        background: bool (h, w), the pixels that are confident background; None: none.
        threshold: a class is a candidate for pixels with at least this share of its map's maximum (SEC, DSRG: 0.2).
        overlap: which of several candidate classes a pixel gets: "smaller_area" - the class with fewer candidate
            pixels (SEC's rule), in a tie the lower id; "highest_score" - the class with the highest score.
        conflict: the label of a pixel that has a candidate class and is also confident background.
    """
    candidates = foreground_candidates(scores, threshold)  # (K, h, w)
    labels = np.full(scores.shape[1:], IGNORE, dtype=np.uint8)
    if overlap == "smaller_area":
        areas = candidates.sum(axis=(1, 2))
        for k in sorted(range(len(classes)), key=lambda k: (areas[k], classes[k]), reverse=True):
            labels[candidates[k]] = classes[k]  # the smallest is written last
    elif len(classes):
        winner = np.where(candidates, scores, -1).argmax(axis=0)
        labels = np.where(candidates.any(axis=0), np.asarray(classes, dtype=np.uint8)[winner], labels)
    if background is None:
        return labels
    free = labels == IGNORE
    if conflict == "foreground":
        labels[background & free] = 0
    else:
        labels[background] = np.where(free[background] | (conflict == "background"), 0, IGNORE)
    return labels


def foreground_candidates(scores: NDArray, threshold: float) -> NDArray[np.bool_]:
    """bool (K, h, w): where each map reaches `threshold` times its own maximum; nowhere for a map of zeros."""
    peak = scores.max(axis=(1, 2), keepdims=True, initial=0)
    candidates: NDArray[np.bool_] = (scores >= threshold * peak) & (peak > 0)
    return candidates


def dense_labels(
    scores: NDArray, classes: NDArray, threshold: float = 0.2, alpha: float | None = None
) -> NDArray[np.uint8]:
    """A full mask (h, w): the class with the highest score, or background where its score is higher.

    The background's score is the constant `threshold` (AffinityNet: 0.2, IRNet: 0.15), or
    (1 - highest score)^alpha if `alpha` is given (AffinityNet's random walk: 16). Scores lie in 0..1.
    """
    if not len(classes):
        return np.zeros(scores.shape[1:], dtype=np.uint8)
    best = scores.max(axis=0)
    ground = threshold if alpha is None else activation_background(scores, alpha)
    winner = np.asarray(classes, dtype=np.uint8)[scores.argmax(axis=0)]
    return np.where(best > ground, winner, np.uint8(0))


def saliency_labels(
    scores: NDArray, classes: NDArray, saliency: NDArray, salient: float, rule: SaliencyRule
) -> NDArray[np.uint8]:
    """A mask (h, w): the highest of the scores and the background's, 255 where they contradict each other.

    Args:
        scores: (K, h, w), 0..1; classes: (K,) their class ids.
        saliency: (h, w), 0..1; `salient`: from where on a pixel is not background.
    """
    ground = (saliency < salient).astype(scores.dtype) if rule.score == "binary" else 1 - saliency
    scores = np.where(scores < rule.threshold, 0, scores)
    joint = np.concatenate([ground[None], scores])  # (1 + K, h, w)
    labels: NDArray[np.uint8] = np.concatenate([[0], classes]).astype(np.uint8)[joint.argmax(0)]
    labels[(joint > rule.sure).sum(0) > rule.most_sure] = IGNORE
    shown = (saliency >= salient) | (scores.max(axis=0, initial=0) > rule.attended)
    labels[(labels == 0) & shown] = IGNORE
    if np.mean((labels > 0) & (labels < IGNORE)) < rule.least:
        labels[:] = IGNORE
    return labels


def lead(scores: NDArray, background: float) -> NDArray:
    """(h, w): the highest minus the second highest of the scores (K, h, w) and the background's."""
    ground = np.full((1, *scores.shape[1:]), background, scores.dtype)
    if not len(scores):
        return ground[0]
    ranked = np.sort(np.concatenate([ground, scores]), axis=0)
    return np.asarray(ranked[-1] - ranked[-2])


def activation_background(scores: NDArray, alpha: float) -> NDArray:
    """AffinityNet's background score (h, w): (1 - max_c CAM_c)^alpha. The higher alpha, the less background."""
    return (1 - np.clip(scores.max(axis=0, initial=0), 0, 1)) ** alpha


def sure_background(scores: NDArray, alpha: float) -> NDArray[np.bool_]:
    """bool (h, w): where the background wins against every map even with AffinityNet's high alpha (32)."""
    sure: NDArray[np.bool_] = activation_background(scores, alpha) > scores.max(axis=0, initial=0)
    return sure
