"""stages/methods/parts/flaw_maps.py: against scipy's filters and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from stages.methods.parts.flaw_maps import blur, flaw_target, less_flawed, odd, stretch, tidy


def scipy_blur(maps, kernel):
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    return np.stack([ndimage.gaussian_filter(m, sigma, mode="mirror", radius=kernel // 2) for m in maps])


def drawn(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", [1, 3, 9, 21])
def test_the_blur_is_scipys(kernel):
    maps = drawn(2, 33, 29)
    np.testing.assert_allclose(blur(maps, kernel).numpy(), scipy_blur(maps.numpy(), kernel), atol=1e-5)


def test_kernels_are_odd():
    assert [odd(number) for number in (0, 1, 2, 20, 21, 32)] == [1, 1, 3, 21, 21, 33]


@pytest.mark.parametrize("dilations", [0, 1, 2])
def test_the_target_is_that_of_scipys_filters(dilations):
    label = torch.randint(0, 3, (2, 40, 33), generator=torch.Generator().manual_seed(0))
    label[0, :4], label[1, :, 30:] = 255, 255
    found = torch.randn(2, 3, 40, 33, generator=torch.Generator().manual_seed(2)).softmax(1)
    expected = np.zeros((2, 40, 33))
    for b, y, x in np.ndindex(2, 40, 33):
        if label[b, y, x] != 255:
            expected[b, y, x] = 0.7 * sum(abs(float(label[b, y, x] == c) - found[b, c, y, x].item()) for c in range(3))
    expected = scipy_blur(expected, 5)  # 40 / 8
    for _ in range(dilations):
        widened = np.stack([ndimage.maximum_filter(m, 3, mode="constant", cval=-1) for m in expected])
        expected = scipy_blur(widened, 11)  # 40 / 4, made odd
    low, high = expected.min((1, 2), keepdims=True), expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(
        flaw_target(found, label, 0.7, dilations).numpy(), (expected - low) / (high - low), atol=1e-4
    )


def test_unknown_pixels_show_no_flaw():
    """Trap: zero planes of a pixel 255 differ from any prediction; the authors' code counts them as half a flaw."""
    label = torch.zeros(1, 32, 32, dtype=torch.int64)
    label[:, 8:24, 8:24] = 255
    right = torch.zeros(1, 3, 32, 32)
    right[:, 0] = 1
    assert flaw_target(right, label, 0.5, 1).abs().max() == 0


def test_a_tidy_map_by_scipy_and_what_is_not_visible():
    raw = drawn(3, 64, 40) - 0.5
    raw[1] *= 0.1  # nowhere above .1 once blurred
    valid = torch.ones(3, 64, 40, dtype=torch.bool)
    valid[2, 50:] = False
    before = raw.clone()
    found = tidy(raw, valid, 0.1)
    assert torch.equal(raw, before)  # trap: the published code changes the map that its own loss is made of
    smooth = scipy_blur(np.where(valid, np.maximum(raw.numpy(), 0), 0), 5)
    for index in (0, 2):
        expected = (smooth[index] - smooth[index].min()) / (smooth[index].max() - smooth[index].min())
        np.testing.assert_allclose(found[index].numpy(), expected, atol=1e-4)
    assert found[1].abs().max() == 0
    assert tidy(raw, valid, 0.0)[1].max() == pytest.approx(1)
    assert found[2, 53:].abs().max() == 0


def test_a_constant_map_stays_0():
    """Rounding makes it one of tiny differences; stretched, they would be flaws."""
    constant = 0.137 + 5e-8 * torch.randint(0, 3, (2, 33, 33), generator=torch.Generator().manual_seed(0))
    assert tidy(constant, torch.ones(2, 33, 33, dtype=torch.bool), 0.0).max() < 0.01
    assert stretch(torch.zeros(1, 3, 3)).abs().max() == 0


def test_the_less_flawed_prediction_by_hand():
    """Own, other: the own where it is no worse; above .6 all are alike, and then the own stays."""
    own_flaws = torch.tensor([[[0.1, 0.5, 0.3, 0.9, 0.7, 0.6, 0.61]]])
    other_flaws = torch.tensor([[[0.2, 0.4, 0.3, 0.7, 0.9, 0.6, 0.6]]])
    own, other = torch.zeros(1, 2, 1, 7), torch.ones(1, 2, 1, 7)
    found = less_flawed(own, other, own_flaws, other_flaws, 0.6)
    assert found[0].tolist() == [[[0, 1, 0, 0, 0, 0, 1]]] * 2
    assert own_flaws[0, 0, 3] == pytest.approx(0.9)
