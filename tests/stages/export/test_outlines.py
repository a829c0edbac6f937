"""stages/export/outlines.py: areas and outlines against plain loops and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import disk, polygon2mask
from skimage.measure import label as skimage_label

from stages.data.annotations.drawing import fill
from stages.export.outlines import areas_of, rings_of, simplified

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(bool, size))


def plain_area(ring: np.ndarray) -> float:
    """Positive where the ring runs clockwise as seen (y downwards)."""
    total = 0.0
    for (x, y), (next_x, next_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        total += x * next_y - next_x * y
    return total / 2


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_outlines_fill_to_the_very_pixels_they_were_traced_around(mask):
    areas, small = areas_of(mask)
    assert small == 0
    together = np.zeros(mask.shape, bool)
    for area in areas:
        outline = area.outline(0)
        assert (outline == outline.round()).all()
        np.testing.assert_array_equal(fill(mask.shape, [outline]), area.within(mask.shape))
        # another program's filling: the points of scikit-image are (row, column) from the first pixel's centre
        np.testing.assert_array_equal(polygon2mask(mask.shape, outline[:, ::-1] - 0.5), area.within(mask.shape))
        assert not (together & area.within(mask.shape)).any()
        together |= area.within(mask.shape)
    np.testing.assert_array_equal(together, mask)


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_areas_are_those_of_pixels_that_share_an_edge(mask):
    areas, _ = areas_of(mask)
    expected = skimage_label(mask, connectivity=1)
    assert len(areas) == expected.max()
    for area in areas:
        within = area.within(mask.shape)
        numbers = np.unique(expected[within])
        assert len(numbers) == 1
        assert area.count == (expected == numbers[0]).sum()


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_rings_go_clockwise_around_areas_and_the_other_way_around_holes(mask):
    for area in areas_of(mask)[0]:
        around, *holes = rings_of(area.pixels)
        outside = skimage_label(np.pad(~area.pixels, 1, constant_values=True), connectivity=2)
        assert len(holes) == outside.max() - 1
        assert plain_area(around) > 0
        assert all(plain_area(hole) < 0 for hole in holes)
        assert sum(map(plain_area, [around, *holes])) == area.count


def test_a_ring_that_a_person_can_check():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    around, hole = rings_of(mask)
    assert around.tolist() == [[0, 0], [3, 0], [3, 2], [4, 2], [4, 3], [0, 3]]
    assert hole.tolist() == [[1, 2], [2, 2], [2, 1], [1, 1]]
    (area,), _ = areas_of(np.pad(mask, 1))
    assert (area.top, area.left, area.count) == (1, 1, 9)
    outline = area.outline(0) - 1
    assert outline.tolist() == [*around.tolist(), [1, 2], [2, 2], [2, 1], [1, 1], [1, 2], [0, 3]]


def test_small_areas_are_left_out_and_counted():
    mask = np.zeros((9, 9), bool)
    mask[0, 0] = mask[0, 2:4] = mask[4:8, 4:8] = True
    areas, small = areas_of(mask, least=2)
    assert ([area.count for area in areas], small) == ([2, 16], 1)
    assert areas_of(mask, least=17) == ([], 3)


@pytest.mark.parametrize("tolerance", [1.0, 1.5, 3.0])
def test_an_outline_with_a_tolerance_stays_within_it_and_has_fewer_corners(tolerance):
    mask = np.zeros((60, 70), bool)
    mask[disk((30, 33), 25)] = True
    ring = rings_of(mask)[0]
    fewer = simplified(ring, tolerance)
    assert {tuple(point) for point in fewer} <= {tuple(point) for point in ring}
    assert len(fewer) < len(ring) / 2
    for point in ring:  # the distance to the nearest edge, edge by edge
        distances = []
        for start, end in zip(fewer, np.roll(fewer, -1, axis=0), strict=True):
            share = min(1, max(0, (point - start) @ (end - start) / ((end - start) @ (end - start))))
            distances.append(np.hypot(*(point - start - share * (end - start))))
        assert min(distances) <= tolerance + 1e-9


@given(MASKS, st.floats(0, 20))
@settings(max_examples=100, deadline=None)
def test_no_area_is_lost_by_a_tolerance(mask, tolerance):
    for area in areas_of(mask)[0]:
        outline = area.outline(tolerance)
        assert len(outline) >= 3
        assert outline.min() >= 0
        assert (outline <= mask.shape[::-1]).all()
