"""The copy of a segmenter for inference against the segmenter itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.networks import Segmenter, build_segmenter
from stages.networks.config import NetworkConfig
from stages.networks.folding import for_inference

CPU = torch.device("cpu")
# backbone, output stride, head
SEGMENTERS = [
    ("tiny", 8, "fcn"),
    ("tiny", 16, "deeplabv3plus"),
    ("vgg16", 8, "largefov"),
    ("resnet50", 16, "deeplabv3plus"),
    ("mobilenet_v2", 16, "deeplabv3plus"),
    ("hrnet_w18_small", 4, "fcn"),
    ("dinov2_small", 14, "dpt"),
]


def segmenter(backbone: str, stride: int, head: str) -> Segmenter:
    if backbone.startswith(("hrnet", "dinov2")):
        pytest.importorskip("timm")
    values = {"backbone": backbone, "output_stride": stride, "head": head, "head_channels": 32}
    network = build_segmenter(
        NetworkConfig.model_validate({**values, "weights": "none", "freeze_batch_norm": False}), 5, seed=3
    )
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


IMAGES = torch.randn(2, 3, 45, 58, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("backbone", "stride", "head"), SEGMENTERS, ids=lambda value: str(value))
def test_the_logits_are_those_of_the_segmenter(backbone: str, stride: int, head: str) -> None:
    network = segmenter(backbone, stride, head)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    quick = for_inference(network, CPU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert (quick.stride, quick.training) == (network.stride, False)
    with torch.inference_mode():
        expected, found = network.eval()(IMAGES), quick(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize(("backbone", "stride", "head"), SEGMENTERS, ids=lambda value: str(value))
def test_weights_that_are_lowered_once_give_the_same_bits(backbone: str, stride: int, head: str) -> None:
    network, found = segmenter(backbone, stride, head), []
    for dtype in (None, torch.bfloat16):
        quick = for_inference(network, CPU, dtype)
        lowered = {weight.dtype for name, weight in quick.backbone.named_parameters() if weight.ndim == 4}
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found.append(quick(IMAGES))
    assert torch.bfloat16 in lowered
    torch.testing.assert_close(*found, rtol=0, atol=0)
