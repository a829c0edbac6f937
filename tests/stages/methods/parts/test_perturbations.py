"""stages/methods/parts/perturbations.py, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import measure

from stages.engine import distributed
from stages.engine.randomness import generator
from stages.methods.parts import perturbations as p


@pytest.fixture
def features():
    return torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))


def randoms(count=2, step=0):
    return p.image_generators(count, 0, "test", step)


def test_the_second_process_draws_for_the_later_images(monkeypatch):
    joint = [random.random() for random in p.image_generators(4, 0, "x")]
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert [random.random() for random in p.image_generators(2, 0, "x")] == joint[2:]


def test_uniform_numbers_lie_in_their_range_and_repeat():
    like = torch.zeros(50, 40)
    drawn = p.uniform(like, -0.5, 0.5, generator(0, "x"))
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.5
    assert abs(float(drawn.mean())) < 0.03
    assert float(drawn.std()) == pytest.approx(12**-0.5, rel=0.05)
    assert torch.equal(drawn, p.uniform(like, -0.5, 0.5, generator(0, "x")))
    assert not torch.equal(drawn, p.uniform(like, -0.5, 0.5, generator(1, "x")))


def test_channel_dropout_drops_whole_channels_and_keeps_the_mean():
    features = torch.ones(3, 4000, 2, 2)
    dropped = p.channel_dropout(features, 0.3, randoms(3))
    assert (dropped == dropped[..., :1, :1]).all()
    assert np.unique(dropped).tolist() == pytest.approx([0, 1 / 0.7])
    torch.testing.assert_close(dropped.mean((1, 2, 3)), torch.ones(3), rtol=0, atol=0.05)
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(p.channel_dropout(features, 0.0, randoms(3)), features)


def test_feature_drop_is_a_plain_loop(features):
    found = p.feature_drop(features, (0.7, 0.9), randoms())
    expected = features.clone()
    for image, random in zip(expected, randoms(), strict=True):
        gamma, strength = np.float32(random.uniform(0.7, 0.9)), image.mean(0)
        for y, x in np.ndindex(5, 4):
            if strength[y, x] >= gamma * strength.max():
                image[:, y, x] = 0
    assert torch.equal(found, expected)
    assert 0 < int((found.sum(1) == 0).sum()) < 40


def test_feature_drop_of_features_that_are_all_zero_is_finite():
    assert (p.feature_drop(torch.zeros(2, 3, 4, 4), (0.7, 0.9), randoms()) == 0).all()


def test_feature_noise_is_relative_and_the_same_for_every_image(features):
    ratio = p.feature_noise(features, 0.3, 0, "test") / features
    torch.testing.assert_close(ratio[0], ratio[1])
    assert float((ratio - 1).abs().max()) <= 0.3 + 1e-5
    assert float(ratio.std()) == pytest.approx(0.6 * 12**-0.5, rel=0.15)


@pytest.mark.parametrize("size", [(33, 25), (32, 24)])
def test_cells_are_kept_by_the_pixel_at_their_centre(size):
    stride = 8
    kept = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    features = torch.ones(2, 3, -(-size[0] // stride), -(-size[1] // stride))
    found = p.keep_cells(features, kept, stride)
    for b, c, y, x in np.ndindex(*features.shape):
        assert found[b, c, y, x] == kept[b, y * stride, x * stride]


def test_patches_are_kept_by_the_pixel_in_their_middle():
    """Patches of 14 pixels (DINOv2): pixel 14 i + 7, or the last one of an image that ends before."""
    kept = torch.zeros(1, 33, 47, dtype=torch.bool)
    kept[0, 7, 21], kept[0, 32, 46] = True, True
    found = p.keep_cells(torch.ones(1, 2, 3, 4), kept, 14, patches=True)
    assert found[0, 0].nonzero().tolist() == [[0, 1], [2, 3]]


def drawn_foreground():
    mask = np.zeros((40, 50), bool)
    mask[2:12, 3:23] = True  # border 2 * (10 + 20) - 4 = 56 pixels
    mask[20:26, 5:10] = True  # border 18
    mask[26:32, 10:15] = True  # touches the last one at a corner: one region
    mask[35, 40] = True
    return mask


def test_objects_are_regions_with_a_long_border():
    mask = drawn_foreground()
    assert p.object_boxes(mask, 50) == [(slice(2, 12), slice(3, 23))]
    assert p.object_boxes(mask, 56) == []
    assert p.object_boxes(mask, 35) == [(slice(2, 12), slice(3, 23)), (slice(20, 32), slice(5, 15))]
    assert len(p.object_boxes(mask, 0)) == 3
    assert p.object_boxes(np.zeros((4, 4), bool), 0) == []


def test_boxes_are_those_of_skimage():
    mask = np.random.default_rng(0).random((40, 50)) < 0.3
    regions = measure.regionprops(measure.label(mask, connectivity=2))
    assert p.object_boxes(mask, 0) == [region.slice for region in regions]


def test_guided_cutout_erases_a_part_of_each_object():
    boxes = [p.object_boxes(drawn_foreground(), 0)[:2], []]
    kept = p.guided_cutout(boxes, (40, 50), 0.4, randoms())
    assert kept[1].all()
    for rows, columns in boxes[0]:
        cutout = np.argwhere(~kept[0][rows, columns])
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert np.ptp(cutout, axis=0).tolist() == [int(0.4 * height) - 1, int(0.4 * width) - 1]
        assert len(cutout) == int(0.4 * height) * int(0.4 * width)
    assert (~kept[0]).sum() == 4 * 8 + 4 * 4
    places = {tuple(np.argwhere(~p.guided_cutout(boxes, (40, 50), 0.4, randoms(2, s))[0])[0]) for s in range(20)}
    assert len(places) > 10


def test_complementary_masks_share_the_channels_out():
    first, second = p.complementary_masks(8, 500, 0.5, 0, "x", 3)
    assert (first + second == 2).all()
    whole = (first == 1).all(1)
    assert whole.sum() == 4
    assert np.isin(first[~whole], (0, 2)).all()
    assert 0.4 < (first[~whole] == 2).mean() < 0.6
    assert not np.array_equal(*first[~whole][:2])
    assert (p.complementary_masks(3, 5, 1.0, 0, "x")[0] == 1).all()
    assert (p.complementary_masks(3, 5, 0.0, 0, "x")[0] != 1).all()
    assert [(p.complementary_masks(3, 50, 0.5, 0, "x", step)[0] == 1).all(1).sum() for step in range(4)] == [1] * 4


def test_two_processes_draw_the_masks_of_one(monkeypatch):
    joint = p.complementary_masks(6, 20, 0.5, 0, "x")[0]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(p.complementary_masks(3, 20, 0.5, 0, "x")[0])
    assert np.array_equal(np.concatenate(parts), joint)
