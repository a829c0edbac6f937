"""losses.clamped_cross_entropy, by hand and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.engine.config import ClampSettings
from stages.engine.losses import IGNORE, clamped_cross_entropy, cross_entropy


def logits_with_losses(losses):
    """Two classes whose class 0 has these losses: -log softmax(x, 0)[0] = log(1 + e^-x)."""
    x = -torch.log(torch.expm1(torch.tensor(losses, dtype=torch.float64)))
    return torch.stack([x, torch.zeros_like(x)], 1)


def test_a_pixel_far_above_the_others_counts_as_their_mean_and_teaches_nothing():
    logits = logits_with_losses([[[0.1, 0.1, 0.1, 0.9]]]).requires_grad_()
    label = torch.zeros(1, 1, 4, dtype=torch.int64)
    loss = clamped_cross_entropy(logits, label, ClampSettings(patches=1), torch.tensor([True]))
    assert loss.item() == pytest.approx((0.3 + 0.3) / 4, rel=1e-5)  # the mean loss is .3
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, :, 0, 3].tolist() == [0, 0]
    (plain,) = torch.autograd.grad(cross_entropy(logits, label), logits)
    torch.testing.assert_close(gradient[..., :3], plain[..., :3])


def test_a_patch_that_is_hard_as_a_whole_has_a_higher_limit():
    """Patches of two pixels: .1 .1 and .4 .6; the mean of all is .3, that of the second patch .5."""
    logits = logits_with_losses([[[0.1, 0.1, 0.4, 0.6]]])
    label = torch.zeros(1, 1, 4, dtype=torch.int64)
    loss = clamped_cross_entropy(logits, label, ClampSettings(patches=2), torch.tensor([True]))
    assert loss.item() == pytest.approx((0.1 + 0.1 + 0.4 + 0.5) / 4, rel=1e-5)


def test_exact_masks_keep_their_losses_and_do_not_set_the_limit():
    logits = logits_with_losses([[[0.1, 0.1, 0.1, 0.9]], [[2.0, 2.0, 2.0, 4.0]]])
    label = torch.zeros(2, 1, 4, dtype=torch.int64)
    loss = clamped_cross_entropy(logits, label, ClampSettings(patches=1), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((0.3 + 0.3 + 10) / 8, rel=1e-5)


def test_a_high_mean_loss_leaves_everything_as_it_is():
    logits = logits_with_losses([[[1.0, 1.0, 1.0, 3.0]]])  # mean 1.5
    label = torch.zeros(1, 1, 4, dtype=torch.int64)
    for start, expected in ((1.2, 6 / 4), (1.6, 4.5 / 4)):
        loss = clamped_cross_entropy(logits, label, ClampSettings(start=start, patches=1), torch.tensor([True]))
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_gives_the_same_limits():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 97, 97, generator=random)
    label = torch.randint(0, 6, (4, 97, 97), generator=random)
    arguments = logits, label, ClampSettings(start=9), torch.tensor([True, True, True, False])
    expected = clamped_cross_entropy(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert clamped_cross_entropy(*arguments).item() == expected.item()


def test_no_known_pixel_is_no_loss():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = clamped_cross_entropy(logits, torch.full((1, 4, 4), IGNORE), ClampSettings(), torch.tensor([True]))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (3, 2)])
@pytest.mark.parametrize("patches", [1, 3, 4])
def test_as_a_plain_loop(size, patches):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, *size, generator=random, dtype=torch.float64)
    label = torch.randint(0, 4, (3, *size), generator=random)
    label[torch.rand(3, *size, generator=random) < 0.3] = IGNORE
    estimated = torch.tensor([True, False, True])
    losses = -logits.log_softmax(1)
    found: dict[tuple[int, int], list[float]] = {}
    everything = []
    pixels = [(n, y, x) for n in range(3) for y in range(size[0]) for x in range(size[1]) if label[n, y, x] != IGNORE]
    for n, y, x in pixels:
        if estimated[n]:
            value = losses[n, label[n, y, x], y, x].item()
            found.setdefault((y * patches // size[0], x * patches // size[1]), []).append(value)
            everything.append(value)
    total = 0.0
    for n, y, x in pixels:
        value = losses[n, label[n, y, x], y, x].item()
        if estimated[n]:
            place = (y * patches // size[0], x * patches // size[1])
            value = min(value, max(float(np.mean(found[place])), float(np.mean(everything))))
        total += value
    ours = clamped_cross_entropy(logits, label, ClampSettings(start=1e9, patches=patches), estimated)
    assert ours.item() == pytest.approx(total / len(pixels), rel=1e-5)
