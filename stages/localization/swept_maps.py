"""Score maps of a data set's images against their true masks, at every background threshold. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.dataset import Dataset
from artifacts.score_maps import ScoreMap, check_fits
from stages.evaluation.threshold_sweep import ThresholdSweep, count_pixels
from stages.localization.grid import resize_maps
from stages.parallel.each_image import for_each_image


@dataclass(frozen=True)
class _Task:
    dataset: Dataset
    maps: Mapping[str, ScoreMap]
    thresholds: tuple[float, ...]


def sweep_maps(
    dataset: Dataset,
    maps: Mapping[str, ScoreMap],
    groups: Sequence[Collection[str]],
    thresholds: Sequence[float],
    workers: int,
    advance: Callable[[], object] = lambda: None,
) -> list[ThresholdSweep]:
    """A sweep for each group of image ids, every image read once. `advance` is called after each image.

    The maps are of objects, at any stride; they are brought to the image's pixels as in `seeds` and `refine`.
    """
    sweeps = [ThresholdSweep(dataset.num_classes, thresholds) for _ in groups]
    members = [frozenset(group) for group in groups]
    task = _Task(dataset, maps, tuple(thresholds))
    for image_id, (classes, counted) in for_each_image(_count, task, sorted(frozenset().union(*members)), workers):
        for sweep, group in zip(sweeps, members, strict=True):
            if image_id in group:
                sweep.add(classes, counted)
        advance()
    return sweeps


def _count(task: _Task, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The classes of an image's maps, and its pixels, see `count_pixels`."""
    found, truth = task.maps[image_id], task.dataset.mask(image_id)
    check_fits(found, task.dataset, labels=False)
    scores, classes = resize_maps(found.scores, found.size, found.stride), found.classes
    if not len(classes):  # without labels no map was made: background at any threshold
        scores, classes = np.zeros((1, *found.size), np.float32), np.zeros(1, np.uint8)
    counted = count_pixels(
        scores.argmax(axis=0), scores.max(axis=0), truth, len(classes), task.thresholds, task.dataset.num_classes
    )
    return classes, counted
