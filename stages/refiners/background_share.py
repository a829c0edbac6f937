"""Background share: as many pixels become background as in the masks, over all images together.

A network that has learned from few masks finds too little of the objects, and its pseudo labels teach the student the
same. How much of an image is background, in the mean, is known from the images with masks; one factor for the scores
of the background in all images restores it.

    semiseg predict --split weak --set image_labels=share --set output=probabilities --name guesses
    semiseg refine --seeds guesses --method background-share --name pseudo
    semiseg train --method self-training --weak-labels pseudo
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap
from stages.contract import Progress
from stages.engine.known import Known
from stages.refiners.first_pass import Surveys
from stages.refiners.par import possible
from stages.refiners.refiner import Refiner

FURTHEST, BINS = 12.0, 2400  # log-ratios from -12 to 12, in steps of a hundredth
LEAST = 1e-7  # score; float16, as maps are stored, has no smaller one


class BackgroundShare(Refiner):
    """S = k P(0) / Z for the background, P(c) / Z for c in T,  Z = k P(0) + sum_T P

    P: the score maps; T: the labels of the image; k: one factor for all images, with which the background has the
    highest score on the same share of pixels as in the masks of the split train. Images without a label are background,
    and not counted. Maps without a background get one of 1/2 everywhere first. Images whose labels are not known are
    not counted either, and their scores stay (k = 1): what they show is not known, so neither is their share.
    """

    def start(self, dataset: Dataset, scores: Mapping[str, ScoreMap]) -> None:
        self.wanted = background_of_masks(dataset)

    def survey(self, batches: Iterable[Sequence[Known]]) -> Iterator[tuple[str, dict[str, NDArray]]]:
        """Of each image, how many pixels have which log-ratio between background and the best class."""
        for known in (known for batch in batches for known in batch):
            background, foreground, _ = split(known)
            counts = known.labelled and len(foreground) > 0
            ratios = log_ratios(background, foreground) if counts else np.zeros(0)
            yield known.image_id, {"ratios": np.histogram(ratios, BINS, (-FURTHEST, FURTHEST))[0][None]}

    def decide(self, surveys: Surveys, progress: Progress) -> tuple[dict[str, NDArray], dict[str, float]]:
        factor = factor_for(surveys.rows("ratios").sum(0), self.wanted)
        return {"factor": np.full(len(surveys.ids), factor)}, {"factor": factor, "background": self.wanted}

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        assert self.decided is not None  # the stage gives it, see `whole_set`
        for known in (known for batch in batches for known in batch):
            background, foreground, classes = split(known)
            factor = self.decided[known.image_id]["factor"][0] if known.labelled else 1.0
            scores = np.concatenate([background * factor, foreground])
            scores = (scores / scores.sum(0).clip(LEAST)).astype(np.float32)
            yield replace(known.scores, scores=scores, classes=classes, meaning="refined")


def background_of_masks(dataset: Dataset) -> float:
    """The share of the background in the masks of the split train, of images that show some class."""
    dataset.require_background("background-share")
    counts = np.zeros(256, np.int64)
    for image_id in dataset.ids("train"):
        if dataset.has_tags(image_id) and dataset.tags(image_id):
            counts += np.bincount(dataset.mask(image_id).ravel(), minlength=256)
    if not counts[:255].any():
        raise DataError(
            "background-share needs images with masks and labels in the split train", "refine with another method"
        )
    return float(counts[0] / counts[:255].sum())


def split(known: Known) -> tuple[NDArray, NDArray, NDArray[np.uint8]]:
    """Scores of the background (1, h, w) and of the labels of the image (T, h, w), and the classes of both."""
    classes, scores = possible(known)
    if 0 in classes:
        return scores[:1], scores[1:], classes
    background = np.full((1, *scores.shape[1:]), 0.5, np.float32)
    return background, scores, np.append(np.uint8(0), classes)


def log_ratios(background: NDArray, foreground: NDArray) -> NDArray:
    """log of background (1, h, w) over the best of the other scores (T, h, w), within +-FURTHEST: (h, w)."""
    ratios = np.log(background[0].clip(LEAST)) - np.log(foreground.max(0).clip(LEAST))
    inner = FURTHEST * (1 - 1 / BINS)  # the middle of the last bin
    return np.clip(ratios, -inner, inner)


def factor_for(counts: NDArray, wanted: float) -> float:
    """The factor of the background by which a share `wanted` of the pixels is background; 1 without any pixel.

    counts: (BINS,), pixels by their log-ratio. Background is where log k + ratio > 0.
    """
    if not counts.any():
        return 1.0
    above = 1 - np.append(0, counts.cumsum()) / counts.sum()  # the share of ratios above each edge
    edges = np.linspace(-FURTHEST, FURTHEST, BINS + 1)
    return float(np.exp(-edges[np.abs(above - wanted).argmin()]))
