"""Discriminative region suppression (Kim et al., AAAI 2021): a classifier that sees all of an object.

Wherever the network responds, its peaks are cut down to a share of their height, so that what is beside them counts.

    semiseg train-classifier --method drs --set network=vgg16-sec
    semiseg seeds --set cam.merge=maximum --set cam.flip=false
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.settings.drs import DrsSettings
from stages.networks.suppression import Suppressed, SuppressedClassifier, build_suppressed


class Drs(Method):
    """L = BCE(c(x), y),  behind the ReLUs of c:  F <- min(F, K max F)

    F: a channel of an image, (h, w); K: sigmoid(W GAP(F)), W learned, of each channel and image, or the constant
    `delta`; which ReLUs: `places`; y: the image-level labels.
    """

    def __init__(self, settings: DrsSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        suppressed: Suppressed = "learnable" if settings.delta is None else settings.delta
        network = build_suppressed(setup.network, setup.num_classes - 1, setup.seed, suppressed, places=settings.places)
        self.networks = nn.ModuleDict({"classifier": network})

    @classmethod
    def streams(cls, settings: DrsSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        return {"soft_margin": multilabel_soft_margin(self.predictor(labelled.image), labelled.tags)}

    @property
    def predictor(self) -> SuppressedClassifier:
        return cast(SuppressedClassifier, self.networks["classifier"])
