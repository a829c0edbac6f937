"""Labels for IRNet's class boundaries: confident pixels of score maps, all others 255. Loads no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.engine.known import Known
from stages.localization.dense_crf import CrfParameters, crf_from_labels
from stages.localization.grid import resize_maps

UNKNOWN = 255


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `foreground`, `background` and `crf`."""
    return {"labels": boundary_labels(known, settings.foreground, settings.background, settings.crf.resolve())}


def boundary_labels(known: Known, foreground: float, background: float, crf: CrfParameters) -> NDArray[np.uint8]:
    """uint8 (H, W): a class where it is confident, 0 where background is confident, 255 elsewhere (IRNet, section 3.3).

    The dense CRF smooths two masks, in which background has the score `foreground` (only high scores of a class win)
    and `background` (low scores win, too). A class is confident where it wins in the first, background where it wins in
    both.
    """
    scores = resize_maps(known.scores.scores, known.scores.size, known.scores.stride)  # (K, H, W)
    sure_class = _refined(known, scores, foreground, crf)
    any_class = _refined(known, scores, background, crf)
    labels = np.where(sure_class == 0, UNKNOWN, sure_class)
    labels[(sure_class == 0) & (any_class == 0)] = 0
    return labels.astype(np.uint8)


def _refined(known: Known, scores: NDArray, threshold: float, crf: CrfParameters) -> NDArray:
    """The class of each pixel after the CRF, background having the score `threshold` before it."""
    ground = np.full((1, *scores.shape[1:]), threshold, scores.dtype)
    winners = np.concatenate([ground, scores]).argmax(0)
    classes = np.concatenate([[0], known.scores.classes]).astype(np.uint8)
    return classes[crf_from_labels(known.image, winners, len(classes), crf).argmax(0)]
