"""stages/networks/co_attention.py: messages, recurrent unit and graph dropout by plain loops; groups of any sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.networks.co_attention import Exchange, build_group_network, co_attention, graph_dropout
from stages.networks.config import ClassifierConfig


def network_of(group=3, rounds=2, num_foreground=4, backbone="tiny", attention="maps"):
    """In float64, with random layers."""
    config = ClassifierConfig.model_validate({"backbone": backbone, "weights": "none", "freeze_batch_norm": False})
    network = (
        build_group_network(config, num_foreground, Exchange(group, rounds, attention=attention), seed=0)
        .double()
        .eval()
    )
    random = torch.Generator().manual_seed(0)
    exchange = ("query", "key", "gate", "fusion", "gates", "candidate", "scores")
    for name, parameter in network.named_parameters():
        if name.split(".")[0] in exchange:
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) * 0.5)
    return network


def random_nodes(*sizes, batch=1, channels=4):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, *size, generator=random, dtype=torch.float64) for size in sizes]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pixelwise(layer, x):
    """A 1x1 convolution, cell by cell: (C, h, w) -> (D, h, w)."""
    weight = layer.weight.detach().numpy()[:, :, 0, 0]
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()[:, None, None]
    return np.einsum("dc,chw->dhw", weight, x) + bias


def message_by_loops(network, node, other):
    query, key = pixelwise(network.query, node), pixelwise(network.key, other)
    found = np.zeros_like(node)
    for y, x in np.ndindex(*node.shape[1:]):
        weights = np.exp(np.einsum("d,dhw->hw", query[:, y, x], key))
        found[:, y, x] = (other * weights).sum((1, 2)) / weights.sum()
    return found * sigmoid(pixelwise(network.gate, found))


def exchanged_by_loops(network, nodes, dropped):
    """nodes: a list of (C, h, w); dropped: of each node one number a round."""
    for turn in range(network.how.rounds):
        after = []
        for place, node in enumerate(nodes):
            others = [message_by_loops(network, node, other) for number, other in enumerate(nodes) if number != place]
            joined = torch.from_numpy(np.concatenate(others))[None]
            message = torch.nn.functional.conv2d(joined, network.fusion.weight, network.fusion.bias, padding=1)
            message = message[0].detach().numpy()
            both = sigmoid(pixelwise(network.gates, np.concatenate([message, node])))
            update, reset = both[: len(node)], both[len(node) :]
            proposed = np.tanh(pixelwise(network.candidate, np.concatenate([message, node * reset])))
            state = (1 - update) * node + update * proposed
            attention = state.mean(0)
            below = attention < network.how.drop_threshold * attention.max()
            share = dropped[place][turn]
            after.append(state * (1 + share * below + (1 - share) * sigmoid(attention)) / 2)
        nodes = after
    return nodes


@pytest.mark.parametrize("sizes", [((3, 4), (3, 4), (3, 4)), ((3, 4), (2, 2), (1, 5))])
def test_the_exchange_is_that_of_plain_loops(sizes):
    network, nodes = network_of(), random_nodes(*sizes)
    dropped = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]])]
    expected = exchanged_by_loops(network, [node[0].numpy() for node in nodes], [part[0].tolist() for part in dropped])
    with torch.no_grad():
        found = network.exchange(nodes, dropped)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0].numpy(), other, rtol=1e-9)


def test_co_attention_by_hand():
    """Two cells to choose from: one as alike as the other, then one e times as alike."""
    values = torch.tensor([[[[2.0, 6.0]]]])
    query = torch.tensor([[[[0.0, 1.0]]]])
    found = co_attention(query, torch.tensor([[[[0.0, 1.0]]]]), values)
    assert found.shape == (1, 1, 1, 2)
    assert found.flatten().tolist() == pytest.approx([4.0, (2 + 6 * math.e) / (1 + math.e)])


def test_graph_dropout_by_hand():
    """Means 1, .7, .6 of two classes; at .7 of the highest and above, cells are dropped: half of x is left."""
    nodes = torch.tensor([[[[1.0, 0.7, 1.2]], [[1.0, 0.7, 0.0]]]], dtype=torch.float64)
    attention = nodes.mean(1, keepdim=True)
    kept = graph_dropout(nodes, attention, 1.0, 0.7) / nodes.clamp(min=1e-9)
    assert kept[0, 0, 0].tolist() == pytest.approx([0.5, 0.5, 1.0])
    weighed = graph_dropout(nodes, attention, 0.0, 0.7)[0, 0, 0].tolist()
    assert weighed == pytest.approx([x * (1 + 1 / (1 + math.exp(-m))) / 2 for x, m in ((1, 1), (0.7, 0.7), (1.2, 0.6))])
    torch.testing.assert_close(graph_dropout(-nodes, -attention, 1.0, 0.7), -nodes)  # its highest, -.6, is below -.42


def test_the_attention_is_that_of_maps_or_of_what_is_positive_of_them():
    nodes = torch.tensor([3.0, -5.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None]
    assert network_of().attention(nodes).item() == -0.5
    assert network_of(attention="positive").attention(nodes).item() == 0.75


def test_without_draws_graph_dropout_is_expected():
    network, nodes = network_of(rounds=1), random_nodes((3, 4), (3, 4), (3, 4))
    with torch.no_grad():
        drawn = {share: network.exchange(nodes, [torch.full((1, 1), share)] * 3) for share in (0.0, 1.0)}
        for place, found in enumerate(network.exchange(nodes)):
            torch.testing.assert_close(found, 0.8 * drawn[1.0][place] + 0.2 * drawn[0.0][place])


def test_groups_do_not_mix_and_an_image_alone_stands_for_its_partners():
    network = network_of()
    nodes = random_nodes((3, 4), (3, 4), (3, 4), batch=2)
    with torch.no_grad():
        both = network.exchange(nodes)
        for group in range(2):
            for one, joint in zip(network.exchange([node[group : group + 1] for node in nodes]), both, strict=True):
                torch.testing.assert_close(one, joint[group : group + 1])
        (alone,) = network.exchange(nodes[:1])
        torch.testing.assert_close(alone, network.exchange([nodes[0]] * 3)[0])


def test_maps_are_the_mean_of_both_ends_and_logits_their_mean():
    network = network_of()
    images = torch.randn(2, 3, 33, 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        before = network.nodes(images)
        partners = torch.stack(random_nodes((2, 3), (2, 3), batch=2), 1)
        expected = (before + network.exchange([before, *partners.unbind(1)])[0]) / 2
        torch.testing.assert_close(network.activation_maps(images, partners), expected)
        alone = network.activation_maps(images)
        torch.testing.assert_close(network(images), alone.mean((2, 3)))
        assert (alone - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("backbone", "width"), [("vgg16", 512), ("mobilenet_v2", 512), ("tiny", 96), ("resnet50", 512)]
)
def test_it_fits_any_backbone(backbone, width):
    network = network_of(num_foreground=1, backbone=backbone).float()
    assert network.scores.in_channels == width
    with torch.inference_mode():
        assert network.activation_maps(torch.zeros(1, 3, 33, 17)).shape[2:] == (
            -(-33 // network.stride),
            -(-17 // network.stride),
        )
