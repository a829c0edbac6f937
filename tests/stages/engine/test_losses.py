"""stages/engine/losses.py and distributed.global_mean, against torch's own means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.distributed import global_mean
from stages.engine.losses import (
    IGNORE,
    confident_squared_difference,
    cross_entropy,
    hard_cross_entropy,
    multilabel_soft_margin,
    soft_cross_entropy,
    squared_difference,
)


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


def test_tags_that_are_not_known_are_left_out():
    logits, tags = torch.randn(4, 5), (torch.rand(4, 5) > 0.5).float()
    known = torch.tensor([True, False, True, False])
    expected = torch.nn.MultiLabelSoftMarginLoss()(logits[known], tags[known])
    torch.testing.assert_close(multilabel_soft_margin(logits, tags, known), expected)
    nobody = multilabel_soft_margin(logits.requires_grad_(), tags, torch.zeros(4, dtype=torch.bool))
    assert nobody.item() == 0
    assert (gradient(nobody, logits) == 0).all()


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


# --- squared differences of two maps ---


@pytest.fixture
def maps():
    random = torch.Generator().manual_seed(3)
    found, target = (torch.randn(2, 5, 7, 6, generator=random).mul(3).softmax(1) for _ in range(2))
    valid = torch.rand(2, 7, 6, generator=random) < 0.7
    return found.requires_grad_(), target.requires_grad_(), valid


def test_squared_difference_is_torchs_mse_over_valid_pixels(maps):
    found, target, valid = maps
    kept = [one.detach().movedim(1, -1)[valid] for one in (found, target)]
    mean, total = (squared_difference(found, target, valid, reduction=over) for over in ("mean", "sum"))
    torch.testing.assert_close(mean.detach(), F.mse_loss(*kept))
    torch.testing.assert_close(total, 5 * mean)
    assert torch.autograd.grad(total, target, allow_unused=True)[0] is None


def test_confidence_is_one_number_of_the_whole_batch_padding_included(maps):
    found, target, valid = maps
    sure = [target[b, :, y, x].max() >= 0.8 for b in range(2) for y in range(7) for x in range(6)]
    assert 0 < sum(sure) < len(sure)
    expected = sum(sure) / len(sure) * squared_difference(found, target, valid)
    torch.testing.assert_close(confident_squared_difference(found, target, valid, 0.8), expected)


def test_confidence_per_pixel_keeps_the_number_of_valid_pixels(maps):
    found, target, valid = maps
    total = 0.0
    for b, y, x in torch.nonzero(valid).tolist():
        if target[b, :, y, x].max() >= 0.8:
            total += (found[b, :, y, x] - target[b, :, y, x]).square().sum().item()
    loss = confident_squared_difference(found, target, valid, 0.8, per_pixel=True)
    assert loss.item() == pytest.approx(total / valid.sum().item(), rel=1e-5)


@pytest.mark.parametrize("per_pixel", [True, False])
def test_thresholds_at_their_ends(per_pixel, maps):
    """0: every pixel is sure; above all probabilities: none is, and the loss is 0 with a finite gradient."""
    found, target, valid = maps
    torch.testing.assert_close(
        confident_squared_difference(found, target, valid, 0.0, per_pixel), squared_difference(found, target, valid)
    )
    none = confident_squared_difference(found, target, valid, 1.0, per_pixel)
    assert none.item() == 0
    assert (gradient(none, found) == 0).all()
    nothing = confident_squared_difference(found, target, torch.zeros_like(valid), 0.0, per_pixel)
    assert nothing.item() == 0
    assert (gradient(nothing, found) == 0).all()


# --- hard examples (OHEM) ---


def plain_hard_cross_entropy(logits, label, threshold, min_kept):
    """Mean of -log P over the pixels whose P of the true class is below the threshold or not above the min_kept-th."""
    logits, label = logits.detach().double().numpy(), label.numpy()
    chances = []
    for b, y, x in np.ndindex(label.shape):
        if label[b, y, x] != IGNORE:
            scores = np.exp(logits[b, :, y, x])
            chances.append(scores[label[b, y, x]] / scores.sum())
    limit = sorted(chances)[min(min_kept, len(chances)) - 1]
    taken = [chance for chance in chances if chance < threshold or chance <= limit]
    return -np.log(taken).mean(), len(taken)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "number"),
    [(0.3, 1, 49), (0.3, 49, 49), (0.3, 50, 50), (0.01, 20, 20), (0.01, 1000, 72), (0.999, 1, 72)],
)
def test_hard_cross_entropy_is_a_plain_loop(threshold, min_kept, number, logits, label):
    """Chosen by threshold (49 pixels lie below .3), by number, and more than there are."""
    label[0, :2] = IGNORE
    expected, taken = plain_hard_cross_entropy(logits, label, threshold, min_kept)
    assert taken == number
    loss = hard_cross_entropy(logits, label, threshold, min_kept)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    taught = gradient(loss, logits).abs().sum(1) > 0
    assert taught.sum() == number
    assert not taught[label == IGNORE].any()


def test_hard_cross_entropy_of_all_pixels_is_cross_entropy(logits, label):
    torch.testing.assert_close(hard_cross_entropy(logits, label, 0.5, 1000), cross_entropy(logits, label))


def test_equally_hard_pixels_go_together():
    logits, label = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, IGNORE]]])
    logits[0, 0, 0, 0] = 5.0  # easy; the two others are equal
    assert hard_cross_entropy(logits, label, 0.1, 1).item() == pytest.approx(math.log(2))


# --- losses towards probabilities ---


@pytest.fixture
def target():
    return torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(3)).softmax(1).requires_grad_()


@pytest.fixture
def valid():
    return torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(4)) < 0.6


def test_soft_cross_entropy_is_torchs_mean_over_valid_pixels(logits, target, valid):
    ours = soft_cross_entropy(logits, target, valid)
    theirs = F.cross_entropy(logits, target.detach(), reduction="none")[valid].mean()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))
    assert torch.autograd.grad(ours, target, allow_unused=True)[0] is None


def test_soft_cross_entropy_of_certain_targets_is_cross_entropy(logits, label, valid):
    certain = F.one_hot(label, 5).permute(0, 3, 1, 2)
    expected = cross_entropy(logits, label.masked_fill(~valid, IGNORE))
    torch.testing.assert_close(soft_cross_entropy(logits, certain, valid), expected)


def test_a_weight_of_squared_differences_leaves_their_number_as_it_is(logits, target, valid):
    weight = torch.rand(valid.shape, generator=torch.Generator().manual_seed(5))
    expected = ((logits.softmax(1) - target).square().sum(1) * weight)[valid].sum() / valid.sum()
    torch.testing.assert_close(squared_difference(logits.softmax(1), target, valid, weight), expected)


def test_with_nothing_to_learn_from_every_loss_is_0_and_its_gradient_too(logits, label, target, valid):
    nothing, nowhere = torch.full_like(label, IGNORE), torch.zeros_like(valid)
    for loss in (
        hard_cross_entropy(logits, nothing, 0.7, 10),
        squared_difference(logits.softmax(1), target, nowhere),
        soft_cross_entropy(logits, target, nowhere),
    ):
        assert loss.item() == 0
        assert (gradient(loss, logits) == 0).all()
