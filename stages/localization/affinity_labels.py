"""Labels for AffinityNet's affinities: confident pixels of score maps, all others 255. Loads no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stages.engine.known import Known
from stages.localization.confident_labels import UNKNOWN, at_size, smoothed, winners
from stages.localization.config import CrfConfig
from stages.localization.seed_labels import activation_background

CELL = 8  # pixels: the stride of the network


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `low_alpha`, `high_alpha` and `crf`."""
    return {"labels": affinity_labels(known, settings.low_alpha, settings.high_alpha, settings.crf)}


def affinity_labels(known: Known, low: float, high: float, crf: CrfConfig) -> NDArray[np.uint8]:
    """uint8 (H, W): a class where it is confident, 0 where background is confident, 255 elsewhere (section 3.3).

    Background has the score (1 - highest score)^alpha: once with the alpha `low`, where it often wins, and once with
    `high`, where it seldom wins. Background is confident where it wins with `high`; elsewhere a class is confident
    where it wins with `low`. Before that, the scores from the CRF are averaged over the 8 x 8 pixels around each
    pixel, so that a pixel on a cell has the label of that cell.
    """
    after = smoothed(known, lambda scores: [activation_background(scores, alpha) for alpha in (low, high)], crf)
    scale = known.scores.size[0] / after[0].shape[1]  # the CRF gets a reduced copy of a large image
    side = max(round(CELL / scale), 1)
    confident_class, background = (
        winners(known, ndimage.uniform_filter(scores, (1, side, side), mode="constant")) for scores in after
    )
    labels = np.where(confident_class == 0, UNKNOWN, confident_class)
    labels[background == 0] = 0
    return at_size(labels, known)
