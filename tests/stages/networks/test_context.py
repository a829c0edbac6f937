"""stages/networks/context.py: the context against a plain loop and by hand, without masks a plain classifier."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from artifacts import checkpoint
from stages.networks import build_classifier, load_network
from stages.networks.config import ClassifierConfig
from stages.networks.context import ContextOptions, build_context_classifier, cell_shares
from stages.networks.loading import needs_masks

TINY = ClassifierConfig.model_validate({"preset": "tiny", "dropout": 0.0})


def network_with(classes=3, side=4, bias=False, config=TINY):
    """In eval mode, with confounders and layers that are all different."""
    network = build_context_classifier(config, classes, ContextOptions(side, bias), seed=0).eval()
    random = torch.Generator().manual_seed(1)
    network.confounders.copy_(torch.rand(classes, side, side, generator=random))
    for parameter in [*network.of_mask.parameters(), *network.of_confounder.parameters(), network.scores.weight]:
        torch.nn.init.normal_(parameter, generator=random)
    return network


def masks_of(count, height, width, classes=3):
    random = np.random.default_rng(0)
    drawn = random.choice([0, *range(1, classes + 1), 255], (count, height, width))
    return torch.from_numpy(drawn.astype(np.uint8))


def projected(layer, values):
    """W values + bias, number by number."""
    offsets = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    rows = zip(layer.weight.tolist(), offsets, strict=True)
    return [sum(w * v for w, v in zip(weights, values, strict=True)) + offset for weights, offset in rows]


@pytest.mark.parametrize("bias", [False, True])
def test_the_context_is_that_of_a_plain_loop(bias):
    network, masks = network_with(bias=bias), masks_of(3, 12, 20)
    n, side = 3, 4
    layers = (network.of_mask, network.of_confounder)
    confounders = [c.flatten().tolist() for c in network.confounders]
    found = network.context(masks)
    assert found.shape == (3, 1, side, side)
    for mask, context in zip(masks.numpy(), found, strict=True):
        seen = []
        for row in range(side):
            for column in range(side):
                cell = mask[row * 3 : row * 3 + 3, column * 5 : column * 5 + 5].ravel().tolist()
                seen.append(sum(label not in (0, 255) for label in cell) / len(cell))
        query = projected(layers[0], seen)
        keys = [projected(layers[1], confounder) for confounder in confounders]
        likeness = [sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(n) for key in keys]
        total = sum(math.exp(value) for value in likeness)
        for cell in range(side**2):
            expected = sum(
                math.exp(value) / total * c[cell] / n for value, c in zip(likeness, confounders, strict=True)
            )
            assert context.flatten()[cell].item() == pytest.approx(expected, rel=1e-4)


def test_the_context_by_hand():
    """One cell, half of it object: m = .5. (W_1 m)^T (W_2 c_i) / sqrt 2 = .5 (1 * 2 + 1 * 0) c_i / sqrt 2."""
    network = network_with(classes=2, side=1)
    with torch.no_grad():
        network.confounders.copy_(torch.tensor([0.8, 0.2]).view(2, 1, 1))
        network.of_mask.weight.copy_(torch.tensor([[1.0], [1.0]]))
        network.of_confounder.weight.copy_(torch.tensor([[2.0], [0.0]]))
    first, second = math.exp(0.8 / math.sqrt(2)), math.exp(0.2 / math.sqrt(2))
    expected = (first * 0.8 + second * 0.2) / (first + second) / 2
    masks = torch.tensor([[[1, 2, 0, 255]], [[1, 1, 0, 0]]])
    assert network.context(masks).flatten().tolist() == pytest.approx([expected] * 2)


def test_shares_by_hand():
    inside = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]]) > 0
    assert cell_shares(inside, 2).tolist() == [[[0.75, 0], [0, 1]]]
    assert cell_shares(inside[:, :1, :1], 2).tolist() == [[[1, 1], [1, 1]]]  # fewer pixels than cells


def test_masks_may_have_any_size():
    network, masks = network_with(), masks_of(2, 16, 24)
    larger = masks.repeat_interleave(3, 1).repeat_interleave(3, 2)
    torch.testing.assert_close(network.context(larger), network.context(masks.long()))


@pytest.mark.parametrize("backbone", ["tiny", "vgg16", "mobilenet_v2", "resnet50"])
def test_without_masks_it_is_the_plain_classifier(backbone):
    config = ClassifierConfig.model_validate({"backbone": backbone, "dropout": 0.0, "freeze_batch_norm": False})
    network = network_with(classes=2, config=config)
    plain = build_classifier(config, 2, seed=0).eval()
    own, joined = plain.state_dict(), network.state_dict()
    plain.load_state_dict(
        {
            name: joined[name][:, :-1] if joined[name].shape != value.shape else joined[name]
            for name, value in own.items()
        }
    )
    network, plain = network.double(), plain.double()
    images, masks = torch.randn(2, 3, 33, 50, dtype=torch.float64), masks_of(2, 33, 50, 2)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), plain(images))
        torch.testing.assert_close(network.activation_maps(images), plain.activation_maps(images))
        maps = network.activation_maps(images, masks)
        torch.testing.assert_close(maps.mean((2, 3)), network(images, masks))
        assert not torch.allclose(maps, network.activation_maps(images))
    assert maps.shape == (2, 2, -(-33 // network.stride), -(-50 // network.stride))


def test_the_context_is_one_of_the_features_that_are_weighted():
    """Without a further layer the maps change by the weight of the context times the context."""
    network, images, masks = network_with(), torch.randn(2, 3, 32, 32), masks_of(2, 32, 32)
    with torch.inference_mode():
        change = network.activation_maps(images, masks) - network.activation_maps(images)
        expected = network.scores.weight[:, -1].view(1, 3, 1, 1) * network.context(masks)  # 32 / 8 cells: its own grid
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-5)


def test_it_is_built_again_from_its_artifact(tmp_path):
    network = network_with(side=5, bias=True)
    (tmp_path / "network.json").write_text(json.dumps(network.spec(("background", "a", "b", "c"))))
    checkpoint.save(tmp_path / "weights.pt", network.state_dict())
    again, images, masks = load_network(tmp_path), torch.randn(1, 3, 20, 20), masks_of(1, 20, 20)
    assert torch.equal(again(images, masks), network(images, masks))
    assert needs_masks(tmp_path)
    (tmp_path / "network.json").write_text(json.dumps(build_classifier(TINY, 1, 0).spec(("background", "a"))))
    assert not needs_masks(tmp_path)
