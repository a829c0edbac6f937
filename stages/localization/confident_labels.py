"""What the labels of AffinityNet and IRNet have in common: the dense CRF with two scores of the background.

A class is confident where it wins although the background has a high score; the background is confident where it wins
although it has a low score. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.engine.known import Known
from stages.localization.config import CrfConfig
from stages.localization.dense_crf import crf_of_each
from stages.localization.grid import reduced, reduced_size, resize_maps

UNKNOWN = 255
Grounds = Callable[[NDArray[np.float32]], Sequence[NDArray]]  # scores (K, h, w) -> scores of the background (h, w)


def smoothed(known: Known, grounds: Grounds, crf: CrfConfig) -> list[NDArray[np.float32]]:
    """The dense CRF's output for each background with the score maps: (1 + K, h, w), background first.

    (h, w) is the size of the image, or of its copy of `crf.max_pixels` pixels where it has more.
    """
    size = known.scores.size
    seen = reduced_size(size, crf.max_pixels)
    scores = resize_maps(known.scores.scores, size, known.scores.stride, seen)  # (K, h, w)
    parameters = crf.resolve()
    if seen != size:
        parameters = parameters.at_scale(((size[0] * size[1]) / (seen[0] * seen[1])) ** 0.5)
    several = [np.concatenate([ground[None].astype(np.float32), scores]) for ground in grounds(scores)]
    return crf_of_each(reduced(known.image, crf.max_pixels), several, parameters)


def winners(known: Known, scores: NDArray) -> NDArray[np.uint8]:
    """The class id with the highest score at each pixel."""
    return np.concatenate([[0], known.scores.classes]).astype(np.uint8)[scores.argmax(0)]


def at_size(labels: NDArray, known: Known) -> NDArray[np.uint8]:
    """Labels (h, w), which may be those of a reduced copy, at the size of the image."""
    rows, columns = (
        np.arange(whole) * seen // whole for whole, seen in zip(known.scores.size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns].astype(np.uint8)
