"""Group-WSSS (Li et al., AAAI 2021): images with the same labels show each other what their classes look like.

A classifier finds of an object what tells classes apart. Where several images of a class exchange what their maps have
in common, and the cells that are attended most are weakened again and again, more of the objects is found.

    semiseg train-classifier --method group-wsss --set network=vgg16-sec --set crop_size=256 --set snapshots=15
    semiseg seeds --set cam.scales=[0.6] --set cam.flip=false --set cam.snapshots=all --set labels.mode=saliency
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.parts.perturbations import image_generators
from stages.methods.settings.group_wsss import GroupWsssSettings
from stages.networks.co_attention import Exchange, GroupNetwork, build_group_network


class GroupWsss(Method):
    """L = 1/2 mean_i [weight BCE(GAP(x_i^0), y_i) + BCE(GAP(x_i^T), y_i)]
    x_i^(t+1) = D(GRU(x_i^t, W [m_ij^t over j != i]))

    x_i^0: the class maps of image i of a group, (K, h, w); T: `rounds`; m_ij: g(a) a, a = softmax(Q x_i . K x_j) x_j,
    for each cell of i the cells of j that are alike, g = sigmoid(G a); D: graph dropout, x (1 + s) / 2; s: 0 at cells
    whose mean over the classes (`attention`) reaches `drop_threshold` of the highest, else 1, with probability
    `drop_rate`, else the sigmoid of that mean; y: the image-level labels.
    """

    def __init__(self, settings: GroupWsssSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        how = settings.model_dump(include={"group", "rounds", "drop_rate", "drop_threshold", "attention"})
        exchange = Exchange(**how, side=setup.crop_size)
        network = build_group_network(setup.network, setup.num_classes - 1, exchange, setup.seed)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: GroupWsssSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        entries = sources.entries(sources.tagged, None)
        return {"labelled": Stream(entries, batch_size, group=settings.group, alike=settings.alike)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, network = batch["labelled"], self.predictor
        before = network.nodes(labelled.image)
        dropped = self._drawn(len(labelled), step).to(before.device, non_blocking=True)
        nodes, drawn = (part.unflatten(0, (-1, labelled.group)).unbind(1) for part in (before, dropped))
        after = torch.stack(network.exchange(nodes, drawn), 1).flatten(0, 1)  # group after group again
        # dropout changes no sign, and drops the most attended cell where its attention is positive
        self.observe(dropped=((network.attention(after).amax((1, 2, 3)) > 0) * dropped[:, -1]).mean())
        terms = {"before": (self.settings.weight, before), "after": (1.0, after)}
        return {
            name: weight / 2 * multilabel_soft_margin(maps.mean((2, 3)), labelled.tags)
            for name, (weight, maps) in terms.items()
        }

    def _drawn(self, count: int, step: int) -> Tensor:
        """1 where graph dropout drops cells, else 0: (count, rounds)."""
        randoms = image_generators(count, self.setup.seed, "graph dropout", step)
        drawn = [random.random(self.settings.rounds) < self.settings.drop_rate for random in randoms]
        return torch.from_numpy(np.stack(drawn).astype(np.float32))

    @property
    def predictor(self) -> GroupNetwork:
        return cast(GroupNetwork, self.networks["classifier"])
