"""Proposals: parts of an image that may be objects of some class. Loads no torch.

They are segments of the image: regions at several sizes, or those of a folder (`stages.localization.segment_layers`).

proposals = proposals_of(known, folder="", regions=(36, 12, 4), most=100)     # int64 (L, H, W)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.localization.segment_layers import NONE, file_of, read_layers, region_layers
from stages.localization.superpixel_graph import Features

LAYERS = ("proposals-1", "proposals-2", "proposals-3")  # label maps for a training; what does not fit is not learned
PADDING = 255


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `proposals`, `regions` and `most`: the first layers."""
    layers = proposals_of(known, settings.proposals, settings.regions, settings.most)[: len(LAYERS)]
    maps = np.full((len(LAYERS), *layers.shape[1:]), PADDING, np.uint8)
    maps[: len(layers)] = np.where(layers == NONE, PADDING, layers)
    return dict(zip(LAYERS, maps, strict=True))


def proposals_of(known: Known, folder: str, regions: Collection[int], most: int) -> NDArray[np.int64]:
    """Label maps int64 (L, H, W): the number of the proposal, 0..n-1 over all maps, or -1.

    folder: of masks made elsewhere, of which the first `most` count; "": regions of these counts, each once.
    """
    if not folder:
        return region_layers(known.image, regions)
    size = (known.image.shape[0], known.image.shape[1])
    file = file_of(Path(folder).expanduser(), known.image_id)
    layers = read_layers(file, size, most)
    if not (layers != NONE).any():
        raise DataError(f"{file} has no proposal", "add one, or leave the image out")
    return layers


def pooled(proposals: NDArray[np.int64], features: Features, boxes: bool) -> NDArray[np.float32]:
    """(n, F): means of features over the pixels of each proposal, or over its bounding box."""
    count = int(proposals.max()) + 1
    found = np.zeros((count, len(features.values)), np.float32)
    for layer in proposals:
        if not boxes:
            found += features.means(layer + 1, count + 1)[1:].astype(np.float32)
            continue
        rows, columns = features.readers(layer.shape)
        for number, place in enumerate(ndimage.find_objects(layer + 1, count)):
            if place is not None:
                across = features.values @ columns[place[1]].mean(0)  # (F, h)
                found[number] = across @ rows[place[0]].mean(0)
    return found


def spread(
    proposals: NDArray[np.int64], labels: NDArray[np.int64], scores: NDArray, classes: Sequence[int]
) -> NDArray[np.float32]:
    """Scores float32 (len(classes), H, W) of the classes that proposals were given; classes[0] is 0.

    The score of a class is the mean, over the proposals that cover a pixel, of the scores of those with this class and
    of 0 for the rest. Where there is no proposal, class 0 has 1.
    """
    covered = (proposals != NONE).sum(0)
    found = np.zeros((len(classes), *covered.shape), np.float32)
    for place, label in enumerate(classes):
        own = np.append(np.where(labels == label, scores, 0), 0).astype(np.float32)  # NONE, -1, reads the last one
        found[place] = own[proposals].sum(0) / np.maximum(covered, 1)
    found[0][covered == 0] = 1
    return found


def with_means(known: Known, features: Features, settings: Any, boxes: bool) -> tuple[Known, NDArray[np.float32]]:
    """An image and the mean features (n, F) of its proposals; settings as of `prepare`."""
    return known, pooled(proposals_of(known, settings.proposals, settings.regions, settings.most), features, boxes)


def score_map(known: Known, settings: Any, labels: NDArray[np.int64], scores: NDArray) -> ScoreMap:
    """The maps of an image, of background and its labels, from the classes and scores of its proposals: `spread`."""
    proposals = proposals_of(known, settings.proposals, settings.regions, settings.most)
    classes = np.array([0, *known.classes], np.uint8)
    maps = spread(proposals, labels, scores, classes.tolist())
    return ScoreMap(known.image_id, maps, classes, known.scores.size, 1, "refined")
