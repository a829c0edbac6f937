"""Labels for IRNet's class boundaries: confident pixels of score maps, all others 255. Loads no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.engine.known import Known
from stages.localization.confident_labels import UNKNOWN, at_size, smoothed, winners
from stages.localization.config import CrfConfig


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `foreground`, `background` and `crf`."""
    return {"labels": boundary_labels(known, settings.foreground, settings.background, settings.crf)}


def boundary_labels(known: Known, foreground: float, background: float, crf: CrfConfig) -> NDArray[np.uint8]:
    """uint8 (H, W): a class where it is confident, 0 where background is confident, 255 elsewhere (IRNet, section 3.3).

    Background has a constant score: once `foreground`, against which only high scores of a class win, and once
    `background`, against which low scores win, too. A class is confident where it wins against the former, background
    where it wins both times.
    """
    after = smoothed(known, lambda scores: [np.full(scores.shape[1:], c) for c in (foreground, background)], crf)
    confident_class, any_class = (winners(known, scores) for scores in after)
    labels = np.where(confident_class == 0, UNKNOWN, confident_class)
    labels[(confident_class == 0) & (any_class == 0)] = 0
    return at_size(labels, known)
