"""Depthwise convolutions: outputs bit by bit and gradients within rounding those of torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stages.networks.backbones import MobileNetV2
from stages.networks.depthwise import DepthwiseConv2d, with_fast_gradients


def _gradients(conv, image, autocast=False):
    """The output, and the gradients of the image and of all parameters."""
    image = image.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = conv(image)
    sign = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    return output, torch.autograd.grad(output, [image, *conv.parameters()], sign)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3)])
@pytest.mark.parametrize(
    "how",
    [
        {"dilation": 2, "padding": 2},
        {"dilation": 4, "padding": 4},
        {"dilation": (2, 1), "padding": (2, 1)},
        {"dilation": 2, "padding": 3},  # no multiple: not taken apart
        {"dilation": 3, "padding": 6},
        {"stride": 2, "padding": 1},
        {"stride": 2, "dilation": 2, "padding": 2},
    ],
)
def test_outputs_and_gradients_are_those_of_torch(how, size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, groups=6, bias=bias, dtype=torch.float64, **how)
    fast = with_fast_gradients(nn.Sequential(copy.deepcopy(conv)))
    assert isinstance(fast[0], DepthwiseConv2d)
    image = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    (expected, gradients), (output, found) = _gradients(conv, image), _gradients(fast, image)
    assert torch.equal(output, expected)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_in_bf16_are_as_near_as_bf16_allows():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16)
    fast = with_fast_gradients(nn.Sequential(copy.deepcopy(conv)))
    image = torch.randn(2, 16, 9, 12)
    (_, gradients), (output, found) = _gradients(conv, image), _gradients(fast, image, autocast=True)
    assert output.dtype == torch.bfloat16
    for ours, theirs in zip(found, gradients, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_only_strided_and_dilated_depthwise_convolutions_are_replaced():
    convs = [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4),
    ]
    assert [type(layer) for layer in with_fast_gradients(nn.Sequential(*convs))] == [nn.Conv2d] * 5


def test_mobilenet_keeps_its_names_its_weights_and_the_random_numbers():
    """Those of torchvision's network; a seed gives the weights that it gave before."""
    import torchvision

    torch.manual_seed(3)
    expected = torchvision.models.mobilenet_v2(weights=None).features[:18].state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    backbone = MobileNetV2(8)
    assert torch.rand(1) == after
    found = backbone.features.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    replaced = [layer for layer in backbone.modules() if isinstance(layer, DepthwiseConv2d)]
    assert {layer.dilation for layer in replaced} == {(1, 1), (2, 2), (4, 4)}
    assert all(layer.training for layer in replaced)


def test_gradients_of_gradients_are_those_of_torch():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3, bias=False, dtype=torch.float64)
    fast = with_fast_gradients(nn.Sequential(copy.deepcopy(conv)))
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: fast(x).square(), image)
    assert torch.autograd.gradgradcheck(lambda x: fast(x).square(), image)
