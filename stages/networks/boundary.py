"""IRNet's class-boundary network: where one class ends and another begins (Ahn et al., CVPR 2019, section 3.1).

network = build_boundary_network(ClassifierConfig.model_validate("resnet50"), seed=0)
boundary = network(normalise(images)).sigmoid()        # (B, ceil(H / 4), ceil(W / 4)), 0..1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.cells import cells
from stages.networks.backbones import build_classifier_backbone
from stages.networks.blocks import at_stride, initialise, thinning
from stages.networks.config import BackboneConfig, ClassifierConfig
from stages.networks.displacement import DisplacementBranch
from stages.networks.registry import network_kind, network_spec
from stages.networks.segmenter import seeded
from stages.networks.weights import load_backbone

STRIDE = 4
CHANNELS = 32  # of each level (published)
GROUPS = 4  # of GroupNorm (published)


@network_kind("boundary")
class BoundaryNetwork(nn.Module):
    """The levels of a frozen backbone, each 1x1 -> 32, GroupNorm, resized to stride 4, ReLU; all concatenated, 1x1 ->
    1.

    Attributes:
        displacement: IRNet's second branch, where it is trained.
        class_names: background first; known for networks that come from `load_network`.
        pretrained: name prefixes of the parameters that came from given weights.
    """

    stride = STRIDE

    def __init__(self, config: BackboneConfig, displacement: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_classifier_backbone(config.backbone)
        self.branches = nn.ModuleList()
        for channels, stride in zip(self.backbone.level_channels, self.backbone.level_strides, strict=True):
            convolution = nn.Conv2d(channels, CHANNELS, 1, stride=thinning(stride, STRIDE), bias=False)
            self.branches.append(nn.Sequential(convolution, nn.GroupNorm(GROUPS, CHANNELS)))
        self.boundary = nn.Conv2d(CHANNELS * len(self.branches), 1, 1)
        initialise(self.branches)
        initialise(self.boundary)
        # drawn last: the boundary branch starts from the same weights with and without it
        self.displacement = DisplacementBranch(self.backbone) if displacement else None
        self.pretrained: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> BoundaryNetwork:
        """Keeps the backbone in eval mode: it is frozen, including BatchNorm statistics and dropout."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> boundary logits (B, ceil(H / 4), ceil(W / 4))."""
        return self.boundary(self.features(images))[:, 0]

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> (B, 160, ceil(H / 4), ceil(W / 4)), whose weighted sum the logits are."""
        return self._features(self._levels(images), images)

    def with_displacement(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boundary logits (B, h, w) as of `forward`, and displacements (B, 2, h, w): dy, dx in cells."""
        assert self.displacement is not None
        levels = self._levels(images)
        logits = self.boundary(self._features(levels, images))[:, 0]
        return logits, self.displacement(levels, (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def _levels(self, images: Tensor) -> list[Tensor]:
        return list(self.backbone.levels(images))

    def _features(self, levels: list[Tensor], images: Tensor) -> Tensor:
        size = (cells(images.shape[-2], STRIDE), cells(images.shape[-1], STRIDE))
        resized = [
            at_stride(branch(level), size, STRIDE, stride, self.backbone.patches)
            for branch, level, stride in zip(self.branches, levels, self.backbone.level_strides, strict=True)
        ]
        return torch.cat(resized, 1).relu()

    def spec(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The content of network.json."""
        return network_spec(self, class_names, **({"displacement": True} if self.displacement else {}))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> BoundaryNetwork:
        return cls(ClassifierConfig.model_validate(spec["network"]), spec["options"].get("displacement", False))


def mean_with_mirror(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Maps of stride 4 (B, ..., h, w), fp32: the means of those of images (B, 3, H, W) and of their mirror images."""
    seen, mirrored = with_mirror(network, images)
    return (seen + mirrored) / 2


def with_mirror(network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of stride 4 of images (B, 3, H, W), and those of their mirror images, mirrored back; fp32 (B, ..., h, w)."""
    width = images.shape[-1]
    # to 4 n + 1 pixels, so that the cells of the mirror image lie on those of the image
    images = F.pad(images, (0, (1 - width) % STRIDE))
    seen, mirrored = network(torch.cat([images, images.flip(-1)])).float().chunk(2)
    return seen[..., : cells(width, STRIDE)], mirrored.flip(-1)[..., : cells(width, STRIDE)]


def build_boundary_network(
    config: BackboneConfig, seed: int, backbone_from: Mapping[str, Tensor] | None = None, displacement: bool = False
) -> BoundaryNetwork:
    """A boundary network on the CPU, in train mode; random parts depend on `seed` alone.

    backbone_from: weights of a network; its backbone is used instead of the weights in the config. ConfigError if
    weights are not available or do not fit.
    """
    if backbone_from is None:
        config.check()
    with seeded(seed):
        network = BoundaryNetwork(config, displacement)
    load_backbone(network.backbone, config, backbone_from)
    return network
