"""Instances of an image from IRNet's displacement field (Ahn et al., CVPR 2019, sections 3.1 and 4.2). Loads no torch.

centroids = centroids_of(displacement, steps=300)                       # int (2, h, w)
clusters = clusters_of(centroids, displacement, still=2.5)              # int (h, w), 0..I-1
found = instances_between_boundaries(scores, boundary, displacement, settings)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.instance_masks import Instance
from artifacts.score_maps import ScoreMap
from stages.localization.grid import resize_maps
from stages.localization.random_walk import boundary_affinities, walk


@dataclass(frozen=True)
class Found:
    """The instances of one image, highest score first.

    Attributes:
        numbers: uint8 (H, W), k + 1 at the pixels of instance k, 0 elsewhere.
    """

    image_id: str
    numbers: NDArray[np.uint8]
    instances: tuple[Instance, ...]


def instances_between_boundaries(
    scores: ScoreMap, boundary: NDArray[np.floating], displacement: NDArray[np.floating], settings: Any
) -> Found:
    """The scores of each class are walked apart for the cells of each cluster; the highest score takes the pixel.

    boundary: (h, w), 0..1; displacement: (2, h, w), (dy, dx) in cells, at the cells of the scores. settings: those of
    InstanceSettings. The connected parts of what a cluster takes are instances.
    """
    clusters = clusters_of(centroids_of(displacement, settings.steps), displacement, settings.still)
    apart = [(k, own) for k, map_ in enumerate(scores.scores) for own in np.unique(clusters[map_ > 0])]
    nothing = np.zeros(scores.size, np.uint8)
    if not apart:
        return Found(scores.image_id, nothing, ())
    start = np.stack([scores.scores[k] * (clusters == own) for k, own in apart]) * (1 - boundary)
    walked = walk(start, boundary_affinities(boundary, settings.radius), settings.beta, settings.doublings)
    highest, winner = winners_of(walked, scores, settings.background)
    classes = [int(scores.classes[k]) for k, _ in apart]
    numbers, instances = connected_parts(highest, winner, classes, settings.smallest)
    return Found(scores.image_id, numbers, instances)


def centroids_of(displacement: NDArray[np.floating], steps: int) -> NDArray[np.int64]:
    """(2, h, w): the cell where each cell ends that moves `steps` times by the displacement of its place.

    displacement: (2, h, w), bilinear between cells. Nothing leaves the map.
    """
    _, height, width = displacement.shape
    last = np.array([[height - 1], [width - 1]])
    field = displacement.reshape(2, -1)
    place = np.indices((height, width)).reshape(2, -1).astype(field.dtype)
    for _ in range(steps):
        upper = np.floor(place).astype(np.int64)
        (y, x), (low, right) = upper, np.minimum(upper + 1, last)
        down, across = place - upper
        above = field[:, y * width + x] * (1 - across) + field[:, y * width + right] * across
        below = field[:, low * width + x] * (1 - across) + field[:, low * width + right] * across
        place = np.clip(place + above * (1 - down) + below * down, 0, last)
    return np.round(place).astype(np.int64).reshape(2, height, width)


def clusters_of(centroids: NDArray[np.integer], displacement: NDArray[np.floating], still: float) -> NDArray[np.int64]:
    """(h, w), 0..I-1 without gaps: cells whose centroids lie in the same connected part of short displacements.

    Cells whose centroid lies in none of these parts have a cluster of their own, the first.
    """
    from scipy import ndimage

    parts, _ = ndimage.label(np.hypot(*displacement) < still)
    _, clusters = np.unique(parts[centroids[0], centroids[1]], return_inverse=True)
    return clusters.reshape(displacement.shape[1:])


def winners_of(
    walked: NDArray[np.floating], scores: ScoreMap, background: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(H, W) each: the highest score, all divided by the maximum over maps and pixels, and its map; -1: background.

    walked: (R, h, w), which are resized one after the other.
    """
    highest, winner = np.zeros(scores.size, np.float32), np.full(scores.size, -1)
    for row, map_ in enumerate(walked):
        full = resize_maps(map_, scores.size, scores.stride)
        higher = full > highest
        highest[higher], winner[higher] = full[higher], row
    highest /= highest.max() or 1
    winner[highest <= background] = -1
    return highest, winner


def connected_parts(
    highest: NDArray[np.floating], winner: NDArray[np.integer], classes: list[int], smallest: float
) -> tuple[NDArray[np.uint8], tuple[Instance, ...]]:
    """The numbered parts of the maps' areas in `winner`, those below `smallest` of all pixels left out.

    The score of a part is the highest of its pixels.
    """
    from scipy import ndimage

    parts = []
    for row in np.unique(winner[winner >= 0]):
        labelled, count = ndimage.label(winner == row)
        for part, box in enumerate(ndimage.find_objects(labelled, count), start=1):
            own = labelled[box] == part
            if own.sum() >= smallest * winner.size:
                parts.append((Instance(classes[row], float(highest[box][own].max())), box, own))
    parts.sort(key=lambda part: -part[0].score)
    numbers = np.zeros(winner.shape, np.uint8)
    for number, (_, box, own) in enumerate(parts, start=1):
        numbers[box][own] = number
    return numbers, tuple(instance for instance, _, _ in parts)
