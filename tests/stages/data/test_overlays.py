"""Masks drawn on their images: colours worked out pixel by pixel, the names below, odd sizes and many classes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from artifacts.masks import voc_palette
from stages.data.overlays import LEAST_WIDTH, MOST_SIDE, draw_overlay, fitting_size, found_classes, overlay

PALETTE = voc_palette()
COLOURS = np.frombuffer(PALETTE, np.uint8).reshape(256, 3)
NAMES = ("background", "cat", "dog")


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_each_pixel_is_a_mixture_by_its_class_and_outlines_are_opaque(opacity):
    image, mask = image_of(30, 40), np.zeros((30, 40), np.uint8)
    mask[5:20, 5:20], mask[10:28, 25:38] = 1, 2
    drawn = overlay(image, mask, PALETTE, True, opacity)
    for y, x in np.ndindex(mask.shape):
        value = mask[y, x]
        near = {*mask[max(y - 2, 0) : y + 3, x].tolist(), *mask[y, max(x - 2, 0) : x + 3].tolist()}
        if value == 0:
            expected = image[y, x].astype(float)
        elif near != {value}:
            expected = COLOURS[value].astype(float)
        else:
            expected = (1 - opacity) * image[y, x] + opacity * COLOURS[value]
        assert np.abs(drawn[y, x] - expected).max() <= 0.501, (y, x)


def test_the_first_class_is_drawn_where_there_is_no_background():
    image, mask = image_of(20, 20), np.zeros((20, 20), np.uint8)
    drawn = np.asarray(draw_overlay(image, mask, ("road", "car"), PALETTE, 1.0, legend=False))
    assert (drawn == COLOURS[0]).all()


def test_names_of_what_is_found_with_their_share_the_largest_first():
    mask = np.zeros((10, 100), np.uint8)
    mask[0, :3], mask[1:3], mask[9] = 1, 2, 255
    assert found_classes(mask, NAMES, PALETTE) == [
        ("dog 20.0 %", (0, 128, 0)),
        ("unknown 10.0 %", None),
        ("cat 0.3 %", (128, 0, 0)),
    ]
    mask[:] = 0
    assert found_classes(mask, NAMES, PALETTE) == [("no class", (0, 0, 0))]
    mask = np.zeros((200, 100), np.uint8)
    mask[0, 0] = 1
    assert found_classes(mask, NAMES, PALETTE)[0][0] == "cat 0.1 %"  # not 0.0, which would say that there is none


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (64, 64), (3000, 4100)])
def test_odd_sizes(shape):
    image, mask = image_of(*shape), np.ones(shape, np.uint8)
    plain = draw_overlay(image, mask, NAMES, PALETTE, legend=False)
    assert max(plain.size) == min(max(shape), MOST_SIDE)
    assert min(plain.size) >= 1
    named = draw_overlay(image, mask, NAMES, PALETTE)
    assert named.width == max(plain.width, LEAST_WIDTH)
    assert plain.height + 15 < named.height < plain.height + 120
    left = (named.width - plain.width) // 2
    drawn = named.crop((left, 0, left + plain.width, plain.height))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(plain))


def test_200_classes_are_all_named_below():
    names = ("background", *(f"class-{number}" for number in range(1, 200)))
    mask = np.arange(40_000, dtype=np.int64).reshape(200, 200) % 200
    drawn = draw_overlay(image_of(200, 200), mask.astype(np.uint8), names, PALETTE)
    below = np.asarray(drawn)[200:].reshape(-1, 3)
    seen = set(map(tuple, below.tolist()))
    assert sum(tuple(COLOURS[number].tolist()) in seen for number in range(1, 200)) == 199


def test_letters_that_the_font_lacks_are_replaced():
    mask = np.ones((50, 50), np.uint8)
    assert draw_overlay(image_of(50, 50), mask, ("background", "Straßenbahn 路"), PALETTE).size[0] == LEAST_WIDTH


def test_the_size_that_fits_is_the_largest_of_the_same_proportions():
    assert fitting_size((100, 200, 3), 50, 50) == (50, 25)
    assert fitting_size((10, 20), 200, 50) == (100, 50)
    assert fitting_size((1, 9000), 300, 300) == (300, 1)
    assert Image.new("RGB", fitting_size((9000, 1), 300, 300)).size == (1, 300)
