"""The plain multi-label classifier whose class-activation maps localise (Zhou et al., CVPR 2016).

Its training is that of SEC, PSA, IRNet and their descendants: multi-label soft margin on the image-level labels.

    semiseg train-classifier --set network=resnet50
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from stages.engine.losses import multilabel_soft_margin
from stages.engine.method import Batch, Method, Setup, Sources
from stages.engine.streams import Stream
from stages.methods.settings.cam import CamSettings
from stages.networks import Classifier
from stages.networks.freezing import encode


class Cam(Method):
    """L = BCE(c(x), y),  c(x) = GAP(A(x))

    y: the image-level labels; A: the class-activation maps, (B, K, h, w); GAP: their mean over the image.
    """

    def __init__(self, settings: CamSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.networks = nn.ModuleDict({"classifier": setup.classifier()})

    @classmethod
    def streams(cls, settings: CamSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return {"labelled": Stream(sources.entries(sources.tagged, None), batch_size)}

    def losses(self, batch: Mapping[str, Batch], step: int) -> dict[str, Tensor]:
        labelled, classifier = batch["labelled"], self.predictor
        maps = encode(classifier.backbone, labelled.image, labelled.encoded)
        return {"soft_margin": multilabel_soft_margin(classifier.logits_of(maps["high"]), labelled.tags)}

    @property
    def predictor(self) -> Classifier:
        return cast(Classifier, self.networks["classifier"])
