"""A classifier with three further convolutions behind its backbone, before its scores (OAA, DRS, Group-WSSS).

Its maps are those of the last layer, a 1x1 convolution with bias: their spatial mean is the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from stages.networks.backbones import VGG16, build_classifier_backbone
from stages.networks.blocks import Backbone, initialise, initialise_scores
from stages.networks.config import BackboneConfig
from stages.networks.freezing import freeze
from stages.networks.segmenter import seeded
from stages.networks.weights import load_backbone

EXTRA = 512  # channels of the three further convolutions (published), or the backbone's where it has fewer


class DeeperClassifier(nn.Module):
    """Backbone, three 3x3 convolutions with ReLU, 1x1 convolution.

    vgg16 as published: pool4 has stride 1, there is no pool5, conv5 is dilated by 2.

    Attributes:
        stride: input pixels per cell of the activation maps.
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from given weights.
    """

    def __init__(self, config: BackboneConfig, num_foreground: int) -> None:
        super().__init__()
        self.config = config
        self.num_foreground, self.num_classes = num_foreground, num_foreground + 1
        vgg16 = config.backbone == "vgg16"
        self.backbone: Backbone = (
            VGG16((2, 2, 2, 1, 0), average_pool=False) if vgg16 else build_classifier_backbone(config.backbone)
        )
        self.stride = self.backbone.stride
        channels, width = self.backbone.high_channels, min(self.backbone.high_channels, EXTRA)
        self.extra = nn.Sequential()
        for _ in range(3):
            self.extra.extend((nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)))
            channels = width
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Conv2d(width, num_foreground, 1)
        initialise(self.extra)
        initialise_scores(self.scores)
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        freeze(self.backbone, config)

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> what the scores are made of, (B, channels, h, w)."""
        return self.dropout(self.extra(self.backbone(images)["high"]))


D = TypeVar("D", bound=DeeperClassifier)


def build_deeper(
    make: Callable[[], D], config: BackboneConfig, seed: int, backbone_from: Mapping[str, Tensor] | None = None
) -> D:
    """What `make` builds of `config`, on the CPU, in train mode; random parts depend on `seed` alone.

    backbone_from: the weights of a network whose backbone is taken, instead of those that the config names. ConfigError
    where weights cannot be had or do not fit.
    """
    if backbone_from is None:
        config.check()
    with seeded(seed):
        network = make()
    load_backbone(network.backbone, config, backbone_from)
    if backbone_from is not None or config.weights != "none":
        network.pretrained = ("backbone.",)
    return network
