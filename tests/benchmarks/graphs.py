"""The graph networks of wsgcn and label-noise, each trained for one image, against dense matrices and autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from stages.localization.cell_graphs import WalkGraph, joint
from stages.localization.superpixel_graph import SuperpixelGraph
from stages.localization.superpixels import neighbours, superpixels_of
from stages.refiners import label_noise, wsgcn
from stages.refiners.settings.label_noise import LabelNoiseSettings
from stages.refiners.settings.wsgcn import WsgcnSettings
from tests.benchmarks.measure import Result, in_turn

CPU = torch.device("cpu")
CLASSES = 6
# (cells, doublings, training steps, repeats)
CELLS = {"tiny": ((6, 9), 2, 2, 1), "quick": ((30, 40), 5, 100, 3), "full": ((38, 50), 8, 150, 1)}
# (pixels, superpixels, training steps, repeats)
SUPERPIXELS = {"tiny": ((24, 32), 20, 2, 1), "quick": ((120, 160), 400, 30, 3), "full": ((120, 160), 400, 50, 3)}


def cell_graph(scale: str, folder: Path) -> Result:
    """wsgcn's training of one image, the graph included; one core, no dropout."""
    size, doublings, steps, repeats = CELLS[scale]
    rng, settings = np.random.default_rng(0), WsgcnSettings(steps=steps, doublings=doublings, dropout=0)
    weights = wsgcn.walk_matrix(ndimage.gaussian_filter(rng.random(size) ** 8, 0.7), settings.radius, settings.beta)
    smooth = joint([wsgcn.laplacian(rng.integers(0, 256, (4 * size[0], 4 * size[1], 3), np.uint8), size)], CPU)
    zones = np.stack([ndimage.gaussian_filter(rng.standard_normal(size), min(size) / 8) for _ in range(3)])
    known = zones.max(0) > np.quantile(zones.max(0), 0.7)
    labels = torch.from_numpy(np.where(known, zones.argmax(0), 255).ravel())
    mixed = rng.standard_normal((160, 3)) @ zones.reshape(3, -1) * 8 + rng.standard_normal((160, labels.numel())) / 10
    nodes = torch.from_numpy(mixed).float()

    def draw() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(0)]

    def ours() -> Tensor:
        graph = WalkGraph(weights, doublings, CPU)
        return wsgcn.trained(nodes[None], labels[None], CLASSES, [graph], smooth, draw(), settings)[0]

    def dense() -> Tensor:
        adjacency = dense_graph(torch.from_numpy(weights.toarray()).float(), doublings)
        w1, b1, w2, b2 = wsgcn.initial_parameters((len(nodes), settings.hidden, CLASSES), draw(), CPU)
        parameters = [p[0].requires_grad_() for p in (w1, b1, w2, b2)]
        optimizer = torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        rough = smooth.to_dense()
        for _ in range(steps):
            optimizer.zero_grad()
            plain_loss(dense_logits(nodes, adjacency, parameters).log_softmax(0), labels, rough, settings).backward()
            optimizer.step()
        return dense_logits(nodes, adjacency, parameters).softmax(0).detach()

    baseline, timing, expected, found = in_turn(dense, ours, repeats)
    same = float((expected.argmax(0) == found.argmax(0)).float().mean())
    return Result(
        "cell-graph",
        "wsgcn for one image on one core; baseline: the graph as a dense matrix, autograd",
        f"{size[0]} x {size[1]} cells, a walk of {2**doublings} steps, {steps} training steps without dropout",
        baseline,
        timing,
        f"the class of each cell after the training, {100 * same:.2f} % equal (wanted: 99.5)",
        same >= 0.995,
        figures={"largest_difference": float((expected - found).abs().max())},
    )


def dense_graph(weights: Tensor, doublings: int) -> Tensor:
    walk = weights / weights.sum(0)
    for _ in range(doublings):
        walk = walk @ walk
    graph = (walk + walk.T) / 2 + torch.eye(len(walk))
    return graph / graph.sum(1, keepdim=True)


def dense_logits(nodes: Tensor, adjacency: Tensor, parameters: list[Tensor]) -> Tensor:
    w1, b1, w2, b2 = parameters
    return w2 @ (w1 @ (nodes @ adjacency.T) + b1).relu() @ adjacency.T + b2


def plain_loss(logarithms: Tensor, labels: Tensor, rough: Tensor, settings: WsgcnSettings) -> Tensor:
    """The four terms; foreground, background and unknown cells are there."""
    foreground, unknown = (labels > 0) & (labels < 255), labels == 255
    right = F.nll_loss(logarithms.T[foreground], labels[foreground]) - logarithms[0, labels == 0].mean()
    entropy = -(logarithms.exp() * logarithms)[:, unknown].mean()
    smoothness = torch.trace(logarithms @ rough @ logarithms.T) / labels.numel()
    return right + settings.entropy_weight * entropy + settings.smoothness_weight * smoothness


def superpixel_attention(scale: str, folder: Path) -> Result:
    """label-noise's training of one image; one core, no dropout."""
    size, count, steps, repeats = SUPERPIXELS[scale]
    rng, settings = np.random.default_rng(0), LabelNoiseSettings(steps=steps, dropout=0)
    image = ndimage.gaussian_filter(rng.integers(0, 256, (*size, 3)).astype(float), (3, 3, 0)).astype(np.uint8)
    regions = superpixels_of(image, count, 20.0)
    number = int(regions.max()) + 1
    linked = neighbours(regions, number) | np.eye(number, dtype=bool)
    linked |= rng.random((number, number)) < settings.similar / number
    nodes, labels = rng.standard_normal((number, 107)).astype(np.float32), rng.integers(0, CLASSES, number)
    graph = SuperpixelGraph(regions, nodes, linked, labels, rng.random(number) < 0.5)

    def ours() -> np.ndarray:
        return label_noise.trained(graph, CLASSES, settings, torch.Generator().manual_seed(0), CPU)

    def dense() -> np.ndarray:
        draw = torch.Generator().manual_seed(0)
        network = label_noise.GraphAttention(nodes.shape[1], settings.heads, settings.hidden, CLASSES, draw)
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        clean, right = torch.from_numpy(graph.clean), torch.from_numpy(labels[graph.clean])
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(dense_attention(network, graph)[clean], right).backward()
            optimizer.step()
        return dense_attention(network, graph).softmax(1).detach().numpy()

    baseline, timing, expected, found = in_turn(dense, ours, repeats)
    difference = float(np.abs(expected - found).max())
    return Result(
        "superpixel-attention",
        "label-noise for one image on one core; baseline: attention as a masked dense matrix",
        f"{number} superpixels with {linked.sum() / number:.1f} links, {steps} training steps without dropout",
        baseline,
        timing,
        f"the probabilities after the training, largest difference {difference:.1e} (wanted: 0.001)",
        difference <= 1e-3,
        figures={"largest_difference": difference},
    )


def dense_attention(network: label_noise.GraphAttention, graph: SuperpixelGraph) -> Tensor:
    found, unlinked = torch.from_numpy(graph.nodes), ~torch.from_numpy(graph.linked)
    for layer, activation in ((network.first, F.elu), (network.second, lambda values: values)):
        values = found @ layer.weight
        strength = F.leaky_relu(values @ layer.toward + (values @ layer.of).mT, label_noise.SLOPE)
        attention = strength.masked_fill(unlinked, -torch.inf).softmax(2)
        found = activation((attention @ values).transpose(0, 1).flatten(1) + layer.bias)
    return found
