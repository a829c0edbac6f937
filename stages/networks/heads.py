"""Heads: features of a trunk -> class scores. The branches of a dual network are two identical heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.blocks import Features, conv_norm_relu, initialise, initialise_scores, upsample
from stages.networks.config import NetworkConfig


def on_cells(maps: Tensor, stride: int, patches: bool = False) -> Tensor:
    """Samples maps (..., H, W) at the cells of `upsample`: (..., ceil(H / stride), ceil(W / stride)).

    With `patches` a cell is the pixel in the middle of the patch, or the last pixel if that is outside the image.
    """
    if not patches:
        return maps[..., ::stride, ::stride]
    rows, columns = (
        torch.arange(stride // 2, side + stride // 2, stride, device=maps.device).clamp(max=side - 1)
        for side in maps.shape[-2:]
    )
    return maps[..., rows, :][..., columns]


class AtrousBranch(nn.Module):
    """fc6 (3x3, dilated), ReLU, dropout, fc7 (1x1), ReLU, dropout, fc8 (1x1): one branch of DeepLab on VGG16."""

    def __init__(self, channels_in: int, num_classes: int, hidden: int, rate: int, dropout: float) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(channels_in, hidden, 3, padding=rate, dilation=rate)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, num_classes, 1)
        self.dropout = nn.Dropout(dropout)
        initialise(self)
        initialise_scores(self.fc8)

    def forward(self, high: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.fc6(high)))
        return self.fc8(self.dropout(F.relu(self.fc7(x))))


class AtrousSum(nn.Module):
    """DeepLab-LargeFOV (one rate) and DeepLab-ASPP (several): the branches' logits are summed.

    With hidden = 0 a branch is a single dilated 3x3 convolution to the classes, as in DeepLabv2 on ResNet101.
    """

    def __init__(self, channels_in: int, num_classes: int, hidden: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for rate in rates:
            if hidden:
                self.branches.append(AtrousBranch(channels_in, num_classes, hidden, rate, dropout))
            else:
                scores = nn.Conv2d(channels_in, num_classes, 3, padding=rate, dilation=rate)
                initialise_scores(scores)
                self.branches.append(scores)

    def forward(self, features: Features) -> Tensor:
        high = features["high"]
        logits = self.branches[0](high)
        for branch in self.branches[1:]:
            logits = logits + branch(high)
        return logits


class FullyConvolutional(nn.Module):
    """3x3 conv, norm, ReLU, dropout, 1x1 conv."""

    def __init__(self, channels_in: int, num_classes: int, hidden: int, rate: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.block = conv_norm_relu(channels_in, hidden, 3, norm, dilation=rate)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Conv2d(hidden, num_classes, 1)
        initialise(self)
        initialise_scores(self.scores)

    def forward(self, features: Features) -> Tensor:
        return self.scores(self.dropout(self.block(features["high"])))


class DeepLabV3Plus(nn.Module):
    """Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", with plain convolutions.

    Pyramid on `high` (1x1, dilated 3x3 of each rate, image pooling; hidden channels each; 1x1 projection), upsampled to
    the 48-channel reduction of `low`, two 3x3 convolutions, scores at the stride of `low`.
    """

    def __init__(
        self,
        channels: tuple[int, int],  # of low, high
        num_classes: int,
        hidden: int,
        rates: tuple[int, ...],
        norm: str,
        dropout: float,
        factor: int,  # cells of low per cell of high
    ) -> None:
        super().__init__()
        low_channels, high_channels = channels
        self.factor = factor
        self.point = conv_norm_relu(high_channels, hidden, 1, norm)
        self.atrous = nn.ModuleList([conv_norm_relu(high_channels, hidden, 3, norm, rate) for rate in rates])
        self.pooling = conv_norm_relu(high_channels, hidden, 1, norm)
        self.project = conv_norm_relu(hidden * (2 + len(rates)), hidden, 1, norm)
        self.dropout = nn.Dropout(dropout)
        self.reduce = conv_norm_relu(low_channels, 48, 1, norm)
        self.fuse = nn.Sequential(conv_norm_relu(hidden + 48, hidden, 3, norm), conv_norm_relu(hidden, hidden, 3, norm))
        self.scores = nn.Conv2d(hidden, num_classes, 1)
        initialise(self)
        initialise_scores(self.scores)

    def forward(self, features: Features) -> Tensor:
        low, high = features["low"], features["high"]
        pooled = self.pooling(high.mean((2, 3), keepdim=True)).expand(-1, -1, *high.shape[2:])
        pyramid = torch.cat([self.point(high), *(branch(high) for branch in self.atrous), pooled], dim=1)
        context = self.dropout(self.project(pyramid))
        context = upsample(context, (low.shape[2], low.shape[3]), self.factor)
        return self.scores(self.fuse(torch.cat([context, self.reduce(low)], dim=1)))


def build_head(config: NetworkConfig, channels: tuple[int, int], factor: int, num_classes: int) -> nn.Module:
    """The head of `config` for features of `channels` (low, high); random weights from torch's global generator."""
    low, high = channels
    if config.head == "dpt":
        from stages.networks.vision_transformer import ARCHITECTURES, DPT  # which imports from this module

        known = ARCHITECTURES.get(config.backbone)
        widths = known.widths if known else (high // 8, high // 4, high // 2, high)
        assert config.output_stride is not None  # the backbone's
        return DPT(high, num_classes, widths, config.head_channels, config.dropout, config.output_stride)
    if config.neck_layers:
        high = config.neck_channels
    if config.head in ("largefov", "aspp"):
        return AtrousSum(high, num_classes, config.head_channels, config.rates(), config.dropout)
    if config.head == "fcn":
        (rate,) = config.rates()
        return FullyConvolutional(high, num_classes, config.head_channels, rate, config.head_norm, config.dropout)
    return DeepLabV3Plus(
        (low, high), num_classes, config.head_channels, config.rates(), config.head_norm, config.dropout, factor
    )
