"""Labels of a few cells of an image: those that are sure by score maps and dense CRF. Loads no torch.

WSGCN (Pan et al., ICME 2021) completes them: `stages/refiners/wsgcn.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.engine.known import Known
from stages.localization.crf_parameters import CrfParameters
from stages.localization.dense_crf import crf_probabilities
from stages.localization.seed_labels import activation_background

UNKNOWN = 255
LEAST_SCORE = 0.1  # lower scores never count as the highest of a class (authors' code)


def image_of_cells(image: NDArray[np.uint8], stride: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image (H, W, 3) at the cells (h, w) = `size`, each of which has the pixels around it."""
    margins = (stride // 2, stride - 1)
    padded = np.pad(image, (margins, margins, (0, 0)), mode="edge")[: size[0] * stride, : size[1] * stride]
    return np.array(Image.fromarray(padded).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def with_labels(
    batch: Sequence[Known], alphas: tuple[float, float], share: float, sure: float, crf: CrfParameters
) -> tuple[Sequence[Known], NDArray[np.uint8]]:
    """Images of one size with their `partial_labels`, (B, h, w)."""
    return batch, np.stack([partial_labels(known, alphas, share, sure, crf) for known in batch])


def partial_labels(
    known: Known, alphas: tuple[float, float], share: float, sure: float, crf: CrfParameters
) -> NDArray[np.uint8]:
    """uint8 (h, w): a class or 0 at the cells whose label is sure, 255 elsewhere (WSGCN, section 3.1; authors' code).

    A cell gets the class that wins after the CRF although the background has the score (1 - highest score)^low, or 0
    where background wins although it has the score (1 - highest score)^high. The cell keeps this label only if its
    probability after the CRF reaches `sure` and its score before the CRF agrees: it is among the `share` highest of its
    class, or its background score is above `sure`.

    alphas: low and high. crf: the parameters for an image of the size of the maps.
    """
    scores = np.asarray(known.scores.scores, np.float32)  # (K, h, w)
    if not len(scores):
        return np.zeros(scores.shape[1:], np.uint8)
    image = image_of_cells(known.image, known.scores.stride, scores.shape[1:])
    shown = [np.concatenate([activation_background(scores, alpha)[None], scores]) for alpha in alphas]
    low, high = (crf_probabilities(image, stacked, crf) for stacked in shown)
    winner = low.argmax(0)  # 0: background, k: the k-th class
    labels = np.where(winner == 0, UNKNOWN, _ids(known.scores.classes)[winner])
    labels[high.argmax(0) == 0] = 0
    joint = np.concatenate([high[:1], low[1:]])  # classes with the low alpha, background with the high one
    kept = (joint.max(0) >= sure) & _high_scores(shown[1], np.unique(winner).tolist(), share, sure)
    kept &= _ids(known.scores.classes)[joint.argmax(0)] == labels
    return np.where(kept, labels, UNKNOWN).astype(np.uint8)


def _ids(classes: NDArray) -> NDArray[np.uint8]:
    return np.concatenate([[0], classes]).astype(np.uint8)


def _high_scores(scores: NDArray, present: Sequence[int], share: float, sure: float) -> NDArray[np.bool_]:
    """bool (h, w): background above `sure`, or among the `share` highest scores of a class that wins here.

    scores: (1 + K, h, w), background first; present: which of them win anywhere after the CRF.
    """
    winner, high = scores.argmax(0), np.zeros(scores.shape[1:], bool)
    for label in present:
        own = np.where(winner == label, scores[label], 0)
        ordered = np.sort(own[own > LEAST_SCORE])
        if label == 0:
            high |= own > sure
        elif len(ordered):
            high |= own > ordered[min(int(len(ordered) * (1 - share)), len(ordered) - 1)]
    return high
