"""FickleNet (Lee et al., CVPR 2019): a classifier that is never shown all of an object learns all of its parts.

In the window around each cell most hidden units are dropped at random, in training and when maps are made. A class is
recognised by other units each time; the maps of many draws together cover more of an object than one map.

    semiseg train-classifier --method ficklenet --set network=vgg16-sec --set crop_size=321
    semiseg seeds --set cam.scales=[1] --set cam.flip=false --set labels.threshold=0.35
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from torch import Tensor, nn

from stages.engine.device import sent
from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.parts.perturbations import image_generators
from stages.methods.settings.ficklenet import FickleNetSettings
from stages.networks.hidden_units import FickleNetwork, Selection, build_fickle_network


class FickleNet(Method):
    """L = BCE(S, y),  S_k = mean_u sum_d m_ud W_kd x_(u + d)

    x: features; d: offsets of a window around cell u; m_ud: 1 with probability 1 - `rate`, drawn for each image and
    step, and always for d = 0; W: a linear layer on windows; y: the image-level labels.
    """

    def __init__(self, settings: FickleNetSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        selection = Selection(**settings.model_dump(exclude={"name"}), seed=setup.seed)
        network = build_fickle_network(setup.network, setup.num_classes - 1, selection, setup.seed)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: FickleNetSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, network = batch["labelled"], self.predictor
        features = network.features(labelled.image)
        size = features.shape[2:]
        shape = (network.selection.rows, size[0] * size[1])
        randoms = image_generators(len(labelled), self.setup.seed, "hidden units", step)
        uniform = sent(np.stack([random.random(shape, np.float32) for random in randoms]), features.device)
        kept = network.kept(uniform, size)
        return {"soft_margin": multilabel_soft_margin(network.logits(features, kept), labelled.tags)}

    @property
    def predictor(self) -> FickleNetwork:
        return cast(FickleNetwork, self.networks["classifier"])
