"""Segments vote on an estimated mask (SEPL, Chen et al., 2023): its objects get the outlines of segments.

better = vote(labels, layers)       # uint8 (H, W), of segments as label maps int64 (L, H, W)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from artifacts.masks import IGNORE
from stages.localization.segment_layers import NONE

VALUES = 256  # of a mask


def vote(
    labels: NDArray[np.uint8], layers: NDArray[np.int64], inside: float = 0.5, covers: float = 0.85
) -> NDArray[np.uint8]:
    """The mask in which each class other than 0 has the segments that join it; 0 where segments lie that join none.

    Segment S joins class c with the pixels P if |P and S| > inside |S|, or >= covers |P|; if several, the one that it
    agrees with best, by |P and S| / |P or S|. A pixel of several segments that join has the class of the best
    agreement. Ties: the lower class id. So the order of the segments has no influence. Where no segment lies, the mask
    stays. Unknown pixels (255) are counted nowhere; they get the class of a segment that joins, or stay unknown.

    Args:
        layers: numbers of segments, 0..n-1, each in one of the layers; NONE where there is none.
    """
    counts = np.zeros((int(layers.max(initial=NONE)) + 1, VALUES), np.int64)  # pixels of each segment and class
    known = labels != IGNORE
    for layer in layers:
        chosen = known & (layer != NONE)
        pairs = layer[chosen] * VALUES + labels[chosen]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    areas = np.bincount(labels.ravel(), minlength=VALUES)
    classes = np.flatnonzero(areas[1:IGNORE]) + 1
    joined, agreement = _joined(counts[:, classes], counts.sum(1), areas[classes], inside, covers)
    joined = np.append(np.where(agreement > 0, np.append(classes, 0)[joined], 0), 0)  # NONE, -1, reads the last one
    agreement = np.append(agreement, 0)

    found = np.where((layers != NONE).any(0) & known, np.uint8(0), labels)
    best = np.zeros(labels.shape)
    for layer in layers:
        own, label = agreement[layer], joined[layer]
        better = (own > best) | ((own == best) & (own > 0) & (label < found))
        found[better], best[better] = label[better], own[better]
    return found


def _joined(
    shared: NDArray[np.int64], sizes: NDArray[np.int64], areas: NDArray[np.int64], inside: float, covers: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each segment the column of the class that it joins, and the agreement with it, 0 if it joins none.

    shared: |P and S|, (n, C); sizes: |S|, (n,); areas: |P|, (C,).
    """
    if not shared.size:
        return np.full(len(sizes), -1), np.zeros(len(sizes))
    agreement = shared / np.maximum(sizes[:, None] + areas - shared, 1)
    joins = (shared > inside * sizes[:, None]) | ((shared >= covers * areas) & (shared > 0))
    agreement[~joins] = 0
    return agreement.argmax(1), agreement.max(1)
