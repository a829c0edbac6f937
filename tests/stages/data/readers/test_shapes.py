"""The embedded data set: pure functions of seed and id, honest masks, uneven contexts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from artifacts.errors import ConfigError
from stages.config import build
from stages.data.annotations.image_labels import tags_of_mask
from stages.data.config import ShapesConfig
from stages.data.drawn_classes import BOAT, CLASS_NAMES, MUSHROOM, PAINTERS
from stages.data.readers.shapes import COMPANION_OF, Drawing, draw, image_ids

CONFIG = ShapesConfig(train=40, weak=0, val=1)


@pytest.fixture(scope="module")
def drawings():
    return {image_id: draw(CONFIG, image_id) for image_id in image_ids(CONFIG)["train"]}


def test_an_image_is_a_function_of_seed_and_id(drawings):
    again = draw(CONFIG, "train_00007")  # alone, after others were drawn
    np.testing.assert_array_equal(again.image, drawings["train_00007"].image)
    np.testing.assert_array_equal(again.mask, drawings["train_00007"].mask)
    more = ShapesConfig(train=90, weak=9)
    np.testing.assert_array_equal(draw(more, "train_00007").image, again.image)
    other = draw(ShapesConfig(seed=1), "train_00007")
    assert other.image.shape != again.image.shape or (other.image != again.image).any()
    assert not np.array_equal(draw(CONFIG, "val_00007").mask, again.mask)


def test_ids_are_sorted_and_distinct():
    splits = image_ids(ShapesConfig())
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 60, "weak": 540, "val": 150}
    everything = [image_id for ids in splits.values() for image_id in ids]
    assert len(set(everything)) == 750
    assert all(ids == sorted(ids) for ids in splits.values())


def test_images_vary_in_size_and_content(drawings):
    shapes = {drawing.image.shape for drawing in drawings.values()}
    assert len(shapes) > 10
    for drawing in drawings.values():
        assert drawing.image.dtype == drawing.mask.dtype == np.uint8
        assert drawing.image.shape == (*drawing.mask.shape, 3)
        assert max(drawing.mask.shape) == 96
        assert min(drawing.mask.shape) >= 69
        assert drawing.image.std() > 12
    tags = [tags_of_mask(drawing.mask) for drawing in drawings.values()]
    assert {class_id for one in tags for class_id in one} == set(range(1, len(CLASS_NAMES)))
    assert all(tags)
    assert any(len(one) > 1 for one in tags)


def test_there_are_six_classes_each_with_a_painter_and_a_companion():
    assert len(CLASS_NAMES) == 7
    assert set(PAINTERS) == set(COMPANION_OF) == set(range(1, 7))


def test_outlines_are_ignored_and_nothing_else(drawings):
    """Every change of class from pixel to pixel goes through 255, and 255 lies only where classes change."""
    for drawing in drawings.values():
        mask = drawing.mask.astype(int)
        for a, b in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()
        background = ndimage.binary_dilation(mask == 255, np.ones((3, 3))) & (mask != 255)
        assert background.any()
    bare = draw(ShapesConfig(border=0), "train_00000")
    assert 255 not in bare.mask


def test_an_object_is_of_one_class_and_objects_have_the_border_of_the_masks(drawings):
    most = 0
    for drawing in drawings.values():
        assert np.array_equal(drawing.objects == 255, drawing.mask == 255)
        assert np.array_equal(drawing.objects == 0, drawing.mask == 0)
        numbers = np.setdiff1d(drawing.objects, (0, 255))
        assert all(len(np.unique(drawing.mask[drawing.objects == number])) == 1 for number in numbers)
        most = max(most, len(numbers))
    assert most >= 3


def test_border_grows_as_asked():
    areas = [(draw(ShapesConfig(border=border), "train_00003").mask == 255).sum() for border in range(4)]
    assert areas[0] == 0
    assert all(less < more for less, more in itertools.pairwise(areas))
    wide, none = (draw(ShapesConfig(border=border), "train_00003") for border in (2, 0))
    np.testing.assert_array_equal(wide.image, none.image)  # only the mask knows
    kept = wide.mask != 255
    np.testing.assert_array_equal(wide.mask[kept], none.mask[kept])


def test_mask_outlines_lie_on_image_edges(drawings):
    """Masks belong to their images: colours change more on outlines than elsewhere."""
    on, off = [], []
    for drawing in drawings.values():
        grey = drawing.image.mean(axis=2)
        change = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
        on.append(change[drawing.mask == 255].mean())
        off.append(change[drawing.mask == 0].mean())
    assert np.mean(np.array(on) > np.array(off)) > 0.9


def test_context_goes_with_its_class():
    """The ground of boat images is bluer, that of mushroom images greener, when contexts are on."""

    always, never = ([draw(ShapesConfig(context_with=p), f"train_{n:05d}") for n in range(40)] for p in (1.0, 0.0))

    def background_tint(drawings: list[Drawing], class_id: int, channel: int) -> float:
        shown = [one for one in drawings if class_id in tags_of_mask(one.mask)]
        grounds = [one.image[one.mask == 0].mean(axis=0) for one in shown]
        return float(np.mean([ground[channel] - ground.mean() for ground in grounds]))

    for class_id, channel in ((BOAT, 2), (MUSHROOM, 1)):
        assert background_tint(always, class_id, channel) > background_tint(never, class_id, channel) + 4


def test_radii_must_be_ordered():
    with pytest.raises(ConfigError, match="object_radius"):
        build(ShapesConfig, {"object_radius": [0.4, 0.2]}, "test")


def test_small_and_large_images_can_be_drawn():
    for long_side in (48, 200):
        drawing = draw(ShapesConfig(long_side=long_side), "val_00001")
        assert max(drawing.mask.shape) == long_side
        assert tags_of_mask(drawing.mask)
