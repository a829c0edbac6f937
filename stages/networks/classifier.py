"""Multi-label image classifiers whose class-activation maps are exact: pooling and a linear layer without bias.

    network = build_classifier(ClassifierConfig.model_validate("tiny"), num_foreground=20, seed=0)
    logits = network(normalise(images))                # (B, 20), class id k + 1 at index k
    maps = network.eval().activation_maps(normalise(images))  # (B, 20, h, w); their spatial mean is the logits

Sources: vgg16 has the layers of SEC's foreground network (Kolesnikov & Lampert 2016: pool4 and pool5 left out, two 3x3
convolutions of 1024 channels, the second without ReLU, average pooling, linear layer; the pools, initial values and
learning rates differ, see docs/other-stages.md, Seeds), the ResNets are IRNet's (Ahn et al. 2019: layer4, stride 1).
mobilenet_v2, tiny, HRNet, DINOv2 and timm's networks follow the ResNets' pattern on their last map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from stages.networks.backbones import build_classifier_backbone
from stages.networks.blocks import initialise, initialise_scores
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.freezing import freeze
from stages.networks.registry import network_kind, network_spec
from stages.networks.segmenter import parameter_groups, seeded
from stages.networks.weights import load_pretrained

C = TypeVar("C", bound="Classifier")


@network_kind("classifier")
class Classifier(nn.Module):
    """Backbone, (for vgg16) two new convolutions, global average pooling, 1x1 convolution without bias.

    Attributes:
        stride: input pixels per cell of the activation maps (vgg16, resnet38, tiny 8, HRNet 4, DINOv2 14, the others
            16 or, of timm, their own).
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from `config.weights`.
        reads: the maps of the backbone that are read.
    """

    reads = ("high",)

    def __init__(self, config: BackboneConfig, num_foreground: int, joined: int = 0) -> None:
        """joined: channels that are joined to the backbone's last map, behind its own."""
        super().__init__()
        self.config = config
        self.num_foreground = num_foreground
        self.num_classes = num_foreground + 1
        self.backbone = build_classifier_backbone(config.backbone)
        self.stride = self.backbone.stride
        channels = self.backbone.high_channels + joined
        self.extra = nn.Sequential()
        if config.backbone == "vgg16":
            self.extra.add_module("fc6", nn.Conv2d(channels, 1024, 3, padding=1))
            self.extra.add_module("relu6", nn.ReLU(inplace=True))
            self.extra.add_module("drop6", nn.Dropout(config.dropout))
            self.extra.add_module("fc7", nn.Conv2d(1024, 1024, 3, padding=1))
            channels = 1024
        dropout = nn.Dropout2d if config.backbone == "resnet38" else nn.Dropout  # PSA and SEAM drop whole channels
        self.extra.add_module("dropout", dropout(config.dropout))
        self.scores = nn.Conv2d(channels, num_foreground, 1, bias=False)
        initialise(self.extra)
        initialise_scores(self.scores)
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        freeze(self.backbone, config)

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> the map that is pooled, (B, channels, h, w)."""
        return self.extra(self.backbone(images)["high"])

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K); index k is class id k + 1."""
        return self.logits_of(self.backbone(images)["high"])

    def logits_of(self, high: Tensor) -> Tensor:
        """What `forward` gives for images, for their last map (B, channels, h, w) of the backbone."""
        return self.scores(self.extra(high).mean((2, 3), keepdim=True)).flatten(1)

    def activation_maps(self, images: Tensor) -> Tensor:
        """Raw class-activation maps (B, K, h, w), before any ReLU: CAM_c(u) = sum_k w_ck F_k(u) (Zhou et al. 2016).

        Their spatial mean is the logits (in eval mode: dropout is random at each call).
        """
        return self.scores(self.features(images))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `stages.networks.segmenter.parameter_groups`."""
        return parameter_groups(self, self.pretrained)

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json. `class_names` includes background: 1 + K names."""
        return network_spec(self, class_names)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Self:
        return cls(ClassifierConfig.model_validate(spec["network"]), spec["num_classes"] - 1)


def build_classifier(config: BackboneConfig, num_foreground: int, seed: int) -> Classifier:
    """A classifier on the CPU, in train mode; random parts depend on `seed` alone.

    Of a NetworkConfig only the backbone's fields are used. Raises ConfigError if weights are not available or do
    not fit.
    """
    return initialised(lambda: Classifier(config, num_foreground), config, seed)


def initialised(make: Callable[[], C], config: BackboneConfig, seed: int) -> C:
    """What `make` builds of `config`: its random parts by `seed`, its backbone with the config's weights."""
    config.check()
    with seeded(seed):
        network = make()
    config.check(network.backbone.has_batch_norm)
    if config.weights != "none":
        load_pretrained(network.backbone, config)
        network.pretrained = ("backbone.",)
    return network
