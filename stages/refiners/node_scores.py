"""Score maps from probabilities of all classes, background included, as networks on graphs give them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from artifacts.score_maps import ScoreMap


def against_background(
    scores: ScoreMap, foreground: NDArray[np.floating], background: NDArray[np.floating], stride: int | None = None
) -> ScoreMap:
    """The refined maps p_c / (p_0 + max p): the highest is above .5 where its class is likelier than background.

    foreground: (K, h, w), the probabilities of the classes that `scores` has; background: (h, w).
    """
    highest = foreground.max(0, initial=0)
    shares = (foreground / np.maximum(background + highest, 1e-12)).astype(np.float32)
    return replace(scores, scores=shares, stride=stride or scores.stride, meaning="refined")
