"""stages/engine/augmentation.py: the label follows the image, padding is known as such, colour is exact at one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from stages.config import build
from stages.engine.augmentation import (
    IGNORE,
    PADDING_COLOUR,
    Geometry,
    cut_image,
    cut_label,
    draw_geometry,
    valid_area,
)
from stages.engine.batch import to_device
from stages.engine.colour import change_colours, draw_factors
from stages.engine.config import AugmentationConfig
from stages.networks import normalise

LEVELS = 60  # of red for each class: far enough apart to read the label off the image


def labelled_image(height, width, random):
    """A label of blocks, and an image whose red channel is LEVELS times the label."""
    label = random.integers(0, 5, (-(-height // 8), -(-width // 8))).astype(np.uint8)
    label = label.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = label * LEVELS
    return image, label


def config_of(**values):
    return build(AugmentationConfig, values, "test")


def test_random_scales_and_mirroring_are_on_unless_told_otherwise():
    """The published codes of AdvSemSeg and s4GAN have them off by default."""
    config = AugmentationConfig()
    assert (config.mode, config.scale, config.scales, config.flip) == ("crop", (0.5, 2.0), (), True)


@settings(max_examples=60)
@given(
    st.integers(5, 70),
    st.integers(5, 70),
    st.sampled_from([16, 33, 48]),
    st.sampled_from(["crop", "resize"]),
    st.integers(0, 1000),
)
def test_the_label_follows_the_image(height, width, crop, mode, seed):
    random = np.random.default_rng(seed)
    original, label = labelled_image(height, width, random)
    geometry = draw_geometry(config_of(mode=mode), (height, width), crop, random)
    image = cut_image(original, geometry, crop)
    cut = cut_label(label, geometry, crop)
    valid = valid_area(geometry, crop)
    assert image.shape == (crop, crop, 3)
    assert cut.shape == valid.shape == (crop, crop)
    assert (valid == (cut != IGNORE)).all()  # the label itself has no 255 here
    assert (image[~valid] == PADDING_COLOUR).all()
    # bilinear images mix colours where classes meet, as far as one pixel of the original (or of the copy) reaches
    sides = geometry.box[:2], geometry.box[2:]
    scale = [size / (high - low) for size, low, high in zip(geometry.size, *sides, strict=True)]
    # (pixels beyond the crop's border, too)
    if min(scale) > 0.6:
        inner = valid & ~edges(cut, math.ceil(max(scale)) + 1)
        read = np.rint(image[..., 0] / LEVELS)
        assert (read[inner] == cut[inner]).all()


def edges(label, distance):
    """Pixels within so many of a change of label or of the border."""
    changed = np.ones(label.shape, bool)
    changed[1:-1, 1:-1] = False
    for axis in (0, 1):
        differs = np.diff(label.astype(int), axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        changed[tuple(before)] |= differs
        changed[tuple(after)] |= differs
    for _ in range(distance - 1):
        grown = changed.copy()
        grown[1:] |= changed[:-1]
        grown[:-1] |= changed[1:]
        grown[:, 1:] |= changed[:, :-1]
        grown[:, :-1] |= changed[:, 1:]
        changed = grown
    return changed


def test_at_scale_one_a_crop_is_a_part_of_the_image_bit_by_bit():
    random = np.random.default_rng(0)
    image, label = random.integers(0, 256, (50, 70, 3), np.uint8), random.integers(0, 5, (50, 70)).astype(np.uint8)
    for _ in range(20):
        geometry = draw_geometry(config_of(scale=[1, 1]), (50, 70), 33, random)
        left, top = int(geometry.box[0]), int(geometry.box[1])
        expected = image[top : top + 33, left : left + 33], label[top : top + 33, left : left + 33]
        turn = slice(None, None, -1 if geometry.flip else 1)
        assert (cut_image(image, geometry, 33) == expected[0][:, turn]).all()
        assert (cut_label(label, geometry, 33) == expected[1][:, turn]).all()
        assert valid_area(geometry, 33).all()


def test_crops_reach_every_corner_and_flips_are_half():
    random = np.random.default_rng(1)
    drawn = [draw_geometry(config_of(scale=[1, 1]), (35, 36), 33, random) for _ in range(400)]
    assert {geometry.box[:2] for geometry in drawn} == {(x, y) for x in range(4) for y in range(3)}
    assert 150 < sum(geometry.flip for geometry in drawn) < 250
    assert not any(draw_geometry(config_of(flip=False), (35, 36), 33, random).flip for _ in range(50))


def test_padding_lies_right_and_below_or_mirrored_left():
    image, label = np.full((10, 20, 3), 7, np.uint8), np.ones((10, 20), np.uint8)
    for flip in (False, True):
        geometry = Geometry((0, 0, 20, 10), (20, 10), flip)
        valid = np.zeros((33, 33), bool)
        valid[:10, (slice(13, 33) if flip else slice(0, 20))] = True
        assert (valid_area(geometry, 33) == valid).all()
        assert (cut_label(label, geometry, 33) == np.where(valid, 1, IGNORE)).all()
        assert (cut_image(image, geometry, 33)[valid] == 7).all()


def test_resize_shows_the_whole_image_without_padding():
    random = np.random.default_rng(2)
    geometry = draw_geometry(config_of(mode="resize", flip=False), (10, 20), 40, random)
    assert geometry == Geometry((0, 0, 20, 10), (40, 40), False)
    label = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert (cut_label(label, geometry, 40) == label.repeat(4, 0).repeat(2, 1)).all()
    assert valid_area(geometry, 40).all()


def test_scales_are_drawn_from_the_range_or_from_the_list():
    random = np.random.default_rng(3)
    sizes = [draw_geometry(config_of(scales=[0.5, 1.5]), (20, 20), 100, random).size for _ in range(40)]
    assert set(sizes) == {(10, 10), (30, 30)}
    sizes = [draw_geometry(config_of(scale=[0.5, 2]), (20, 20), 100, random).size[0] for _ in range(300)]
    assert (min(sizes), max(sizes)) == (10, 40)


def test_a_sliver_of_an_image_survives_any_scale():
    for size in ((1, 300), (300, 1), (1, 1)):
        for seed in range(10):
            geometry = draw_geometry(config_of(scale=[0.1, 2]), size, 33, np.random.default_rng(seed))
            assert cut_image(np.zeros((*size, 3), np.uint8), geometry, 33).shape == (33, 33, 3)
            assert (cut_label(np.zeros(size, np.uint8), geometry, 33) == 0).any()


def test_colour_factors_of_one_change_nothing():
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(change_colours(images, torch.ones(4, 3)), images)


def test_colour_by_hand():
    """A grey pixel of 100 and one of 200, each factor alone."""
    images = torch.tensor([100.0, 200.0]).repeat(3, 1)[None, :, None]  # (1, 3, 1, 2), mean 150
    for factors, expected in {
        (0.5, 1.0, 1.0): [50.0, 100.0],
        (2.0, 1.0, 1.0): [200.0, 255.0],
        (1.0, 0.5, 1.0): [125.0, 175.0],
        (1.0, 1.0, 0.0): [100.0, 200.0],
    }.items():
        found = change_colours(images, torch.tensor([factors]))[0, 0, 0]
        # the digits of luma add up to .9999
        torch.testing.assert_close(found, torch.tensor(expected), atol=0.03, rtol=0)
    red = torch.tensor([200.0, 0.0, 0.0])[None, :, None, None]
    grey = 0.2989 * 200
    torch.testing.assert_close(change_colours(red, torch.tensor([[1.0, 1.0, 0.0]])).flatten(), torch.tensor([grey] * 3))


@pytest.mark.parametrize("factors", [(0.6, 1.4, 1.0), (1.3, 0.7, 0.0), (1.0, 1.2, 1.5)])
def test_colours_of_weak_views_are_torchvisions_as_those_of_strong_ones(factors):
    """They had another luma, 0.02 of 255 off."""
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    expected = images / 255
    for change, factor in zip((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), factors, strict=True):
        expected = change(expected, factor)
    found = change_colours(images, torch.tensor([factors, factors]))
    torch.testing.assert_close(found, 255 * expected, atol=1e-3, rtol=0)


def test_colours_are_drawn_within_their_ranges():
    drawn = np.stack(
        [draw_factors(config_of(brightness=0.3, saturation=0.1), np.random.default_rng(seed)) for seed in range(300)]
    )
    assert 0.7 <= drawn[:, 0].min() < 0.75
    assert 1.25 < drawn[:, 0].max() <= 1.3
    assert (drawn[:, 1] == 1).all()
    assert 0.9 <= drawn[:, 2].min() < drawn[:, 2].max() <= 1.1


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_padding_is_zero_for_the_network_and_keeps_its_colour(factor):
    geometry = Geometry((0, 0, 20, 10), (20, 10), False)
    image = cut_image(np.full((10, 20, 3), 100, np.uint8), geometry, 33)
    valid = torch.from_numpy(valid_area(geometry, 33))[None]
    sample = {
        "id": ["a"],
        "image": torch.from_numpy(image.transpose(2, 0, 1).copy())[None],
        "valid": valid,
        "label": torch.zeros(1, 33, 33, dtype=torch.uint8),
        "tags": torch.zeros(1, 3),
        "colour": torch.tensor([[factor, 1.0, 1.0]]),
    }
    batch = to_device(sample, torch.device("cpu"))
    padded = ~valid[:, None].expand(1, 3, 33, 33)
    assert (batch.image[padded] == 0).all()
    assert (batch.pixels[0, :, 20, 20] == torch.tensor(PADDING_COLOUR)).all()
    assert (batch.pixels[0, :, 5, 5] == 100 * factor).all()
    torch.testing.assert_close(batch.image[0, :, 5, 5], normalise(batch.pixels)[0, :, 5, 5])
