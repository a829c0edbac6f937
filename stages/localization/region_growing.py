"""Deep seeded region growing (DSRG, Huang et al., CVPR 2018), by connected components.

The paper visits every class and every pixel until nothing changes. Its fix-point is reached in one pass: a
connected component of the map "seed or confident prediction" goes to class c exactly if it holds a seed of c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from artifacts.masks import IGNORE

# 8-connectivity inside a plane, none between planes: one call labels many classes and pictures.
EIGHT_CONNECTED_PLANES = np.zeros((3, 3, 3), dtype=bool)
EIGHT_CONNECTED_PLANES[1] = True


def grow(
    probabilities: NDArray,
    seeds: NDArray,
    present: Sequence[int] | NDArray,
    theta_b: float = 0.99,
    theta_f: float = 0.85,
) -> NDArray:
    """Seeds of one picture, grown into confident neighbours; same form as the seeds that were given.

    Args:
        probabilities: (C, h, w) class probabilities, usually refined by the dense CRF; 0 is background.
        seeds: label map (h, w) with 255 where unlabelled, or a binary stack (C, h, w) with at most one
            label a pixel.
        present: class ids of the picture, or bool (C,); the background is always added to them.
        theta_b: a pixel is confident background above this probability (DSRG: 0.99).
        theta_f: a pixel is confident foreground above this probability (DSRG: 0.85).

    Seeds are never removed or relabelled. Seeds of classes that are not present stay and do not grow.

    Raises:
        ValueError: shapes do not match, or a pixel of the stack carries two labels.
    """
    batch = grow_batch(probabilities[None], seeds[None], _presence(present, len(probabilities))[None], theta_b, theta_f)
    return cast(NDArray, batch[0])


def grow_batch(
    probabilities: NDArray,
    seeds: NDArray,
    present: NDArray,
    theta_b: float = 0.99,
    theta_f: float = 0.85,
) -> NDArray:
    """`grow` for a batch: probabilities (B, C, h, w), seeds (B[, C], h, w), present bool (B, C)."""
    B, C, h, w = probabilities.shape
    if seeds.shape not in ((B, h, w), (B, C, h, w)) or present.shape != (B, C):
        raise ValueError(
            f"probabilities {probabilities.shape} need seeds {(B, h, w)} or {(B, C, h, w)} "
            f"and present {(B, C)}, found seeds {seeds.shape} and present {present.shape}"
        )
    labels = label_map(seeds) if seeds.ndim == 4 else seeds  # (B, h, w)
    planes: list[NDArray] = []  # M == c, one plane for every picture and present class
    owners: list[tuple[int, int]] = []
    for index in range(B):
        classes = [0, *(np.flatnonzero(present[index, 1:]) + 1).tolist()]
        candidates = confident_or_seed(probabilities[index], labels[index], classes, theta_b, theta_f)
        planes.extend(candidates == label for label in classes)
        owners.extend((index, label) for label in classes)

    components, count = ndimage.label(np.stack(planes), structure=EIGHT_CONNECTED_PLANES)  # (N, h, w)
    pictures, classes_of_planes = np.array(owners).T
    seeded = labels[pictures] == classes_of_planes[:, None, None]  # (N, h, w)
    accepted = np.zeros(count + 1, dtype=bool)
    accepted[components[seeded]] = True
    accepted[0] = False  # component 0 is "not M == c": a seed overridden by a confident prediction lies in it
    planes_grown = accepted[components]

    grown = labels.copy()
    for (index, label), plane in zip(owners, planes_grown, strict=True):
        grown[index][plane & (labels[index] == IGNORE)] = label
    return stack(grown, C).astype(seeds.dtype, copy=False) if seeds.ndim == 4 else grown


def confident_or_seed(
    probabilities: NDArray, labels: NDArray, classes: Sequence[int], theta_b: float, theta_f: float
) -> NDArray:
    """The map M of DSRG's growing step, (h, w): seeds, overridden by predictions above their threshold.

    Only `classes` (ascending, background first) take part; on a tie the lower class id wins. Confident
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


def label_map(seeds: NDArray) -> NDArray[np.uint8]:
    """Single-label binary stack (..., C, h, w) to a label map (..., h, w), 255 where no label is set."""
    binary = seeds.astype(bool)
    count = binary.sum(axis=-3)
    if (count > 1).any():
        raise ValueError(f"{int((count > 1).sum())} pixels carry more than one seed label; seeds must be single-label")
    return np.where(count == 1, binary.argmax(axis=-3), IGNORE).astype(np.uint8)


def stack(labels: NDArray, num_classes: int) -> NDArray[np.bool_]:
    """Label map (..., h, w) to a binary stack (..., C, h, w)."""
    return np.asarray(labels)[..., None, :, :] == np.arange(num_classes)[:, None, None]


def _presence(present: Sequence[int] | NDArray, num_classes: int) -> NDArray[np.bool_]:
    given = np.asarray(present)
    if given.dtype == bool:
        return given
    presence = np.zeros(num_classes, dtype=bool)
    presence[given.astype(int)] = True
    return presence
