"""Deep seeded region growing (DSRG, Huang et al., CVPR 2018), by connected components.

The paper visits every class and every pixel until nothing changes. The same fixed point is reached in one pass: a
connected component of the map "seed or confident prediction" goes to class c exactly if it holds a seed of c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from artifacts.masks import IGNORE

# 8-connectivity inside a plane, none between planes: one call labels many classes and images.
EIGHT_CONNECTED_PLANES = np.zeros((3, 3, 3), dtype=bool)
EIGHT_CONNECTED_PLANES[1] = True


def grow_batch(
    probabilities: NDArray,
    seeds: NDArray,
    present: NDArray,
    theta_b: float = 0.99,
    theta_f: float = 0.85,
) -> NDArray:
    """Seeds of a batch of images, grown into confident neighbours.

    Args:
        probabilities: (B, C, h, w) class probabilities, usually refined by the dense CRF; 0 is background.
        seeds: label maps (B, h, w) with 255 where unlabelled.
        present: bool (B, C), the classes of each image; the background is always added to them.
        theta_b: a pixel is confident background above this probability (DSRG: 0.99).
        theta_f: a pixel is confident foreground above this probability (DSRG: 0.85).

    Seeds are never removed or relabelled. Seeds of classes that are not present stay and do not grow. ValueError:
    shapes do not match.
    """
    B, C, h, w = probabilities.shape
    if seeds.shape != (B, h, w) or present.shape != (B, C):
        raise ValueError(
            f"probabilities {probabilities.shape} need seeds {(B, h, w)} and present {(B, C)}, "
            f"found seeds {seeds.shape} and present {present.shape}"
        )
    planes: list[NDArray] = []  # M == c, one plane for every image and present class
    owners: list[tuple[int, int]] = []
    for index in range(B):
        classes = [0, *(np.flatnonzero(present[index, 1:]) + 1).tolist()]
        candidates = confident_or_seed(probabilities[index], seeds[index], classes, theta_b, theta_f)
        planes.extend(candidates == label for label in classes)
        owners.extend((index, label) for label in classes)

    components, count = ndimage.label(np.stack(planes), structure=EIGHT_CONNECTED_PLANES)  # (N, h, w)
    images, classes_of_planes = np.array(owners).T
    seeded = seeds[images] == classes_of_planes[:, None, None]  # (N, h, w)
    accepted = np.zeros(count + 1, dtype=bool)
    accepted[components[seeded]] = True
    accepted[0] = False  # component 0 is "not M == c": it contains seeds overridden by a confident prediction
    planes_grown = accepted[components]

    grown = seeds.copy()
    for (index, label), plane in zip(owners, planes_grown, strict=True):
        grown[index][plane & (seeds[index] == IGNORE)] = label
    return grown


def confident_or_seed(
    probabilities: NDArray, labels: NDArray, classes: Sequence[int], theta_b: float, theta_f: float
) -> NDArray:
    """The map M of DSRG's growing step, (h, w): seeds, overridden by predictions above their threshold.

    Only `classes` (ascending, background first) take part; in a tie the lower class id wins. Confident
    background must exceed both thresholds, as in the authors' code.
    """
    best = probabilities[classes[0]].copy()  # (h, w)
    winner = np.full(best.shape, classes[0], dtype=labels.dtype)
    for label in classes[1:]:
        higher = probabilities[label] > best
        best[higher] = probabilities[label][higher]
        winner[higher] = label
    confident = (best > theta_f) & ((winner != 0) | (best > theta_b))
    return np.where(confident, winner, labels)
