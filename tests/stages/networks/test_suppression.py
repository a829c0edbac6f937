"""stages/networks/suppression.py: the module against a plain loop, its places in each backbone, copies, errors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artifacts import checkpoint
from artifacts.errors import ConfigError
from stages.networks import load_network, parameter_groups
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from stages.networks.suppression import (
    SUPPRESSIBLE,
    Places,
    SuppressedClassifier,
    Suppression,
    build_suppressed,
    rectified,
)

NAMES = ("background", "cat", "dog")
# outputs behind a ReLU: 13 + 3 of vgg16; of the others one a block or layer, and the three further convolutions
RELUS = {"tiny": 7 + 3, "vgg16": 13 + 3, "resnet50": 1 + 16 + 3, "resnet101": 1 + 33 + 3, "mobilenet_v2": 35 + 3}
STAGES = {"tiny": 3 + 3, "vgg16": 5 + 3, "resnet50": 5 + 3, "resnet101": 5 + 3, "mobilenet_v2": 5 + 3}
WHERE: tuple[Places | None, ...] = ("relus", "stages", None)
WITH_BATCH_NORM = ("resnet50", "resnet101", "mobilenet_v2")


def config(backbone: str, **changes) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"backbone": backbone, "freeze_batch_norm": False, "dropout": 0.0} | changes)


def by_loops(x: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """Channel by channel; `weight`: of the controller, or the constant."""
    result = np.zeros_like(x)
    for image, channels in enumerate(x):
        means = channels.mean((1, 2))
        for c, values in enumerate(channels):
            share = weight if isinstance(weight, float) else 1 / (1 + np.exp(-(weight[c] * means).sum()))
            for place, value in np.ndenumerate(values):
                result[(image, c, *place)] = min(value, share * values.max())
    return result


@pytest.mark.parametrize("factor", ["learnable", 0.55])
def test_suppression_is_a_cap_at_a_share_of_the_maximum(factor):
    torch.manual_seed(0)
    module, x = Suppression(4, factor).double(), torch.rand(2, 4, 3, 5).double()
    if factor == "learnable":
        nn.init.normal_(module.controller.weight)
    weight = module.controller.weight.detach().numpy() if factor == "learnable" else factor
    np.testing.assert_allclose(module(x).detach().numpy(), by_loops(x.numpy(), weight), rtol=1e-12)


def test_suppression_by_hand_with_its_gradient():
    """Maximum 4, K = .5: the cap is 2, and what is cut off pulls at the maximum."""
    x = torch.tensor([[[[4.0, 3.0, 1.0]]]], requires_grad=True)
    found = Suppression(1, 0.5)(x)
    assert found.flatten().tolist() == [2.0, 2.0, 1.0]
    found.sum().backward()
    assert x.grad.flatten().tolist() == [1.0, 0.0, 1.0]  # 4 caps two cells, each with .5


def test_a_share_of_1_suppresses_nothing():
    images = torch.randn(1, 3, 33, 40)
    suppressed, plain = (build_suppressed(config("tiny"), 2, 0, factor).eval() for factor in (1.0, None))
    assert torch.equal(suppressed(images), plain(images))
    assert not torch.equal(suppressed(images), build_suppressed(config("tiny"), 2, 0, 0.5).eval()(images))


@pytest.mark.parametrize("backbone", SUPPRESSIBLE)
def test_the_logits_are_the_means_of_the_maps_and_every_relu_is_behind_a_suppression(backbone):
    network = build_suppressed(config(backbone), 2, 0, places="relus").eval()
    images, seen = torch.randn(2, 3, 49, 65), []
    assert len(network.suppressions) == RELUS[backbone]
    for place in [*rectified(network.backbone), *rectified(network.extra)]:
        place.register_forward_hook(lambda module, inputs, output: seen.append(output.min().item()))
    with torch.inference_mode():
        logits, maps = network(images), network.activation_maps(images)
    assert maps.shape == (2, 2, *(-(-side // network.stride) for side in (49, 65)))
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)
    assert len(seen) == 2 * RELUS[backbone]
    assert min(seen) == 0  # never below: it is behind a ReLU, and everything ran


@pytest.mark.parametrize("backbone", SUPPRESSIBLE)
def test_only_the_stages_of_a_backbone_with_batch_norm_are_cut_by_default(backbone):
    counts = {
        places: len(build_suppressed(config(backbone), 2, 0, 0.5, places=places).suppressions) for places in WHERE
    }
    default = STAGES if backbone in WITH_BATCH_NORM else RELUS
    assert counts == {"relus": RELUS[backbone], "stages": STAGES[backbone], None: default[backbone]}


def test_the_last_relu_of_each_stage_is_cut():
    """Of MobileNetV2 those of torchvision's blocks 1, 3, 6, 13 and of the last convolution."""
    network = build_suppressed(config("mobilenet_v2"), 2, 0)
    cut = [name for name, module in network.backbone.named_modules() if module._forward_hooks]
    blocks = ("1.conv.0.2", "3.conv.1.2", "6.conv.1.2", "13.conv.1.2", "18.2")
    assert cut == [f"features.{name}" for name in blocks]


@pytest.mark.parametrize(("places", "start"), [("relus", 0.5), ("stages", 0.88)])
def test_learned_factors_start_at_a_half_and_behind_stages_near_1(places, start):
    network, features = build_suppressed(config("tiny"), 2, 0, places=places), torch.rand(4, 96)
    factors = network.suppressions[-1].controller(features).sigmoid()
    assert (factors - start).abs().max() < 0.1


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_images_are_still_told_apart_where_batch_norm_is_frozen(backbone):
    """Cut behind every ReLU, a network whose BatchNorm knows whole features gives nearly the same for all images."""
    images = F.interpolate(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), (64, 64))
    plain = build_suppressed(config(backbone), 2, 0, None)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        plain.backbone(images)  # BatchNorm takes the statistics of these images
    kept = {}
    for places in ("relus", "stages"):
        cut = build_suppressed(config(backbone), 2, 0, "learnable", plain.state_dict(), places).eval()
        kept[places] = unlike(cut, images) / unlike(plain.eval(), images)
    assert kept["relus"] < 0.2
    assert kept["stages"] > 0.5


@torch.no_grad()
def unlike(network: SuppressedClassifier, images: torch.Tensor) -> float:
    """How far the images' mean features are from each other, as a share of their size."""
    features = network.features(images).mean((2, 3))
    return float(features.std(0).mean() / features.mean())


def test_files_without_places_have_them_behind_every_relu(tmp_path: Path):
    network = build_suppressed(config("mobilenet_v2"), 2, 3, places="relus").eval()
    spec = network.spec(NAMES)
    del spec["options"]["places"]
    (tmp_path / "network.json").write_text(json.dumps(spec))
    checkpoint.save(tmp_path / "weights.pt", network.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_network(tmp_path)(images), network(images))


def test_vgg16_is_cut_as_published():
    """Stride 8, conv5 dilated by 2, no fifth pool, 512 channels, a bias in the last layer."""
    network = build_suppressed(config("vgg16"), 20, 0)
    assert [module.stride for module in network.backbone.modules() if isinstance(module, nn.MaxPool2d)] == [2, 2, 2, 1]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [c.dilation[0] for c in convolutions] == [1] * 10 + [2] * 3 + [1] * 4
    assert [c.out_channels for c in convolutions[-4:]] == [512, 512, 512, 20]
    assert network.scores.bias is not None


def test_only_the_backbone_counts_as_pretrained(tmp_path: Path):
    file = tmp_path / "tiny.pth"
    torch.save(build_suppressed(config("tiny"), 2, 5, None).backbone.state_dict(), file)
    network = build_suppressed(config("tiny", weights=str(file)), 2, 0)
    groups = {
        group["name"]: {id(p) for p in group["params"]} for group in parameter_groups(network, network.pretrained)
    }
    assert {id(p) for p in network.suppressions.parameters()} <= groups["new.weights"]
    assert {id(p) for p in network.backbone.parameters()} == groups["pretrained.weights"] | groups["pretrained.biases"]


def test_a_copy_suppresses_by_its_own_weights():
    """The copies that seeds, averaged networks and checkpoints make: hooks must not reach into the first network."""
    network, images = build_suppressed(config("tiny"), 2, 0).eval(), torch.randn(1, 3, 32, 32)
    copied, before = copy.deepcopy(network), network(images)
    for suppression in network.suppressions:
        suppression.controller.weight.data.fill_(-5.0)
    assert torch.equal(copied(images), before)
    assert not torch.equal(network(images), before)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
def test_the_copy_for_inference_has_the_same_maps(backbone):
    network, images = build_suppressed(config(backbone), 2, 0).eval(), torch.randn(1, 3, 33, 40)
    with torch.inference_mode():
        expected = network.activation_maps(images)
        found = for_inference(network, torch.device("cpu")).activation_maps(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("factor", ["learnable", 0.3, None])
def test_what_is_saved_builds_the_network_again(factor, tmp_path: Path):
    network, images = build_suppressed(config("tiny"), 2, 3, factor).eval(), torch.randn(1, 3, 32, 32)
    (tmp_path / "network.json").write_text(json.dumps(network.spec(NAMES)))
    checkpoint.save(tmp_path / "weights.pt", network.state_dict())
    again = load_network(tmp_path)
    assert again.class_names == NAMES
    assert torch.equal(again(images), network(images))


def test_the_backbone_of_another_network_is_taken():
    given = build_suppressed(config("tiny"), 2, 5)
    network = build_suppressed(config("tiny"), 2, 0, None, given.state_dict())
    assert all(
        torch.equal(value, given.backbone.state_dict()[key]) for key, value in network.backbone.state_dict().items()
    )
    assert network.pretrained == ("backbone.",)


def test_a_backbone_whose_relus_are_not_known_is_one_clear_error():
    with pytest.raises(ConfigError, match="does not know those of resnet38") as caught:
        build_suppressed(config("resnet38"), 2, 0)
    assert "vgg16" in caught.value.hint
