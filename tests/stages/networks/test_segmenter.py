from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stages.networks import build_segmenter, make_head, normalise, parameter_groups
from stages.networks.config import PRESETS, NetworkConfig
from stages.networks.segmenter import Segmenter


def _config(preset: str = "tiny", **changes: Any) -> NetworkConfig:
    return NetworkConfig.model_validate({"preset": preset, **changes})


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = build_segmenter(_config(), 7, seed=3)
    torch.manual_seed(2)
    assert _same(first, build_segmenter(_config(), 7, seed=3))
    assert not _same(first, build_segmenter(_config(), 7, seed=4))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    build_segmenter(_config(), 7, seed=0)
    make_head(_config(), 7, seed=0)
    assert torch.equal(torch.rand(4), expected)


def test_a_second_head_fits_the_same_trunk() -> None:
    config = _config(neck_layers=2, neck_channels=24)
    network = build_segmenter(config, 7, seed=0).eval()
    other = make_head(config, 7, seed=1).eval()
    assert {k: v.shape for k, v in other.state_dict().items()} == {
        k: v.shape for k, v in network.head.state_dict().items()
    }
    assert not _same(other, network.head)
    assert _same(other, make_head(config, 7, seed=1).eval())
    images = torch.randn(2, 3, 33, 40)
    features = network.trunk(images)
    assert torch.equal(network.head(features), network(images))
    assert other(features).shape == network(images).shape
    assert not torch.equal(other(features), network(images))


def test_the_gradient_of_a_branch_stops_at_its_own_head() -> None:
    config = _config(neck_layers=1, neck_channels=16)
    network, weak = build_segmenter(config, 7, seed=0), make_head(config, 7, seed=1)
    weak(network.trunk(torch.randn(2, 3, 32, 32))).square().mean().backward()
    assert all(p.grad is None for p in network.head.parameters())
    assert all(p.grad is not None for p in network.backbone.parameters())
    assert all(p.grad is not None for p in network.neck.parameters())


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_neck_has_its_layers(layers: int) -> None:
    network = build_segmenter(_config(neck_layers=layers, neck_channels=24), 3, seed=0)
    convs = [m for m in network.neck.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (96, 24, (3, 3)),
        (24, 24, (3, 3)),
        (24, 24, (3, 3)),
    ][:layers]
    channels = 24 if layers else 96
    assert network.trunk(torch.randn(1, 3, 32, 32))["high"].shape[1] == channels


def test_deeplab_vgg16_gives_41_cells_for_321_pixels() -> None:
    network = build_segmenter(_config("deeplab-largefov-vgg16", weights="none"), 21, seed=0).eval()
    assert network.stride == 8
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 321, 321)).shape == (1, 21, 41, 41)
    # Chen et al. 2015: 20.5 M parameters
    assert (
        sum(p.numel() for p in network.parameters()) == 14_714_688 + 512 * 1024 * 9 + 1024 + 1024**2 + 1024 + 21 * 1025
    )


@pytest.mark.parametrize("preset", ["tiny", "mobilenet_v2", "deeplabv3plus-resnet50"])
@pytest.mark.parametrize("size", [(33, 33), (40, 57)])
def test_a_single_image_of_odd_size(preset: str, size: tuple[int, int]) -> None:
    network = build_segmenter(_config(preset, weights="none", freeze_batch_norm=False), 4, seed=0).eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, *size))
    assert logits.shape == (1, 4, *(-(-side // network.stride) for side in size))


@pytest.mark.parametrize("preset", ["tiny", "mobilenet_v2"])
@pytest.mark.parametrize("head", ["largefov", "aspp", "deeplabv3plus", "fcn"])
@pytest.mark.parametrize("stride", [8, 16])
def test_every_head_fits_every_small_backbone(preset: str, head: str, stride: int) -> None:
    changes = {"weights": "none", "freeze_batch_norm": False, "head_channels": 16, "output_stride": stride}
    network = build_segmenter(_config(preset, head=head, **changes), 4, seed=0).eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 64, 48))
    assert logits.shape == (1, 4, 64 // network.stride, 48 // network.stride)
    assert network.stride == (4 if head == "deeplabv3plus" else stride)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_trainable_parameter_is_in_exactly_one_group(preset: str) -> None:
    with torch.device("meta"):
        network = Segmenter(_config(preset, weights="none"), 21)
    network.pretrained = ("backbone.",)
    groups = network.parameter_groups()
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in network.parameters() if p.requires_grad}
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_trainable_parameter_has_a_part_in_the_scores(preset: str) -> None:
    with torch.device("meta"):
        network = Segmenter(_config(preset, weights="none"), 21)
        network(torch.empty(2, 3, 70, 70)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_groups_tell_weights_from_biases_and_norms() -> None:
    network = build_segmenter(_config(neck_layers=1, neck_channels=16), 4, seed=0)
    network.pretrained = ("backbone.",)
    by_name = {group["name"]: {id(p) for p in group["params"]} for group in network.parameter_groups()}
    assert set(by_name) == {"pretrained.weights", "pretrained.biases", "new.weights", "new.biases"}
    for name, parameter in network.named_parameters():
        origin = "pretrained" if name.startswith("backbone.") else "new"
        role = "weights" if parameter.dim() == 4 else "biases"  # norms and biases are vectors
        assert id(parameter) in by_name[f"{origin}.{role}"], name
    assert {g["name"] for g in parameter_groups(make_head(_config(), 4, seed=0))} == {"new.weights", "new.biases"}


def test_frozen_batch_norm_takes_no_gradient_and_stays_through_train() -> None:
    with torch.device("meta"):
        network = Segmenter(_config("mobilenet_v2", weights="none"), 4)
    network.train()
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    trained = {id(p) for group in network.parameter_groups() for p in group["params"]}
    assert not any(id(p) in trained for norm in norms for p in norm.parameters())


def test_tiny_gives_one_image_the_same_scores_in_any_batch() -> None:
    """What makes two gloo processes equal to one: no statistic crosses images."""
    network = build_segmenter(_config(dropout=0.0), 5, seed=0)
    images = torch.randn(4, 3, 48, 48)
    halves = torch.cat([network(images[:2]), network(images[2:])])
    torch.testing.assert_close(network(images), halves, rtol=1e-4, atol=1e-5)


def test_channels_last_changes_no_result() -> None:
    network = build_segmenter(_config(dropout=0.0), 5, seed=0)
    images = torch.randn(2, 3, 48, 48)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    found = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_graph_has_no_breaks() -> None:
    """torch.compile sees each network as one graph."""
    network = build_segmenter(_config(), 5, seed=0).eval()
    explained = torch._dynamo.explain(network)(torch.randn(2, 3, 32, 32))
    assert explained.graph_break_count == 0


def test_normalisation_by_hand() -> None:
    images = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    images[0, :, 0, 1] = 255
    expected = [
        [-0.485 / 0.229, (1 - 0.485) / 0.229],
        [-0.456 / 0.224, (1 - 0.456) / 0.224],
        [-0.406 / 0.225, (1 - 0.406) / 0.225],
    ]
    found = normalise(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, :, 0], torch.tensor(expected))
    torch.testing.assert_close(normalise(images.float() / 255), found)
