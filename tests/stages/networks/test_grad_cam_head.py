"""stages/networks/grad_cam_head.py, against Grad-CAM by autograd and attention by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.networks.grad_cam_head import GradCamHead, activation_maps


@pytest.fixture
def features() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    low, high = torch.randn(2, 3, 9, 7, generator=random), torch.randn(2, 5, 5, 4, generator=random)
    return {"low": low.requires_grad_(), "high": high.requires_grad_()}


def head(norm: str = "group") -> GradCamHead:
    torch.manual_seed(1)
    return GradCamHead(3, 5, num_classes=4, factor=2, norm=norm, dim=6)


EVERYWHERE = torch.ones(2, 5, 4, dtype=torch.bool)


def test_maps_are_grad_cam(features: dict[str, torch.Tensor]) -> None:
    """Weights by autograd: the mean gradient of each score by the last features."""
    made, high = head(), features["high"]
    scores = made.classify(high.mean((2, 3), keepdim=True)).flatten(1)
    found = activation_maps(high, made.classify.weight, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    for k in range(3):
        (slope,) = torch.autograd.grad(scores[:, k].sum(), high, retain_graph=True)
        cam = (slope.mean((2, 3), keepdim=True) * high).sum(1).relu()
        expected = cam / cam.amax((1, 2), keepdim=True)
        torch.testing.assert_close(found[:, k], expected)


def test_spread_maps_are_an_attention_over_the_valid_cells(features: dict[str, torch.Tensor]) -> None:
    made = head()
    valid = EVERYWHERE.clone()
    valid[0, 3:] = False
    present = torch.tensor([[True, False, True], [True, True, True]])
    seen: list[torch.Tensor] = []
    made.calibrate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made(features, present, valid)
    maps = activation_maps(features["high"], made.classify.weight, present[:, :, None, None] & valid[:, None]).detach()
    columns = torch.cat([features["low"][..., ::2, ::2], features["high"]], 1).detach()
    query, key = (torch.einsum("bchw,dc->bdhw", columns, m.weight[:, :, 0, 0]).detach() for m in (made.query, made.key))
    expected = np.zeros((2, 4, 5, 4))
    for b, y, x in np.ndindex(2, 5, 4):
        cells = [(i, j) for i, j in np.ndindex(5, 4) if valid[b, i, j]]
        alike = [math.exp(float(query[b, :, y, x] @ key[b, :, i, j]) / math.sqrt(6)) for i, j in cells]
        for k in range(3):
            shared = sum(a * float(maps[b, k, i, j]) for a, (i, j) in zip(alike, cells, strict=True)) / sum(alike)
            expected[b, k + 1, y, x] = float(maps[b, k, y, x]) + shared
        expected[b, 0, y, x] = 2 - expected[b, 1:, y, x].max()
    np.testing.assert_allclose(seen[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert (seen[0][0, 2] == 0).all()  # a class that is not there has no map


def test_without_tags_the_classifier_says_what_is_there(features: dict[str, torch.Tensor]) -> None:
    made = head()
    scores, predicted = made(features, None, EVERYWHERE)
    assert 0 < (scores >= 0).sum() < scores.numel()
    _, given = made(features, scores.sigmoid() >= 0.5, EVERYWHERE)
    assert torch.equal(predicted, given)


def test_logits_teach_the_attention_and_scores_teach_the_trunk(features: dict[str, torch.Tensor]) -> None:
    made = head()
    scores, logits = made(features, None, EVERYWHERE)
    assert logits.shape == (2, 4, 5, 4)
    logits.square().sum().backward(retain_graph=True)
    assert features["high"].grad is None
    assert features["low"].grad is None
    assert made.classify.weight.grad is None
    assert made.query.weight.grad.abs().sum() > 0
    assert made.calibrate[0].weight.grad.abs().sum() > 0
    scores.sum().backward()
    assert features["high"].grad.abs().sum() > 0
    assert features["low"].grad is None


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_nothing_present_and_nothing_valid_give_finite_logits(norm: str, features: dict[str, torch.Tensor]) -> None:
    for present, valid in ((torch.zeros(2, 3, dtype=torch.bool), EVERYWHERE), (None, ~EVERYWHERE)):
        _, logits = head(norm)(features, present, valid)
        assert torch.isfinite(logits).all()


def test_autocast_keeps_the_attention_in_single_precision(features: dict[str, torch.Tensor]) -> None:
    made = head()
    _, expected = made(features, None, EVERYWHERE)
    with torch.autocast("cpu", torch.bfloat16):
        _, found = made(features, None, EVERYWHERE)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
