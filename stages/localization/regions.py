"""Few large regions of an image: neighbouring superpixels, merged until the wanted number is left. Loads no torch.

regions = regions_of(image, 64)        # (H, W), 0..N-1, N at most 64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.engine.known import Known
from stages.localization.superpixels import neighbours, region_means, superpixels_of

SUPERPIXELS = 300  # superpixels before they are merged
COMPACTNESS = 10.0


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the setting `regions`, at most 255."""
    return {"regions": regions_of(known.image, settings.regions).astype(np.uint8)}


def regions_of(image: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The region of each pixel, int64 (H, W), 0..N-1 without gaps, N at most `count`.

    The most similar neighbours are merged first, as in ICD (Fan et al., CVPR 2020), by their mean Lab colour (ICD: by
    features of a network) and by the share of the image that they cover together, small ones first.
    """
    return region_levels(image, (count,))[0]


def region_levels(image: NDArray[np.uint8], counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """As `regions_of`, for several counts, the highest first; regions of a lower count consist of those before them."""
    from skimage.color import rgb2lab

    regions, lab = superpixels_of(image, max(SUPERPIXELS, *counts), COMPACTNESS), rgb2lab(image)
    found = []
    for count in sorted(counts, reverse=True):
        number = int(regions.max()) + 1
        areas = np.bincount(regions.ravel()) / regions.size
        regions = merged(region_means(regions, lab, number), areas, neighbours(regions, number), count)[regions]
        found.append(regions)
    return found


def merged(features: NDArray, areas: NDArray, touching: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The number, 0..M-1, of the merged region that each of N regions belongs to, M the larger of `count` and 1, or N.

    similarity(i, j) = -|f_i - f_j| / 100 - (a_i + a_j),  of regions that touch; merged ones have the mean of f

    Args:
        features: f, (N, D); areas: a, (N,), shares of the image; touching: (N, N).
    """
    features, areas, touching = features.astype(float), areas.astype(float), touching.copy()
    similarity = np.full(touching.shape, -np.inf)

    def compare(one: int) -> None:
        distances = np.linalg.norm(features - features[one], axis=1)
        row = np.where(touching[one], -distances / 100 - areas - areas[one], -np.inf)
        similarity[one], similarity[:, one] = row, row

    for one in range(len(areas)):
        compare(one)
    owner = np.arange(len(areas))
    for _ in range(len(areas) - count):
        one, other = sorted(divmod(int(similarity.argmax()), len(areas)))
        shares = areas[[one, other]]
        features[one] = shares @ features[[one, other]] / shares.sum()
        areas[one] = shares.sum()
        owner[owner == other] = one
        touching[one] |= touching[other]
        touching[:, one] = touching[one]
        touching[other] = touching[:, other] = touching[one, one] = False
        compare(other)
        compare(one)
    return np.unique(owner, return_inverse=True)[1].reshape(-1)
