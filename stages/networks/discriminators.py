"""Networks that assess predictions: the discriminators of AdvSemSeg and s4GAN, and GCT's flaw detector.

All are stacks of 4x4 convolutions with LeakyReLU. At the published crops the maps have the published sizes; small crops
(33 pixels and less) are padded so that no map loses its last cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of LeakyReLU below 0, in all three papers


class Convolution(nn.Conv2d):
    """4x4 convolution. Stride 2 halves a map, rounding down but never below one cell; stride 1 keeps its size."""

    def __init__(self, channels_in: int, channels: int, stride: int = 2, bias: bool = True) -> None:
        super().__init__(channels_in, channels, 4, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        after = [2 if self.stride[0] == 1 else max(1, 3 - side) for side in (width, height)]
        return super().forward(F.pad(x, (1, after[0], 1, after[1])))


class PixelDiscriminator(nn.Module):
    """Predicts for each pixel whether a class map is a mask or a prediction (AdvSemSeg: Hung et al., BMVC 2018).

    Maps (B, C, H, W), probabilities or a one-hot mask -> logits (B, 1, H, W), high for masks. Cells of 2^n pixels for
    n = len(channels) + 1 halvings (published: 64, 128, 256, 512 channels, 32 pixels).
    """

    def __init__(self, num_classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = _halvings(num_classes, channels)
        self.scores = Convolution(channels[-1], 1)

    def forward(self, maps: Tensor) -> Tensor:
        scores = self.scores(self.features(maps))
        return F.interpolate(scores, size=maps.shape[-2:], mode="bilinear", align_corners=False)


class ImageDiscriminator(nn.Module):
    """Predicts for a whole image and class map whether the map is a mask (s4GAN: Mittal et al., PAMI 2021).

    Maps (B, C, H, W) and images (B, 3, H, W) in 0..1 -> logits (B,), high for masks, and features (B, channels[-1]),
    the mean of the last maps. `dropout` drops whole channels after each layer but the last.
    """

    def __init__(self, num_classes: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.features = _halvings(num_classes + 3, channels, dropout)
        self.score = nn.Linear(channels[-1], 1)

    def forward(self, maps: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(torch.cat([maps, images], 1)).mean((2, 3))
        return self.score(features)[:, 0], features


class FlawDetector(nn.Module):
    """Predicts where a prediction is wrong (GCT: Ke et al., ECCV 2020; layers of its code, PixelSSL).

    Normalised images (B, 3, H, W) and probabilities (B, C, H, W) -> flaw map (B, 1, H, W), without an activation.
    Each width but the first has a second layer of stride 1 (there a map loses a row and a column, here it does not).
    Published: 64, 128, 256, 512 channels.
    """

    def __init__(self, num_classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        before = 3 + num_classes
        for number, width in enumerate(channels):
            for stride in (2,) if number == 0 else (2, 1):
                # no bias: the norms would remove it
                convolution = Convolution(before, width, stride, bias=False)
                self.features.extend([convolution, HalfBatchNorm(width), _leaky()])
                before = width
        self.flaws = Convolution(before, 1)

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        flaws = self.flaws(self.features(torch.cat([images, probabilities], 1)))
        return F.interpolate(flaws, size=images.shape[-2:], mode="bilinear", align_corners=True)


class HalfBatchNorm(nn.Module):
    """BatchNorm on the first half of the channels, InstanceNorm without affine on the others (GCT's IBNorm)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.joint = channels // 2
        self.batch_norm = nn.BatchNorm2d(self.joint)
        # One channel a group: InstanceNorm; torch's InstanceNorm raises for maps of one cell.
        self.instance_norm = nn.GroupNorm(channels - self.joint, channels - self.joint, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.batch_norm(x[:, : self.joint]), self.instance_norm(x[:, self.joint :])], 1)


def _halvings(channels_in: int, channels: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """A halving convolution with LeakyReLU for each of `channels`, dropout between them if it is given."""
    layers = nn.Sequential()
    for number, width in enumerate(channels):
        if number and dropout:
            layers.append(nn.Dropout2d(dropout))
        layers.extend([Convolution(channels[number - 1] if number else channels_in, width), _leaky()])
    return layers


def _leaky() -> nn.Module:
    return nn.LeakyReLU(SLOPE, inplace=True)
