"""stages/methods/parts/views.py against torchvision, colorsys, SciPy and Pillow."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from stages.engine import distributed
from stages.engine.batch import Batch
from stages.engine.config import StrongAugmentationSettings
from stages.engine.randomness import generator
from stages.methods.parts.views import Colours, draw_colours, draw_cutout, strong_colours, strong_view, strong_views
from stages.networks import normalise

NOTHING = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "cutout": 0.0}
PLAIN = Colours(False, False, False, (1.0, 1.0, 1.0, 0.0), (0, 1, 2, 3), 1.0)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def samples(count: int = 1, height: int = 30, width: int = 42) -> torch.Tensor:
    """Smooth coloured blobs with some noise, uint8 (count, 3, height, width), channels_last as the engine has them."""
    random = np.random.default_rng(count)
    smooth = ndimage.gaussian_filter(random.normal(size=(count, 3, height, width)), (0, 0, 3, 3))
    values = 128 + 90 * smooth / smooth.std() + random.normal(0, 8, smooth.shape)
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8)).contiguous(memory_format=torch.channels_last)


def batch(count: int = 3) -> Batch:
    pixels, valid = samples(count), torch.ones(count, 30, 42, dtype=torch.bool)
    valid[:, :, 35:] = False
    pixels = torch.where(valid[:, None], pixels, torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None])
    label = torch.where(valid, 1, 255)
    return Batch(list("abcdef")[:count], normalise(pixels), pixels, label, valid, torch.zeros(count, 3))


def jittered(operation: int, amount: float) -> Colours:
    amounts = [1.0, 1.0, 1.0, 0.0]
    amounts[operation] = amount
    return PLAIN._replace(jitter=True, amounts=tuple(amounts))


def difference(found: torch.Tensor, expected: torch.Tensor) -> int:
    return int((found.int() - expected.int()).abs().max())


@pytest.mark.parametrize("amount", [0.5, 0.8, 1.3, 1.5])
@pytest.mark.parametrize(
    ("operation", "theirs"),
    [(BRIGHTNESS, tv.adjust_brightness), (CONTRAST, tv.adjust_contrast), (SATURATION, tv.adjust_saturation)],
)
def test_brightness_contrast_and_saturation_are_torchvisions(operation, theirs, amount):
    """Which cuts fractions off where we round."""
    image = samples()
    assert difference(strong_colours(image, [jittered(operation, amount)]), theirs(image, amount)) <= 1


@pytest.mark.parametrize("amount", [-0.5, -0.25, -0.03, 0.1, 0.25])
def test_hue_is_that_of_colorsys(amount):
    image = samples()
    found = strong_colours(image, [jittered(HUE, amount)])
    assert difference(found, tv.adjust_hue(image, amount)) <= 1
    for y, x in [(0, 0), (7, 30), (29, 41), (13, 5)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[0, :, y, x] / 255).tolist())
        expected = 255 * np.array(colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value))
        np.testing.assert_allclose(found[0, :, y, x], expected, atol=0.51)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(-0.5, 0.5))
@settings(max_examples=100)
def test_hue_of_any_colour(colour, amount):
    """Greys, primary colours and ties among the channels, too."""
    image = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    expected = 255 * np.array(colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value))
    np.testing.assert_allclose(
        strong_colours(image, [jittered(HUE, amount)]).flatten(), expected, atol=0.51 + 255 * 2e-5
    )


def test_grey_is_pillows():
    image = samples()
    grey = np.asarray(Image.fromarray(image[0].permute(1, 2, 0).numpy()).convert("L"))
    found = strong_colours(image, [PLAIN._replace(grey=True)])
    for channel in found[0]:
        assert np.abs(channel.numpy().astype(int) - grey).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.7, 2.0])
def test_blur_is_scipys_and_torchvisions_gaussian(sigma):
    image = samples()
    found = strong_colours(image, [PLAIN._replace(blur=True, sigma=sigma)])
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(image[0].double().numpy(), (0, sigma, sigma), mode="mirror", radius=radius)
    np.testing.assert_allclose(found[0], expected, atol=0.51)
    assert difference(found, tv.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)) <= 1


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_near_pillows(sigma):
    """Which the published codes use: three box filters in place of a Gaussian."""
    image = samples()
    theirs = Image.fromarray(image[0].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
    found = strong_colours(image, [PLAIN._replace(blur=True, sigma=sigma)])[0].permute(1, 2, 0).numpy().astype(int)
    inside = np.abs(found - np.asarray(theirs))[8:-8, 8:-8]
    assert inside.mean() < 1
    assert inside.max() <= 4


def test_a_blur_wider_than_the_image_is_cut_off():
    """Mirroring has one row less than the image."""
    image = samples(height=16, width=20)
    found = strong_colours(image, [PLAIN._replace(blur=True, sigma=9.0)])
    expected = ndimage.gaussian_filter(image[0].double().numpy(), (0, 9, 9), mode="mirror", radius=15)
    np.testing.assert_allclose(found[0], expected, atol=0.51)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_jitter_has_an_order(order):
    """Against torchvision's functions on floats, one after the other."""
    image, amounts = samples(), (1.4, 0.6, 1.5, 0.2)
    theirs = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    expected = image / 255
    for operation in order:
        expected = theirs[operation](expected, amounts[operation])
    found = strong_colours(image, [PLAIN._replace(jitter=True, amounts=amounts, order=order)])
    np.testing.assert_allclose(found, 255 * expected, atol=0.6)


def test_an_image_does_not_depend_on_those_beside_it():
    drawn = [draw_colours(StrongAugmentationSettings(), generator(0, place)) for place in range(12)]
    assert len({draw.blur for draw in drawn}) == len({draw.jitter for draw in drawn}) == 2
    together = strong_colours(samples(12), drawn)
    for image, draw, found in zip(samples(12), drawn, together, strict=True):
        assert torch.equal(strong_colours(image[None], [draw])[0], found)


def test_probability_0_changes_nothing():
    made = batch()
    view = strong_view(made, StrongAugmentationSettings(**NOTHING), 0, 0)
    assert torch.equal(view.pixels, made.pixels)
    assert torch.equal(view.label, made.label)
    assert torch.equal(view.valid, made.valid)
    torch.testing.assert_close(view.image, made.image * made.valid[:, None])


@pytest.mark.parametrize("always", ["jitter", "grey", "blur", "cutout"])
def test_probability_1_changes_every_image(always):
    made = batch(6)
    view = strong_view(made, StrongAugmentationSettings(**NOTHING | {always: 1.0}), 0, 0)
    for before, after in zip(made.pixels, view.pixels, strict=True):
        assert not torch.equal(before, after)
        assert (after[0] == after[1])[:, :35].all() == (always == "grey")


def test_chances_are_the_given_ones():
    drawn = [draw_colours(StrongAugmentationSettings(), generator(0, "chance", n)) for n in range(3000)]
    for name, expected in (("jitter", 0.8), ("grey", 0.2), ("blur", 0.5)):
        assert np.mean([getattr(draw, name) for draw in drawn]) == pytest.approx(expected, abs=0.03)
    amounts = np.array([draw.amounts for draw in drawn])
    np.testing.assert_allclose(amounts.min(0), [0.5, 0.5, 0.5, -0.25], atol=0.01)
    np.testing.assert_allclose(amounts.max(0), [1.5, 1.5, 1.5, 0.25], atol=0.01)
    assert len({draw.order for draw in drawn}) == 24
    assert min(draw.sigma for draw in drawn) < 0.15
    assert max(draw.sigma for draw in drawn) > 1.95


def test_padding_stays_what_it_is():
    made = batch()
    view = strong_view(made, StrongAugmentationSettings(jitter=1.0, blur=1.0, cutout=1.0, cutout_area=(0.5, 0.5)), 0, 0)
    padded = ~made.valid[:, None].expand_as(made.pixels)
    assert torch.equal(view.pixels[padded], made.pixels[padded])
    assert (view.image[padded] == 0).all()
    assert not view.valid[~made.valid].any()


@pytest.mark.parametrize("fill", ["noise", "mean"])
def test_cutouts_are_unlabelled_and_not_valid(fill):
    """And 2 to 40 % of the image; what lies outside is as it was."""
    made = batch(6)
    view = strong_view(made, StrongAugmentationSettings(**NOTHING | {"cutout": 1.0, "cutout_fill": fill}), 0, 0)
    for number in range(6):
        cutout = made.valid[number] & ~view.valid[number]
        assert (view.label[number][cutout] == 255).all()
        assert torch.equal(view.label[number][~cutout], made.label[number][~cutout])
        assert torch.equal(view.pixels[number][:, ~cutout], made.pixels[number][:, ~cutout])
        assert cutout.any(1).sum() * cutout.any(0).sum() == cutout.sum()  # a rectangle
        assert (view.pixels[number][:, cutout].float().std() < 10) == (fill == "mean" and bool(cutout.any()))
    assert made.valid[:, :, :35].all()
    assert (made.label[:, :, :35] == 1).all()  # the batch itself is left alone


def test_the_share_of_cutouts():
    areas, cut = [], 0
    for number in range(400):
        cutout = draw_cutout(StrongAugmentationSettings(cutout=0.5), (60, 80), generator(0, number))
        if cutout is not None:
            cut += 1
            areas.append((cutout[0].stop - cutout[0].start) * (cutout[1].stop - cutout[1].start) / 4800)
            assert 0 <= cutout[0].start < cutout[0].stop <= 60
            assert 0 <= cutout[1].start < cutout[1].stop <= 80
    assert 160 < cut < 240
    assert 0.01 < min(areas) < 0.06
    assert 0.3 < max(areas) <= 0.4


def share_of_cutouts_by_exact_sums(height, width, area, narrow):
    """Mean share of the image's area over cutouts that fit, by sums over a fine grid of areas and shapes.

    A cutout of r rows and c columns fits at (height - r + 1) (width - c + 1) of the height x width drawn places.
    """
    areas = np.linspace(*area, 801)[:, None] * height * width
    ratios = np.linspace(narrow, 1 / narrow, 801)[None]
    columns, rows = np.floor(np.sqrt(areas / ratios)), np.floor(np.sqrt(areas * ratios))
    chance = np.clip(height - rows + 1, 0, None) * np.clip(width - columns + 1, 0, None)
    return (chance * rows * columns).sum() / chance.sum() / (height * width)


def test_the_area_of_a_cutout_is_drawn_again_for_each_rejected_try():
    """Drawn once before the tries, large cutouts were as frequent as small ones: .21 of the image instead of .14."""
    settings, random = StrongAugmentationSettings(cutout=1.0), generator(0, "area")
    cutouts = [draw_cutout(settings, (321, 321), random) for _ in range(4000)]
    shares = [(rows.stop - rows.start) * (columns.stop - columns.start) / 321**2 for rows, columns in cutouts]
    expected = share_of_cutouts_by_exact_sums(321, 321, (0.02, 0.4), 0.3)
    assert expected == pytest.approx(0.142, abs=0.002)
    assert np.mean(shares) == pytest.approx(expected, abs=4 * np.std(shares) / math.sqrt(len(shares)))


def test_two_processes_draw_what_one_does(monkeypatch):
    made, chosen = batch(4), StrongAugmentationSettings(cutout=0.5)
    joint = strong_view(made, chosen, 7, 3, view=1)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        share = slice(2 * rank, 2 * rank + 2)
        names = ("image", "pixels", "label", "valid")
        part = strong_view(
            made.replace(ids=made.ids[share], **{n: getattr(made, n)[share] for n in names}), chosen, 7, 3, 1
        )
        for name in names:
            assert torch.equal(getattr(part, name), getattr(joint, name)[share])


def test_seeds_steps_and_views_differ():
    made, chosen = batch(), StrongAugmentationSettings(jitter=1.0)
    views = [
        strong_view(made, chosen, *which).pixels for which in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))
    ]
    assert torch.equal(views[0], views[4])
    for number, other in enumerate(views[1:4], start=1):
        assert not torch.equal(views[0], other), number


def test_views_of_several_batches_are_those_of_each_alone():
    """One pass over all images, of batches of different sizes."""
    chosen = StrongAugmentationSettings(cutout=0.5)
    parts = [(batch(3), 0), (batch(4), 1), (batch(3), 2)]
    found = strong_views(parts, chosen, 7, 3)
    assert any(not torch.equal(made.valid, part.valid) for made, (part, _) in zip(found, parts, strict=True))
    for made, (part, view) in zip(found, parts, strict=True):
        alone = strong_view(part, chosen, 7, 3, view)
        assert made.ids == part.ids
        for name in ("image", "pixels", "label", "valid"):
            assert torch.equal(getattr(made, name), getattr(alone, name)), name
