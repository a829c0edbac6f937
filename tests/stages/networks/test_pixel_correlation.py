"""stages/networks/pixel_correlation.py: maps spread as by plain loops, in chunks, on all backbones; bad levels."""

from __future__ import annotations

import json

import pytest
import torch

import stages.networks.pixel_correlation as module
from artifacts import checkpoint
from artifacts.errors import ConfigError
from stages.networks import load_network
from stages.networks.config import ClassifierConfig
from stages.networks.pixel_correlation import build_seam_network, correlate, scaled_by_maximum

# backbone: (stride, levels, their channels)
READ = {
    "tiny": (8, (1, 2), [32, 64]),
    "vgg16": (8, (4, 5), [512, 512]),
    "resnet50": (16, (3, 4), [512, 1024]),
    "resnet38": (8, (3, 4), [512, 1024]),
    "mobilenet_v2": (16, (3, 4), [32, 96]),
}


def build(backbone: str = "tiny", levels=None, seed: int = 0):
    config = ClassifierConfig.model_validate({"backbone": backbone, "freeze_batch_norm": False, "dropout": 0.0})
    return build_seam_network(config, 3, levels, seed)


@pytest.mark.parametrize("backbone", READ)
def test_every_backbone_gives_refined_maps_from_two_of_its_levels(backbone):
    network = build(backbone).eval()
    stride, levels, channels = READ[backbone]
    assert (network.stride, network.read) == (stride, levels)
    assert [layer.in_channels for layer in network.reduce] == channels
    with torch.inference_mode():
        images = torch.randn(1, 3, 49, 33)
        cams, refined = network.both_maps(images)
    rows, columns = -(-49 // stride), -(-33 // stride)
    assert cams.shape == (1, 3, rows, columns)
    assert refined.shape == (1, 4, rows, columns)
    assert 0 <= float(refined.min()) <= float(refined.max()) <= 1
    with torch.inference_mode():
        torch.testing.assert_close(network.activation_maps(images), refined[:, 1:])
        torch.testing.assert_close(network(images), cams.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_maps_are_spread_as_by_a_plain_loop_over_pairs_of_cells():
    maps, features = torch.rand(2, 3, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    found = correlate(maps, features)
    for b in range(2):
        cells = [(r, c) for r in range(3) for c in range(4)]
        for u in cells:
            total, weights = torch.zeros(3, dtype=torch.float64), 0.0
            for v in cells:
                x, y = features[b, :, u[0], u[1]], features[b, :, v[0], v[1]]
                alike = max(float(torch.dot(x, y) / (x.norm() * y.norm())), 0.0)
                total, weights = total + alike * maps[b, :, v[0], v[1]], weights + alike
            torch.testing.assert_close(found[b, :, u[0], u[1]], total / weights, rtol=1e-4, atol=1e-5)


def test_cells_in_chunks_give_the_same_maps(monkeypatch):
    maps, features = torch.rand(2, 4, 20, 30), torch.randn(2, 16, 20, 30)
    whole = correlate(maps, features)
    monkeypatch.setattr(module, "MOST", 2 * 600 * 37)  # 37 of 600 cells at a time
    torch.testing.assert_close(correlate(maps, features), whole, rtol=1e-6, atol=1e-6)
    assert correlate(maps, features.requires_grad_(True)).requires_grad


def test_what_is_spread_by_hand():
    """Three cells: class 1 is 4, 2, 1 and class 2 is -1, 2, 1: scaled by their maxima 1, .5, .25 and 0, 1, .5."""
    cams = torch.tensor([[[[4.0, 2.0, 1.0]], [[-1.0, 2.0, 1.0]]]])
    expected = torch.tensor([[[[0.0, 0.0, 0.5]], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.5]]]])
    torch.testing.assert_close(scaled_by_maximum(cams), expected, rtol=0, atol=3e-5)
    nothing = scaled_by_maximum(-cams.abs())
    assert nothing[0, :, 0].tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_refined_maps_teach_the_module_alone():
    network = build()
    network.both_maps(torch.randn(1, 3, 33, 33))[1].square().sum().backward()
    learning = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learning == {"reduce", "compare"}


def test_it_is_loaded_as_it_was_published(tmp_path):
    network = build(levels=(2, 3)).eval()
    spec = network.spec(("background", "a", "b", "c"))
    (tmp_path / "network.json").write_text(json.dumps(spec))
    checkpoint.save(tmp_path / "weights.pt", network.state_dict())
    again, images = load_network(tmp_path), torch.randn(1, 3, 40, 24)
    assert (spec["kind"], again.read, type(again)) == ("seam", (2, 3), type(network))
    assert torch.equal(again.activation_maps(images), network.activation_maps(images))


@pytest.mark.parametrize("levels", [(1, 4), (0, 1)])
def test_levels_that_there_are_not_are_refused(levels):
    with pytest.raises(
        ConfigError, match=f"levels {levels[0]}, {levels[1]} do not fit tiny, which has 3, of the strides"
    ) as e:
        build(levels=levels)
    assert "two of 1 to 3" in e.value.hint


def test_parallel_branches_are_refused():
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="hrnet_w18_small has parallel branches"):
        build("hrnet_w18_small")
