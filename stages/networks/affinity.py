"""AffinityNet: features whose distances say whether two cells are of one class (Ahn & Kwak, CVPR 2018, section 3.3).

network = build_affinity_network(ClassifierConfig.model_validate("resnet50"), seed=0)
features = network(normalise(images))        # (B, 448, ceil(H / 8), ceil(W / 8))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from artifacts.cells import cells
from artifacts.errors import ConfigError
from stages.networks.backbones import VGG16, build_classifier_backbone
from stages.networks.blocks import Backbone, at_stride, initialise, thinning
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.freezing import freeze
from stages.networks.registry import network_kind, network_spec
from stages.networks.segmenter import decimated_vgg, seeded
from stages.networks.weights import load_backbone, load_strictly

STRIDE = 8
CHANNELS = (64, 128, 256)  # of the three levels (published)
GROUPS = (8, 16, 32)  # of GroupNorm (authors' code, VGG16)


@network_kind("affinity")
class AffinityNetwork(nn.Module):
    """The last three levels of a backbone, each 1x1, GroupNorm, ELU, at stride 8; all together 1x1 and ELU.

    As in the authors' code: VGG16 has DeepLab's fc6 (dilation 4) and fc7 for its last level, ResNet38 no GroupNorm.

    Attributes:
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from given weights.
    """

    stride = STRIDE

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config.backbone)
        channels, strides = list(self.backbone.level_channels), list(self.backbone.level_strides)
        self.last = nn.Sequential()
        if config.backbone == "vgg16":
            self.last.add_module("fc6", nn.Conv2d(512, 1024, 3, padding=4, dilation=4))
            self.last.add_module("relu6", nn.ReLU(inplace=True))
            self.last.add_module("drop6", nn.Dropout2d(config.dropout))
            self.last.add_module("fc7", nn.Conv2d(1024, 1024, 1))
            self.last.add_module("relu7", nn.ReLU(inplace=True))
            channels, strides = [*channels, 1024], [*strides, strides[-1]]
        if len(channels) < len(CHANNELS):
            raise ConfigError(
                f"AffinityNet reads three levels of its backbone, {config.backbone} has {len(channels)}",
                "choose another backbone (network.backbone)",
            )
        self.strides = strides[-3:]
        self.branches = nn.ModuleList()
        for read, width, groups, stride in zip(channels[-3:], CHANNELS, GROUPS, self.strides, strict=True):
            convolution = nn.Conv2d(read, width, 1, stride=thinning(stride, STRIDE), bias=False)
            norm = nn.Identity() if config.backbone == "resnet38" else nn.GroupNorm(groups, width)
            self.branches.append(nn.Sequential(convolution, norm))
        self.joint = nn.Conv2d(sum(CHANNELS), sum(CHANNELS), 1, bias=False)
        initialise(self.last)
        initialise(self.branches)
        nn.init.xavier_uniform_(self.joint.weight, gain=4)  # authors' code
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        freeze(self.backbone, config)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, 448, ceil(H / 8), ceil(W / 8))."""
        levels = self.backbone.levels(images)
        if len(self.last):
            levels.append(self.last(levels[-1]))
        size = (cells(images.shape[-2], STRIDE), cells(images.shape[-1], STRIDE))
        resized = [
            at_stride(branch(level), size, STRIDE, stride, self.backbone.patches)
            for branch, level, stride in zip(self.branches, levels[-3:], self.strides, strict=True)
        ]
        elu = nn.functional.elu
        return elu(self.joint(elu(torch.cat(resized, 1))))

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What network.json holds."""
        return network_spec(self, class_names)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> AffinityNetwork:
        return cls(ClassifierConfig.model_validate(spec["network"]))


def _backbone(name: str) -> Backbone:
    """That of a classifier; VGG16 as DeepLab dilates it, without the pooling behind conv5, as the authors read it."""
    return VGG16((2, 2, 2, 1, 0), average_pool=False) if name == "vgg16" else build_classifier_backbone(name)


def build_affinity_network(
    config: BackboneConfig, seed: int, backbone_from: Mapping[str, Tensor] | None = None
) -> AffinityNetwork:
    """An affinity network on the CPU, in train mode; random parts depend on `seed` alone.

    backbone_from: the weights of a network whose backbone is taken, instead of those that the config names. ConfigError
    where weights cannot be had or do not fit.
    """
    if backbone_from is None:
        config.check()
    with seeded(seed):
        network = AffinityNetwork(config)
    unused = load_backbone(network.backbone, config, backbone_from)
    layers = decimated_vgg(unused) if len(network.last) else {}
    for name, state in layers.items():
        load_strictly(network.last.get_submodule(name), state, "VGG16's classifier", f"last.{name}", any_float=True)
    if backbone_from is not None or config.weights != "none":
        network.pretrained = ("backbone.", *(f"last.{name}." for name in layers))
    return network
