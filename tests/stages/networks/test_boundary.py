"""stages/networks/boundary.py: any backbone, at stride 4, without a shift; the backbone never changes."""

from __future__ import annotations

import pytest
import torch

from artifacts.errors import ConfigError
from stages.networks import build_classifier, parameter_groups
from stages.networks.blocks import at_stride
from stages.networks.boundary import BoundaryNetwork, build_boundary_network
from stages.networks.config import CLASSIFIER_PRESETS, ClassifierConfig


def config(preset: str) -> ClassifierConfig:
    free = {"weights": "none", "freeze_batch_norm": False, "freeze_stages": 0}
    return ClassifierConfig.model_validate({"preset": preset, **free})


@pytest.mark.parametrize("preset", [name for name in CLASSIFIER_PRESETS if name not in ("resnet101", "resnet38")])
@pytest.mark.parametrize("size", [(64, 64), (61, 67)])
def test_any_backbone_gives_boundaries_at_stride_4(preset, size):
    network = build_boundary_network(config(preset), seed=0)
    boundary = network(torch.rand(2, 3, *size))
    assert boundary.shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    boundary.sum().backward()
    learning = {name.partition(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learning == {"branches", "boundary"}
    assert all(group["name"].startswith("new.") for group in parameter_groups(network, network.pretrained))


def test_the_backbone_never_changes():
    network = build_boundary_network(config("mobilenet_v2"), seed=0).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())


def test_a_spot_of_a_coarse_level_stays_where_it_is():
    """The cell of stride 8 on pixel (40, 24) is, at stride 4, cell (10, 6)."""
    level = torch.zeros(1, 64, 9, 9)
    level[0, :, 5, 3] = 1
    resized = at_stride(level, (17, 17), 4, 8)
    assert resized[0, 0].argmax() == 10 * 17 + 6
    odd = at_stride(torch.rand(1, 2, 5, 5), (17, 17), 4, 14)  # no multiple of 4
    assert odd.shape == (1, 2, 17, 17)


def test_the_backbone_of_a_classifier_is_taken():
    classifier = build_classifier(config("tiny"), 3, seed=5)
    network = build_boundary_network(config("tiny"), 0, classifier.state_dict())
    for name, value in classifier.backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[name], value)
    with pytest.raises(ConfigError, match="the input 'initial'"):
        build_boundary_network(config("mobilenet_v2"), 0, classifier.state_dict())


def test_what_is_saved_builds_the_network_again():
    network = build_boundary_network(config("tiny"), seed=1).eval()
    spec = network.spec(("background", "cat"))
    again = BoundaryNetwork.from_spec(spec).eval()
    again.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 40, 40)
    assert spec["kind"] == "boundary"
    assert torch.equal(network(x), again(x))


def moves(parameter: torch.Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


@pytest.mark.parametrize("preset", [name for name in CLASSIFIER_PRESETS if name not in ("resnet101", "resnet38")])
@pytest.mark.parametrize("size", [(64, 64), (61, 67)])
def test_any_backbone_gives_displacements_next_to_the_same_boundaries(preset, size):
    plain = build_boundary_network(config(preset), seed=0)
    network = build_boundary_network(config(preset), seed=0, displacement=True)
    images = torch.rand(2, 3, *size)
    logits, displacement = network.with_displacement(images)
    assert displacement.shape == (2, 2, -(-size[0] // 4), -(-size[1] // 4))
    assert torch.equal(logits, plain(images))
    displacement.square().sum().backward()
    learning = {name.partition(".")[0] for name, value in network.named_parameters() if moves(value)}
    assert learning == {"displacement"}


def test_the_mean_displacement_is_subtracted_at_inference_only():
    network = build_boundary_network(config("tiny"), seed=0, displacement=True).train()
    images = torch.rand(1, 3, 40, 40)
    learned = network.with_displacement(images)[1]
    network.displacement.mean.copy_(torch.tensor([0.5, -2.0]))
    assert torch.equal(network.with_displacement(images)[1], learned)
    shifted = network.eval().with_displacement(images)[1]
    torch.testing.assert_close(learned[0] - shifted[0], torch.tensor([0.5, -2.0])[:, None, None].expand(2, 10, 10))


def test_a_network_with_displacements_is_built_again():
    network = build_boundary_network(config("tiny"), seed=1, displacement=True).eval()
    network.displacement.mean += 3
    spec = network.spec(("background", "cat"))
    again = BoundaryNetwork.from_spec(spec).eval()
    again.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(network.with_displacement(images)[1], again.with_displacement(images)[1])
    assert build_boundary_network(config("tiny"), seed=1).spec(("background", "cat"))["options"] == {}


def test_a_spot_of_a_coarse_level_moves_nothing_else():
    """Of displacements, too, cell i lies on pixel 4 i: a spot at stride 8 is in the middle of what it changes."""
    network = build_boundary_network(config("tiny"), seed=0, displacement=True).displacement
    levels = [torch.zeros(1, channels, side, side) for channels, side in ((32, 17), (64, 9), (96, 9))]
    without = network(levels, (65, 65))
    levels[1][0, :, 5, 3] = 1
    moved = (network(levels, (65, 65)) - without).abs().sum(1)[0]
    y, x = torch.meshgrid(torch.arange(17.0), torch.arange(17.0), indexing="ij")
    near = (y - 10).abs().maximum((x - 6).abs()) < 2
    assert moved[near].mean() > 20 * moved[~near].mean()
