from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.networks import build_classifier
from stages.networks.config import ClassifierConfig, NetworkConfig

CONFIGS = {
    "tiny": 8,
    "vgg16": 8,
    "resnet50": 16,
    "resnet38": 8,
    "mobilenet_v2": 16,
}


@pytest.mark.parametrize("backbone", CONFIGS)
def test_the_mean_of_the_activation_maps_is_the_logits(backbone: str) -> None:
    config = ClassifierConfig.model_validate({"backbone": backbone, "freeze_batch_norm": False})
    network = build_classifier(config, 6, seed=0).eval()
    images = torch.randn(2, 3, 65, 49)
    with torch.inference_mode():
        logits, maps = network(images), network.activation_maps(images)
    stride = CONFIGS[backbone]
    assert network.stride == stride
    assert maps.shape == (2, 6, -(-65 // stride), -(-49 // stride))
    scale = float(maps.abs().max())
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5 * max(scale, 1.0))
    assert maps.std() > 0


def test_vgg16_has_secs_surgery() -> None:
    """SEC: 321 pixels give 41 cells; fc6 and fc7 are 3x3 with 1024 channels, no ReLU after fc7, no bias at the end."""
    network = build_classifier(
        ClassifierConfig.model_validate({"preset": "vgg16-sec", "weights": "none"}), 20, seed=0
    ).eval()
    convs = [m for m in network.extra.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.dilation) for c in convs] == [(1024, (3, 3), (1, 1))] * 2
    assert network.scores.bias is None
    with torch.inference_mode():
        assert network.activation_maps(torch.randn(1, 3, 321, 321)).shape == (1, 20, 41, 41)
        assert network.features(torch.randn(1, 3, 32, 32)).min() < 0
    pools = [m.stride for m in network.backbone.modules() if isinstance(m, nn.MaxPool2d)]
    assert pools == [2, 2, 2]


def test_the_seed_alone_decides_the_weights_and_nothing_else_is_disturbed() -> None:
    config = ClassifierConfig.model_validate("tiny")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_classifier(config, 4, seed=1)
    assert torch.equal(torch.rand(3), expected)
    second, third = build_classifier(config, 4, seed=1), build_classifier(config, 4, seed=2)
    assert torch.equal(first.scores.weight, second.scores.weight)
    assert not torch.equal(first.scores.weight, third.scores.weight)


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    network = build_classifier(ClassifierConfig.model_validate({"preset": "vgg16-sec", "weights": "none"}), 20, seed=0)
    network.pretrained = ("backbone.",)
    found = [id(p) for group in network.parameter_groups() for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    assert [g["name"] for g in network.parameter_groups()] == [
        "pretrained.weights",
        "pretrained.biases",
        "new.weights",
        "new.biases",
    ]


def test_the_backbone_of_a_segmenters_config_will_do() -> None:
    network = build_classifier(NetworkConfig.model_validate("tiny"), 4, seed=0)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 4)
