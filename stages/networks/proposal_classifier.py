"""The classifier of proposals of LIID (Liu et al., TPAMI 2020): means of features over parts of an image, one layer.

network = build_proposal_classifier(ClassifierConfig.model_validate("resnet50"), num_classes=21, seed=0)
features = network(normalise(images))             # (B, C, ceil(H / stride), ceil(W / stride))
logits = network.classify(vectors)                # of means (..., C) of them: (..., 21), background first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.networks.backbones import build_classifier_backbone
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.freezing import freeze
from stages.networks.registry import network_kind, network_spec
from stages.networks.segmenter import seeded
from stages.networks.weights import load_backbone


@network_kind("proposal-classifier")
class ProposalClassifier(nn.Module):
    """A backbone, and a linear layer from the mean of its last features over a proposal to all classes.

    Attributes:
        boxes: whether means run over the bounding boxes of proposals (the paper), not over their pixels.
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from given weights.
    """

    def __init__(self, config: BackboneConfig, num_classes: int, boxes: bool = False) -> None:
        super().__init__()
        self.config, self.num_classes, self.boxes = config, num_classes, boxes
        self.backbone = build_classifier_backbone(config.backbone)
        self.stride = self.backbone.stride
        self.scores = nn.Linear(self.backbone.high_channels, num_classes)
        nn.init.xavier_uniform_(self.scores.weight)  # authors' code
        nn.init.zeros_(self.scores.bias)
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        freeze(self.backbone, config)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, C, h, w)."""
        return self.backbone(images)["high"]

    def classify(self, vectors: Tensor) -> Tensor:
        """Means of features (..., C) -> logits (..., num_classes), fp32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.scores(vectors.float())

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names, boxes=self.boxes)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> ProposalClassifier:
        config = ClassifierConfig.model_validate(spec["network"])
        return cls(config, spec["num_classes"], bool(spec["options"]["boxes"]))


def build_proposal_classifier(
    config: BackboneConfig,
    num_classes: int,
    seed: int,
    boxes: bool = False,
    backbone_from: Mapping[str, Tensor] | None = None,
) -> ProposalClassifier:
    """A classifier of proposals on the CPU, in train mode; random parts depend on `seed` alone.

    backbone_from: weights of a network; its backbone is used instead of the weights in the config. ConfigError if
    weights are not available or do not fit.
    """
    if backbone_from is None:
        config.check()
    with seeded(seed):
        network = ProposalClassifier(config, num_classes, boxes)
    load_backbone(network.backbone, config, backbone_from)
    if backbone_from is not None or config.weights != "none":
        network.pretrained = ("backbone.",)
    return network
