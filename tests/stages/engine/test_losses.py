"""stages/engine/losses.py and distributed.global_mean, against torch's own means."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stages.engine.distributed import global_mean
from stages.engine.losses import IGNORE, cross_entropy, multilabel_soft_margin


@pytest.fixture
def logits():
    return torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def label():
    return torch.randint(0, 5, (2, 7, 6), generator=torch.Generator().manual_seed(1))


def gradient(loss, of):
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


def test_cross_entropy_is_torchs_mean(logits, label):
    label[0, :3] = IGNORE
    ours, theirs = cross_entropy(logits, label), F.cross_entropy(logits, label, ignore_index=IGNORE)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


def test_cross_entropy_of_two_pixels_by_hand():
    """Logits (0, ln 3): probabilities 1/4 and 3/4. Labels 0 and 1, a third pixel ignored."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    label = torch.tensor([[[0, 1, IGNORE]]])
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-6)
    weight = torch.tensor([[[0.5, 2.0, 9.0]]])  # it does not enter the number of pixels
    expected = (0.5 * math.log(4) + 2 * math.log(4 / 3)) / 2
    assert cross_entropy(logits, label, weight).item() == pytest.approx(expected, rel=1e-6)


def test_without_any_label_the_loss_is_0_and_the_gradient_finite(logits, label):
    """torch's mean is NaN here."""
    loss = cross_entropy(logits, torch.full_like(label, IGNORE))
    assert loss.item() == 0
    assert (gradient(loss, logits) == 0).all()
    assert torch.isnan(F.cross_entropy(logits, torch.full_like(label, IGNORE), ignore_index=IGNORE))


def test_soft_margin_is_torchs():
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 6, generator=random, requires_grad=True)
    tags = (torch.rand(3, 6, generator=random) < 0.4).float()
    ours, theirs = multilabel_soft_margin(logits, tags), torch.nn.MultiLabelSoftMarginLoss()(logits, tags)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


def test_half_precision_logits_are_summed_in_single():
    label = torch.zeros(1, 300, 300, dtype=torch.long)
    logits = torch.zeros(1, 4, 300, 300, dtype=torch.bfloat16)
    loss = cross_entropy(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4), rel=1e-5)


def test_mean_over_nothing_is_zero():
    total = torch.zeros((), requires_grad=True)
    mean = global_mean(total * 3, 0)
    assert mean.item() == 0
    assert gradient(mean, total).item() == 0
    assert global_mean(torch.tensor(6.0), torch.tensor(4)).item() == 1.5
