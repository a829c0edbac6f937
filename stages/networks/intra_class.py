"""The network of the intra-class discriminator: a classifier, directions in its features, and a foreground branch.

network = build_icd_network(ClassifierConfig.model_validate("vgg16-sec"), num_foreground=20, seed=0)
logits = network(normalise(images))                       # (B, 20), class id k + 1 at index k
maps = network.eval().activation_maps(normalise(images))  # (B, 20, h, w), above 0 where a class is foreground
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.blocks import initialise, initialise_scores
from stages.networks.classifier import Classifier, initialised
from stages.networks.config import BackboneConfig
from stages.networks.registry import network_kind

WIDTH = 1024  # channels of the two further layers (published, for VGG16's 512), or twice the backbone's if fewer


@dataclass(frozen=True)
class Branches:
    """The output of the network's branches.

    Attributes:
        cams: (B, K, h, w), the class-activation maps before any ReLU; their spatial mean is the logits.
        features: X, fp32 (B, channels, h, w), the normalised features of the backbone.
        foreground: (B, K, h, w), logits: above 0 where a class is foreground, below where it is background.
    """

    cams: Tensor
    features: Tensor
    foreground: Tensor


@network_kind("icd")
class IcdNetwork(Classifier):
    """A classifier with the two branches of an intra-class discriminator (Fan et al., CVPR 2020).

    bottom up: b_c(u) = +-d_c x_u / |d_c|, X = BatchNorm without scale of the backbone's features
    top down: [X; F_1; F_2] -> 1x1 convolution without bias, F_1 = ReLU(3x3(X)), F_2 = ReLU(1x1(F_1))

    Attributes:
        directions: d, (K, channels).
        sides: (K, 2), running means of ReLU(class-activation map) where b_c is positive, and negative, before its sign
            is fixed: by `sign` the class lies on the side with the higher mean.
    """

    sides: Tensor

    def __init__(self, config: BackboneConfig, num_foreground: int) -> None:
        super().__init__(config, num_foreground)
        channels = self.backbone.high_channels
        width = min(2 * channels, WIDTH)
        norm = nn.BatchNorm2d(channels)
        norm.weight.requires_grad_(False)  # 1 for ever
        self.normalised = nn.Sequential(norm)
        self.fc6 = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU())
        self.fc7 = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.foreground = nn.Conv2d(channels + 2 * width, num_foreground, 1, bias=False)
        self.directions = nn.Parameter(torch.empty(num_foreground, channels))
        self.register_buffer("sides", torch.zeros(num_foreground, 2))
        initialise(self.fc6)
        initialise(self.fc7)
        initialise_scores(self.foreground)
        nn.init.normal_(self.directions, std=0.01)

    def branches(self, images: Tensor) -> Branches:
        """Normalised images (B, 3, H, W) -> the class-activation maps, the features X, the foreground logits."""
        high = self.backbone(images)["high"]
        with torch.autocast(images.device.type, enabled=False):
            features = self.normalised(high.float())
        further = self.fc6(features)
        foreground = self.foreground(torch.cat([features, further, self.fc7(further)], 1))
        return Branches(self.scores(self.extra(high)), features, foreground)

    def bottom_up(self, features: Tensor) -> Tensor:
        """X, fp32 -> d_c x_u / |d_c|, (B, K, h, w), without the sign. No gradient passes to the features."""
        with torch.autocast(features.device.type, enabled=False):
            return F.conv2d(features.detach(), F.normalize(self.directions)[:, :, None, None])

    @property
    def sign(self) -> Tensor:
        """(K, 1, 1): -1 where the negative side has the higher mean, else 1."""
        return torch.where(self.sides[:, 0] < self.sides[:, 1], -1.0, 1.0)[:, None, None]

    def activation_maps(self, images: Tensor) -> Tensor:
        """The foreground logits, (B, K, h, w): above 0, which a ReLU leaves, are the pixels of a class."""
        return self.branches(images).foreground


def build_icd_network(config: BackboneConfig, num_foreground: int, seed: int) -> IcdNetwork:
    """As `build_classifier`."""
    return initialised(lambda: IcdNetwork(config, num_foreground), config, seed)
