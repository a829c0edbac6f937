"""Correction of label noise (Yi et al., TIP 2021): in a graph of superpixels, clean labels correct the rest.

Score maps give noisy labels. A segmenter that learned from the images with masks decides which of them are clean:
those with a low cross-entropy. A graph attention network, trained for each image, learns the clean labels and predicts
a label for every superpixel of the image.

    semiseg train --method supervised --name clean
    semiseg refine --method label-noise --segmenter clean
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.engine.randomness import derive_seed
from stages.engine.to_host import Transfer, received
from stages.localization.links import Links
from stages.localization.superpixel_graph import Features, GraphRules, SuperpixelGraph, with_graph
from stages.networks import Segmenter, normalise
from stages.parallel.in_order import results_in_order
from stages.refiners.node_scores import against_background
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.label_noise import LabelNoiseSettings

SLOPE = 0.2  # of the leaky ReLU in attention (Veličković et al.)


class LabelNoise(Refiner):
    """L = mean over the clean superpixels i of -log softmax(f_i)_y
    f_i = b + sum_j a_ij W h_j,  a_ij = softmax over the j linked to i of LeakyReLU(u' W h_i + v' W h_j)

    h: the features of superpixels; two such layers, ELU between them: of 8 heads next to each other, and of one. Clean
    is a superpixel of one label y whose cross-entropy under the given segmenter is low.
    """

    def __init__(self, settings: LabelNoiseSettings, network: None, means: Means, segmenter: Segmenter) -> None:
        super().__init__(settings, network, means)
        self.segmenter = segmenter.to(means.device).eval()

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The segmenter and the graph networks work on the device; graphs are made in processes."""
        settings, stride, backbone = self.settings, self.segmenter.stride, self.segmenter.backbone
        rules = GraphRules(**{field.name: getattr(settings, field.name) for field in fields(GraphRules)})
        tasks = (
            (known, Features(features, backbone.stride, backbone.patches), logits, stride, rules)
            for batch, found in received((batch, Transfer(**self.seen(batch))) for batch in batches)
            for known, features, logits in zip(batch, found["features"], found["logits"], strict=True)
        )
        for known, graph in results_in_order(with_graph, tasks, self.means.workers):
            probabilities = self.corrected(known.image_id, graph)[graph.regions].transpose(2, 0, 1)  # (K, H, W)
            yield against_background(known.scores, probabilities[known.scores.classes], probabilities[0], stride=1)

    @torch.no_grad()
    def seen(self, batch: Sequence[Known]) -> dict[str, Tensor]:
        """The segmenter's features (B, F, h, w) and logits (B, K, h', w') of images of one size."""
        dtype, device = self.means.dtype, self.means.device
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = self.segmenter.trunk(normalise(self.means.images(batch)))
            logits = self.segmenter.head(features)
        return {"features": features["high"].float(), "logits": logits.float()}

    def corrected(self, image_id: str, graph: SuperpixelGraph) -> NDArray[np.float32]:
        """Probabilities (N, K) of the superpixels; their noisy labels if none of them is clean."""
        num_classes = self.segmenter.num_classes
        if not graph.clean.any():
            return np.eye(num_classes, dtype=np.float32)[graph.labels]
        draw = torch.Generator().manual_seed(derive_seed(self.settings.seed, "label-noise", image_id))
        return trained(graph, num_classes, self.settings, draw, self.means.device)


def trained(
    graph: SuperpixelGraph, num_classes: int, settings: LabelNoiseSettings, draw: torch.Generator, device: torch.device
) -> NDArray[np.float32]:
    """Probabilities (N, K) of all superpixels, from a network that learned the clean ones."""
    nodes, links = torch.from_numpy(graph.nodes).to(device), Links(graph.linked, device)
    clean = torch.from_numpy(np.flatnonzero(graph.clean)).to(device)
    labels = torch.from_numpy(graph.labels).to(device)[clean]
    network = GraphAttention(nodes.shape[1], settings.heads, settings.hidden, num_classes, draw).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

    def dropped(values: Tensor) -> Tensor:
        kept = torch.rand(values.shape, generator=draw).to(device) >= settings.dropout
        return values * (kept / (1 - settings.dropout))

    with torch.enable_grad():
        for _ in range(settings.steps):
            loss = F.cross_entropy(network(nodes, links, dropped)[clean], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return network(nodes, links).softmax(1).cpu().numpy()


class GraphAttention(nn.Module):
    """Two layers of graph attention, ELU between them: several heads next to each other, then one."""

    def __init__(self, features: int, heads: int, hidden: int, num_classes: int, draw: torch.Generator) -> None:
        super().__init__()
        self.first = AttentionLayer(features, heads, hidden, draw)
        self.second = AttentionLayer(heads * hidden, 1, num_classes, draw)

    def forward(self, nodes: Tensor, links: Links, dropped: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """nodes: (N, F). Returns logits (N, K)."""
        hidden = F.elu(self.first(dropped(nodes), links, dropped))
        found: Tensor = self.second(dropped(hidden), links, dropped)
        return found


class AttentionLayer(nn.Module):
    """Each node becomes a mean of the nodes that it is linked to, by attention (Veličković et al., ICLR 2018)."""

    def __init__(self, features: int, heads: int, channels: int, draw: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, features, channels))
        self.toward = nn.Parameter(torch.empty(heads, channels, 1))
        self.of = nn.Parameter(torch.empty(heads, channels, 1))
        self.bias = nn.Parameter(torch.zeros(heads * channels))
        limits = ((features + channels, self.weight), (channels + 1, self.toward), (channels + 1, self.of))
        for together, values in limits:  # Glorot & Bengio, 2010, of each head
            nn.init.uniform_(values, -((6 / together) ** 0.5), (6 / together) ** 0.5, generator=draw)

    def forward(self, nodes: Tensor, links: Links, dropped: Callable[[Tensor], Tensor]) -> Tensor:
        values = nodes @ self.weight  # (heads, N, channels)
        toward, of_linked = (values @ self.toward).mT, links.of_each((values @ self.of)[..., 0])
        strength = F.leaky_relu(toward + of_linked, SLOPE)  # (heads, L, N)
        attention = strength.masked_fill(~links.linked, -torch.inf).softmax(1)
        return links.means(dropped(attention), values).transpose(0, 1).flatten(1) + self.bias
