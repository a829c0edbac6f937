"""torchvision's own networks are the independent reference."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from stages.networks import build_segmenter
from stages.networks.backbones import VGG16, MobileNetV2, ResNet, Tiny, build_backbone, build_classifier_backbone
from stages.networks.config import NetworkConfig


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matching_state(backbone: nn.Module, reference: nn.Module) -> dict[str, torch.Tensor]:
    state = reference.state_dict()
    return {key: state[key] for key in backbone.state_dict()}


def test_resnet_at_stride_32_is_torchvisions() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None)
    backbone = ResNet("resnet50", 32)
    backbone.load_state_dict(_matching_state(backbone, reference))
    assert _count(backbone) == _count(reference) - _count(reference.fc)
    images = torch.randn(2, 3, 65, 97)
    extract = nn.Sequential(*list(reference.children())[:-2])
    torch.testing.assert_close(backbone.eval()(images)["high"], extract.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("last_conv", [True, False])
def test_mobilenet_at_stride_32_is_torchvisions(last_conv: bool) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v2(weights=None)
    backbone = MobileNetV2(32, last_conv=last_conv)
    backbone.load_state_dict(_matching_state(backbone, reference))
    images = torch.randn(2, 3, 65, 97)
    expected = reference.features if last_conv else reference.features[:18]
    assert _count(backbone) == _count(expected)
    torch.testing.assert_close(backbone.eval()(images)["high"], expected.eval()(images), rtol=0, atol=0)


def test_vgg16_has_torchvisions_convolutions() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.vgg16(weights=None).features
    backbone = VGG16((2, 2, 2, 1, 1), average_pool=True)
    assert {k: v.shape for k, v in backbone.features.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    backbone.features.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 33, 41)
    # the pools differ by design (3x3 with padding): equal up to the first, and with torchvision's 2x2 pools throughout
    torch.testing.assert_close(backbone.features[:4](images), reference[:4](images), rtol=0, atol=0)
    plain = VGG16((2, 2, 2, 2, 2), average_pool=False)
    plain.features.load_state_dict(reference.state_dict())
    for layer in plain.features:
        if isinstance(layer, nn.MaxPool2d):
            layer.kernel_size, layer.padding = 2, 0
    torch.testing.assert_close(plain(images)["high"], reference(images), rtol=0, atol=0)


def _dilations(module: nn.Module) -> list[int]:
    return [c.dilation[0] for c in module.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)]


def test_strides_turn_into_dilations() -> None:
    assert set(_dilations(VGG16((2, 2, 2, 1, 1), average_pool=True).features[24:])) == {2}  # conv5
    assert set(_dilations(VGG16((2, 2, 2, 1, 1), average_pool=True).features[:24])) == {1}
    resnet = ResNet("resnet50", 8)
    assert _dilations(resnet.layer3) == [1, 2, 2, 2, 2, 2]  # the conv that lost its stride sees an undilated map
    assert _dilations(resnet.layer4) == [2, 4, 4]
    assert _dilations(ResNet("resnet50", 16).layer4) == [1, 2, 2]
    assert set(_dilations(ResNet("resnet50", 16, dilate=False))) == {1}  # IRNet
    assert _dilations(MobileNetV2(16).features[14:]) == [1, 2, 2, 2]
    assert _dilations(MobileNetV2(8).features[7:]) == [1] + [2] * 6 + [2] + [4] * 3
    assert set(_dilations(build_classifier_backbone("mobilenet_v2"))) == {1}


@pytest.mark.parametrize(
    ("name", "stride"), [("mobilenet_v2", 8), ("mobilenet_v2", 16), ("resnet50", 8), ("resnet50", 16)]
)
def test_dilation_samples_the_strided_network_more_densely(name: str, stride: int) -> None:
    """Same weights: the dilated map, taken every 32/stride-th cell, is the strided map (the à trous algorithm)."""
    torch.manual_seed(0)
    strided, dilated = build_backbone(name, 32).eval(), build_backbone(name, stride).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 129, 97)
    step = 32 // stride
    with torch.inference_mode():
        expected, found = strided(images)["high"], dilated(images)["high"][..., ::step, ::step]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["tiny", "vgg16", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("size", [(33, 33), (48, 70)])
def test_maps_have_the_promised_size_and_channels(name: str, size: tuple[int, int]) -> None:
    for stride in (8, 16):
        backbone = build_backbone(name, stride).eval()
        with torch.inference_mode():
            features = backbone(torch.randn(1, 3, *size))
        low = tuple(-(-side // 4) for side in size)
        high = tuple(-(-side // stride) for side in size)
        assert features["low"].shape == (1, backbone.low_channels, *low)
        assert features["high"].shape == (1, backbone.high_channels, *high)


def test_tiny_is_small_and_treats_images_apart() -> None:
    torch.manual_seed(0)
    backbone = Tiny(16)
    assert 200_000 < _count(backbone) < 500_000
    images = torch.randn(3, 3, 40, 40)
    together = backbone(images)["high"]
    alone = torch.cat([backbone(image[None])["high"] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_with_a_frozen_affine_statistics_follow_the_batches() -> None:
    config = {"backbone": "mobilenet_v2", "weights": "none", "freeze_batch_norm": "affine"}
    network = build_segmenter(NetworkConfig.model_validate(config), 4, seed=0).train()
    backbone = network.backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.training and not norm.weight.requires_grad and norm.weight.grad is None for norm in norms)
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rsplit(".", 1)[1] for key in changed} == {"running_mean", "running_var", "num_batches_tracked"}


def test_frozen_batch_norm_survives_train() -> None:
    backbone = MobileNetV2(16)
    backbone.freeze_batch_norm()
    outer = nn.Sequential(backbone).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    outer(torch.randn(2, 3, 32, 32))[  # type: ignore[call-overload]
        "high"
    ].sum().backward()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert not norm.training
        assert not norm.weight.requires_grad
        assert not norm.bias.requires_grad
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert backbone.features[1].training  # the rest does train


LEVELS = {
    ("tiny", 16): ((32, 4), (64, 8), (96, 16)),
    ("vgg16", 8): ((64, 1), (128, 2), (256, 4), (512, 8), (512, 8)),
    ("vgg16", 32): ((64, 1), (128, 2), (256, 4), (512, 8), (512, 32)),
    ("resnet50", 8): ((64, 4), (256, 4), (512, 8), (1024, 8), (2048, 8)),
    ("resnet50", 16): ((64, 4), (256, 4), (512, 8), (1024, 16), (2048, 16)),
    ("resnet50", 32): ((64, 4), (256, 4), (512, 8), (1024, 16), (2048, 32)),
    ("mobilenet_v2", 8): ((16, 2), (24, 4), (32, 8), (96, 8), (320, 8)),
    ("mobilenet_v2", 16): ((16, 2), (24, 4), (32, 8), (96, 16), (320, 16)),
    ("hrnet_w18_small", 4): ((16, 4), (32, 8), (64, 16), (128, 32)),
    ("dinov2_small", 14): ((384, 14), (384, 14), (384, 14), (384, 14)),
}


@pytest.mark.parametrize(("name", "output_stride"), LEVELS)
def test_levels_are_the_maps_behind_each_stage_finest_first(name: str, output_stride: int) -> None:
    if name.startswith(("hrnet", "dinov2")):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_backbone(name, output_stride).eval()
    assert tuple(zip(backbone.level_channels, backbone.level_strides, strict=True)) == LEVELS[name, output_stride]
    images = torch.randn(1, 3, 71, 58)
    with torch.no_grad():
        maps, features = backbone.levels(images), backbone(images)
    expected = [(1, c, -(-71 // s), -(-58 // s)) for c, s in LEVELS[name, output_stride]]
    assert [tuple(level.shape) for level in maps] == expected
    assert features["high"].shape[1] == backbone.high_channels
    if not name.startswith("hrnet"):  # whose `high` is all four branches, and whose `low` is the layer before them
        assert torch.equal(features["high"], maps[-1])
        assert torch.equal(features["low"], maps[backbone.low_level])


def test_levels_of_a_classifiers_resnet_are_those_of_a_torchvision_resnet() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None)
    backbone = build_classifier_backbone("resnet50")
    backbone.load_state_dict(_matching_state(backbone, reference))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem, first, second, third, _ = backbone.eval().levels(images)
        reference.eval()
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        assert torch.equal(stem, x)
        for level, layer in ((first, reference.layer1), (second, reference.layer2), (third, reference.layer3)):
            x = layer(x)
            assert torch.equal(level, x)
