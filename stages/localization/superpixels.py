"""Superpixels: regions of an image of similar colour, and figures of them. Loads no torch.

regions = superpixels_of(image, 400, compactness=20.0)      # (H, W), 0..N-1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def superpixels_of(image: NDArray[np.uint8], count: int, compactness: float) -> NDArray[np.int64]:
    """The superpixel of each pixel, 0..N-1 without gaps, N about `count` (SLIC: Achanta et al., PAMI 2012).

    compactness: the weight of nearness in space against nearness in colour.
    """
    from skimage.segmentation import slic  # its import takes a second, which only users should wait for

    regions = slic(image, n_segments=count, compactness=compactness, start_label=0)
    numbers = np.cumsum(np.bincount(regions.ravel()) > 0) - 1
    without_gaps: NDArray[np.int64] = numbers[regions]
    return without_gaps


def region_means(regions: NDArray, values: NDArray, count: int) -> NDArray:
    """(count, D): mean of values (H, W, D) in each region."""
    flat = regions.ravel()
    sums = [np.bincount(flat, values[..., d].ravel(), minlength=count) for d in range(values.shape[-1])]
    return np.stack(sums, axis=1) / np.bincount(flat, minlength=count)[:, None]


def neighbours(regions: NDArray, count: int) -> NDArray[np.bool_]:
    """bool (count, count): which regions share an edge; none with itself."""
    touching = np.zeros((count, count), dtype=bool)
    for one, other in ((regions[1:], regions[:-1]), (regions[:, 1:], regions[:, :-1])):
        edge = one != other
        touching[one[edge], other[edge]] = True
    return touching | touching.T
