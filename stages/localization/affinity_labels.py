"""Labels that AffinityNet learns affinities from: score maps, sure of their classes or left out. Loads no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stages.engine.known import Known
from stages.localization.config import CrfConfig
from stages.localization.seed_labels import activation_background
from stages.localization.sure_labels import UNKNOWN, at_size, smoothed, winners

CELL = 8  # pixels: the stride of the network


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `low_alpha`, `high_alpha` and `crf`."""
    return {"labels": affinity_labels(known, settings.low_alpha, settings.high_alpha, settings.crf)}


def affinity_labels(known: Known, low: float, high: float, crf: CrfConfig) -> NDArray[np.uint8]:
    """uint8 (H, W): a class where it is sure, 0 where background is sure, 255 elsewhere (AffinityNet, section 3.3).

    Background scores (1 - highest score)^alpha, first with the alpha `low` (generous), then with `high` (shy). A class
    is sure where it wins in the first, unless background wins in the second. A pixel has the label of the 8 x 8 pixels
    around it, whose scores after the CRF are averaged before one wins: the label of the cell, where one lies on it.
    """
    after = smoothed(known, lambda scores: [activation_background(scores, alpha) for alpha in (low, high)], crf)
    scale = known.scores.size[0] / after[0].shape[1]  # of a large image the CRF sees fewer pixels
    side = max(round(CELL / scale), 1)
    sure_class, sure_background = (
        winners(known, ndimage.uniform_filter(scores, (1, side, side), mode="constant")) for scores in after
    )
    labels = np.where(sure_class == 0, UNKNOWN, sure_class)
    labels[sure_background == 0] = 0
    return at_size(labels, known)
