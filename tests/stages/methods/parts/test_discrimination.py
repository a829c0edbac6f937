"""stages/methods/parts/discrimination.py: what a discriminator sees and how it is judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from stages.methods.parts.discrimination import frozen, one_hot, probabilities, real_or_fake


def test_one_hot_planes_are_zero_where_the_label_is_unknown():
    label = torch.tensor([[[0, 2, 255], [1, 1, 0]]])
    planes = one_hot(label, 3)
    for (y, x), value in np.ndenumerate(label[0].numpy()):
        assert planes[0, :, y, x].tolist() == [float(value == c) for c in range(3)]


def test_padding_is_no_difference_between_masks_and_predictions():
    """Zeros in the planes of both: no discriminator can tell them apart by it."""
    valid = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    found = probabilities(torch.randn(2, 3, 5, 6), valid)
    sums = found.sum(1)
    torch.testing.assert_close(sums, valid.float())


def test_the_cross_entropy_by_hand():
    """-log sigmoid(s) for "real", -log(1 - sigmoid(s)) for "fake", over the pixels that count."""
    scores, counted = (
        torch.tensor([0.5, -1.0, 3.0, 9.0]).view(1, 1, 2, 2),
        torch.tensor([[[True, True], [True, False]]]),
    )
    sigmoids = [1 / (1 + math.exp(-s)) for s in (0.5, -1.0, 3.0)]
    real, fake = -sum(map(math.log, sigmoids)) / 3, -sum(math.log(1 - s) for s in sigmoids) / 3
    assert real_or_fake(scores, True, counted).item() == pytest.approx(real, rel=1e-6)
    assert real_or_fake(scores, False, counted).item() == pytest.approx(fake, rel=1e-6)
    assert real_or_fake(scores.flatten()[:3], True).item() == pytest.approx(real, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_sure_discriminator_gives_a_finite_loss_in_every_precision(dtype):
    """Trap: BCE of sigmoids is infinite or clamped where they saturate, and autocast refuses it."""
    scores = torch.full((1, 1, 2, 2), -300.0, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = real_or_fake(scores, True, torch.ones(1, 2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(300, rel=1e-2)
    assert scores.grad.float().sum().item() == pytest.approx(-1, rel=1e-2)


def test_nothing_that_counts_gives_0():
    scores = torch.randn(2, 1, 3, 3, requires_grad=True)
    loss = real_or_fake(scores, True, torch.zeros(2, 3, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


def test_a_frozen_module_passes_gradients_and_takes_none():
    module, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.randn(3, 2, requires_grad=True)
    module[1].bias.requires_grad_(False)
    with frozen(module):
        passed = module(x).sum()
    taught = module(x.detach()).square().sum()
    (passed + taught).backward()
    expected = torch.autograd.grad(module(x.detach()).square().sum(), module[0].weight)[0]
    torch.testing.assert_close(module[0].weight.grad, expected)
    torch.testing.assert_close(x.grad, torch.autograd.grad(module(x).sum(), x)[0])
    assert [p.requires_grad for p in module.parameters()] == [True, True, True, False]  # as they were
