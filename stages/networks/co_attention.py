"""A classifier that looks at images in groups: their class maps exchange what they have in common (Group-WSSS).

    network = build_group_network(ClassifierConfig.model_validate("vgg16-sec"), 20, Exchange(), seed=0)
    nodes = network.nodes(normalise(images))        # (B, 20, h, w), the class maps of single images
    first, *others = network.exchange([nodes[:2], nodes[2:4], nodes[4:]])      # two groups of three images
    maps = network.eval().activation_maps(normalise(images), partners)         # (B, 20, h, w)

The images of a group are the nodes of a graph. In each round every node gets a message of every other one, made by
co-attention, and a gated recurrent unit updates it. Memory grows with the number of cells, not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.blocks import initialise_scores
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.deeper_classifier import DeeperClassifier, build_deeper
from stages.networks.registry import network_kind, network_spec

ALIGNED = 8  # the fast kernels of attention want a multiple of so many channels


@dataclass(frozen=True)
class Exchange:
    """How the images of a group exchange messages.

    Attributes:
        group: images in a group.
        rounds: of messages.
        drop_rate: probability that a node's most attended cells are weakened in a round, and not all by importance.
        drop_threshold: the share of a node's highest attention from which on a cell is among those.
        attention: what a cell's attention is the mean of over the classes: its maps, or what is positive of them.
        side: of the squares that partners are resized to where maps are made, pixels.
    """

    group: int = 3
    rounds: int = 3
    drop_rate: float = 0.8
    drop_threshold: float = 0.7
    attention: Literal["maps", "positive"] = "maps"
    side: int = 256


@network_kind("group-wsss")
class GroupNetwork(DeeperClassifier):
    """A `DeeperClassifier` whose class maps are the nodes of a graph (Li et al., AAAI 2021).

    Attributes:
        partners: how many images are looked at together with one: those of a group, without it.
        partner_side: the squares that partners are resized to where maps are made, pixels.
    """

    def __init__(self, config: BackboneConfig, num_foreground: int, how: Exchange) -> None:
        super().__init__(config, num_foreground)
        self.how, self.partners, self.partner_side = how, how.group - 1, how.side
        count, compared = num_foreground, max(num_foreground // 2, 1)
        self.query, self.key = nn.Conv2d(count, compared, 1), nn.Conv2d(count, compared, 1)
        self.gate = nn.Conv2d(count, 1, 1, bias=False)
        self.fusion = nn.Conv2d(count * self.partners, count, 3, padding=1)
        self.gates = nn.Conv2d(2 * count, 2 * count, 1)  # of the recurrent unit: update, reset
        self.candidate = nn.Conv2d(2 * count, count, 1)
        for layer in (self.query, self.key, self.gate, self.fusion, self.gates, self.candidate):
            initialise_scores(layer)

    def nodes(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> their class maps alone, (B, K, h, w), before any ReLU."""
        return self.scores(self.features(images))

    def exchange(self, nodes: Sequence[Tensor], dropped: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The nodes of groups after all rounds, in the precision of the weights.

        Args:
            nodes: the first image of each of B groups, (B, K, h, w), the second ones, ...; their sizes may differ. Only
                first ones: each stands for its partners too.
            dropped: as `nodes`, (B, rounds): 1 where the most attended cells are dropped, 0 where all cells are
                weighted by importance. None: the expectation.
        """
        found = [node.to(self.fusion.weight.dtype) for node in nodes]
        if dropped is None:
            dropped = [node.new_full((len(node), self.how.rounds), self.how.drop_rate) for node in found]
        with torch.autocast(found[0].device.type, enabled=False):
            for turn in range(self.how.rounds):
                updated = [self._updated(node, self._message(found, place)) for place, node in enumerate(found)]
                found = [self._dropped(node, part[:, turn]) for node, part in zip(updated, dropped, strict=True)]
        return found

    def _message(self, nodes: Sequence[Tensor], place: int) -> Tensor:
        """What one node gets of the others, (B, K, h, w)."""
        others = [other for other in range(len(nodes)) if other != place] or [place] * self.partners
        return self.fusion(torch.cat([self._attended(nodes[place], nodes[other]) for other in others], 1))

    def _attended(self, node: Tensor, other: Tensor) -> Tensor:
        """At each cell of `node` the mean of `other`, weighted by how alike its cells are, times a gate."""
        found = co_attention(self.query(node), self.key(other), other)
        return found * self.gate(found).sigmoid()

    def _updated(self, node: Tensor, message: Tensor) -> Tensor:
        """The gated recurrent unit: (1 - z) node + z tanh(W [message; r node])."""
        update, reset = self.gates(torch.cat([message, node], 1)).sigmoid().chunk(2, 1)
        proposed = self.candidate(torch.cat([message, node * reset], 1)).tanh()
        return node * (1 - update) + proposed * update

    def _dropped(self, node: Tensor, dropped: Tensor) -> Tensor:
        """Graph dropout; `dropped`: (B,), 0 or 1, between them the expectation."""
        return graph_dropout(node, self.attention(node), dropped[:, None, None, None], self.how.drop_threshold)

    def attention(self, nodes: Tensor) -> Tensor:
        """Of each cell, (B, 1, h, w), as graph dropout has it."""
        return (nodes.relu() if self.how.attention == "positive" else nodes).mean(1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K), each image alone; index k is class id k + 1."""
        return self.activation_maps(images).mean((2, 3))

    def activation_maps(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        """The mean of the maps before and after the exchange, (B, K, h, w).

        images: normalised, (B, 3, H, W). partners: the nodes of each image's partners, (B, partners, K, h', w'); None:
        an image stands for its partners.
        """
        before = self.nodes(images)
        others = () if partners is None else partners.unbind(1)
        return (before + self.exchange([before, *others])[0]) / 2

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names, **asdict(self.how))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> GroupNetwork:
        config = ClassifierConfig.model_validate(spec["network"])
        return cls(config, spec["num_classes"] - 1, Exchange(**spec["options"]))


def co_attention(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    """softmax_v(query_u . key_v) values_v, summed over the cells v: (B, C, h, w), at each cell u of `query`.

    Args:
        query: (B, d, h, w); key: (B, d, h', w'); values: (B, C, h', w').
    """
    width = -(-max(query.shape[1], values.shape[1]) // ALIGNED) * ALIGNED  # further channels of 0 change nothing
    rows = [F.pad(part.flatten(2).transpose(1, 2), (0, width - part.shape[1])) for part in (query, key, values)]
    q, k, v = (part[:, None].contiguous() for part in rows)
    found = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, :, : values.shape[1]]
    return found.transpose(1, 2).unflatten(2, query.shape[2:])


def graph_dropout(nodes: Tensor, attention: Tensor, dropped: Tensor | float, threshold: float) -> Tensor:
    """x (1 + s) / 2, x: nodes (B, K, h, w); s = `dropped` 1[m < threshold max m] + (1 - `dropped`) sigmoid(m).

    m: the attention, (B, 1, h, w); its maximum is over the cells of an image. Where that is negative, as it may be of
    maps before a ReLU, all cells are below.
    """
    kept = (attention < threshold * attention.amax((2, 3), keepdim=True)).to(nodes.dtype)
    return nodes * (1 + dropped * kept + (1 - dropped) * attention.sigmoid()) / 2


def build_group_network(config: BackboneConfig, num_foreground: int, how: Exchange, seed: int) -> GroupNetwork:
    """As `build_classifier`."""
    return build_deeper(lambda: GroupNetwork(config, num_foreground, how), config, seed)
