"""stages/methods/parts/cutmix.py: boxes of the published shares; whatever belongs to an image is cut with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages.engine import distributed
from stages.engine.batch import Batch
from stages.engine.config import CutMixSettings
from stages.methods.parts.cutmix import box_mask, draw_boxes, mix, mix_batches, single_box_mask


def batch_of(value: float, valid: torch.Tensor) -> Batch:
    size = valid.shape[-2:]
    return Batch(
        ids=["a"],
        image=torch.full((1, 3, *size), value),
        pixels=torch.full((1, 3, *size), int(value), dtype=torch.uint8),
        label=torch.full((1, *size), int(value)),
        valid=valid,
        tags=torch.zeros(1, 3),
    )


def test_valid_pixels_are_cut_with_the_same_box():
    """Padding in different corners of two images of 10 x 10, worked by hand.

    First: columns 6-9 are padding, 60 valid. Second: rows 0-4 are padding. Box: rows 2-7, columns 3-8 (36 pixels).
    Outside the box the first has 60 - 6 * 3 = 42 valid pixels; inside, the second has rows 5-7, 3 * 6 = 18. 42 + 18.
    """
    first, second = torch.ones(1, 10, 10, dtype=torch.bool), torch.ones(1, 10, 10, dtype=torch.bool)
    first[:, :, 6:] = False
    second[:, :5] = False
    boxes = torch.zeros(1, 10, 10, dtype=torch.bool)
    boxes[:, 2:8, 3:9] = True
    mixed = mix_batches(batch_of(1, first), batch_of(2, second), boxes)
    assert int(mixed.valid.sum()) == 60
    assert int((mixed.valid & boxes).sum()) == 18
    for maps in (mixed.image[:, 0], mixed.pixels[:, 0], mixed.label):
        assert (maps == torch.where(boxes, 2, 1)).all()


def test_mixing_with_no_box_and_with_one_that_is_everything():
    random = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 5, 8, 8, generator=random) for _ in range(2))
    none = torch.zeros(2, 8, 8, dtype=torch.bool)
    assert torch.equal(mix(first, second, none), first)
    assert torch.equal(mix(first, second, ~none), second)
    assert torch.equal(mix(first[:, 0], second[:, 0], ~none), second[:, 0])


def test_one_box_covers_the_drawn_share():
    random = np.random.default_rng(0)
    shares = [box_mask(200, 200, 1, (0.25, 0.5), random).mean() for _ in range(1000)]
    assert 0.24 < min(shares) < 0.28
    assert 0.47 < max(shares) < 0.51
    assert np.mean(shares) == pytest.approx(0.375, abs=0.01)


def test_a_share_of_one_is_the_whole_image():
    assert box_mask(30, 40, 1, (1.0, 1.0), np.random.default_rng(0)).all()


def test_boxes_are_rectangles_and_cancel_where_they_overlap():
    """One box: its rows and columns multiply to its area. Three: never more than the sum of the shares."""
    for seed in range(50):
        mask = box_mask(60, 80, 1, (0.25, 0.5), np.random.default_rng(seed))
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()
        assert box_mask(60, 80, 3, (0.25, 0.5), np.random.default_rng(seed)).mean() <= 0.52


def test_boxes_favour_no_side():
    random = np.random.default_rng(1)
    covered = np.mean([box_mask(40, 40, 3, (0.25, 0.5), random) for _ in range(800)], axis=0)
    quarters = [covered[:20, :20], covered[:20, 20:], covered[20:, :20], covered[20:, 20:]]
    assert np.ptp([quarter.mean() for quarter in quarters]) < 0.03
    assert (covered[1:-1, 1:-1] > 0).all()
    assert covered[20, 20] > covered[0, 0]


@pytest.mark.parametrize("share", [(0.0, 0.5), (0.5, 0.25), (0.5, 1.5), (-0.5, 0.5)])
def test_shares_that_no_box_has_are_refused(share):
    with pytest.raises(ValidationError, match="two shares above 0"):
        CutMixSettings(share=share)


def test_single_boxes_have_the_published_shares():
    """One box of 2 to 40 % of the area, .3 to 3.3 times as high as wide (B6)."""
    random = np.random.default_rng(0)
    boxes = [single_box_mask(90, 120, random) for _ in range(1000)]
    shares = np.array([mask.mean() for mask in boxes])
    heights, widths = (np.array([mask.any(axis).sum() for mask in boxes]) for axis in (1, 0))
    assert np.array_equal(heights * widths, [mask.sum() for mask in boxes])
    assert 0.017 < shares.min() < 0.03
    assert 0.37 < shares.max() <= 0.4
    ratios = heights / widths
    assert 0.25 < ratios.min() < 0.35
    assert 3 < ratios.max() < 3.8
    assert np.median(ratios) > 1.2  # uniform, not log-uniform: mostly upright


def test_single_boxes_reach_all_parts_of_an_image():
    random = np.random.default_rng(1)
    covered = np.mean([single_box_mask(40, 60, random) for _ in range(2000)], axis=0)
    assert (covered > 0).all()
    assert covered[20, 30] > covered[0, 0]


@pytest.mark.parametrize(
    ("style", "chance", "expected"),
    [
        ("french", None, 1.0),
        ("unimatch", None, 0.5),
        ("unimatch", 0.0, 0.0),
        ("unimatch", 1.0, 1.0),
        ("french", 0.2, 0.2),
    ],
)
def test_so_many_images_have_boxes(style, chance, expected):
    """UniMatch: half of them (B6)."""
    whole = batch_of(1, torch.ones(1, 24, 31, dtype=torch.bool)).replace(image=torch.zeros(1000, 3, 24, 31))
    boxes = draw_boxes(CutMixSettings(style=style, chance=chance), whole.replace(ids=["a"] * 1000), 0, 0)
    assert boxes.flatten(1).any(1).float().mean() == pytest.approx(expected, abs=0.04 if 0 < expected < 1 else 0)


@pytest.mark.parametrize("style", ["french", "unimatch"])
def test_boxes_belong_to_a_place_in_the_joint_batch(style, monkeypatch):
    """Two processes draw what one does; steps, views and seeds draw their own."""
    settings = CutMixSettings(style=style)
    valid = torch.ones(8, 24, 31, dtype=torch.bool)
    whole = batch_of(1, valid[:1]).replace(ids=list("abcdefgh"), image=torch.zeros(8, 3, 24, 31))
    joint = draw_boxes(settings, whole, 0, 5)
    assert joint.shape == (8, 24, 31)
    others = [draw_boxes(settings, whole, *which) for which in ((1, 5, 0), (0, 6, 0), (0, 5, 1))]
    assert not any(torch.equal(joint, other) for other in others)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        half = whole.replace(ids=whole.ids[:4], image=whole.image[:4])
        assert torch.equal(draw_boxes(settings, half, 0, 5), joint[4 * rank : 4 * rank + 4])
