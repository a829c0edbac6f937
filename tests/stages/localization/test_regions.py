"""stages/localization/regions.py: merged by hand, at most so many, whatever the image."""

from __future__ import annotations

import numpy as np
import pytest

from stages.localization.regions import merged, regions_of

CHAIN = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)  # 0 - 1 - 2 - 3


@pytest.mark.parametrize(
    ("features", "areas", "count", "expected"),
    [
        ([0, 60, 10, 40], [0.25] * 4, 3, [0, 1, 2, 2]),  # 0 and 2 are alike, but do not touch
        ([0, 10, 20, 90], [0.1, 0.1, 0.1, 0.7], 2, [0, 0, 0, 1]),
        ([0, 0, 0, 0], [0.5, 0.3, 0.1, 0.1], 3, [0, 1, 2, 2]),  # the smallest first
        ([0, 40, 56, 100], [0.3, 0.1, 0.3, 0.3], 2, [0, 1, 1, 1]),  # 1 and 2 together have 52, by their areas
        ([0, 1, 2, 3], [0.25] * 4, 1, [0, 0, 0, 0]),
        ([0, 1, 2, 3], [0.25] * 4, 9, [0, 1, 2, 3]),
    ],
)
def test_merged_by_hand(features, areas, count, expected):
    assert merged(np.array(features)[:, None], np.array(areas), CHAIN, count).tolist() == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (2, 2), (60, 83)])
@pytest.mark.parametrize("count", [2, 64, 254])
def test_at_most_so_many_without_gaps(size, count):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    regions = regions_of(image, count)
    assert regions.shape == size
    found = np.unique(regions)
    assert found.tolist() == list(range(len(found)))
    assert len(found) <= min(count, regions.size)


def test_regions_follow_colours():
    image = np.zeros((60, 80, 3), np.uint8)
    image[10:40, 20:60] = (250, 20, 20)
    regions = regions_of(image, 2)
    assert len(np.unique(regions)) == 2
    assert len(np.unique(regions[12:38, 22:58])) == 1
    assert regions[0, 0] == regions[-1, -1] != regions[25, 40]
