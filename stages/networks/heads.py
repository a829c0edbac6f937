"""Heads: features of a trunk -> class scores. Identical heads with other weights are a dual network's branches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.backbones import Features, initialise
from stages.networks.config import NetworkConfig


def upsample(x: Tensor, size: tuple[int, int], stride: int, patches: bool = False) -> Tensor:
    """Bilinear upsampling that keeps cell i on pixel `stride` * i, for every size.

    x (B, C, h, w) with h = ceil(H / stride) -> (B, C, H, W), size = (H, W). At H = stride * (h - 1) + 1 (321, 513: the
    sizes of the DeepLab line) this equals `align_corners=True`; at other sizes that option would stretch the map by an
    amount that depends on the size, and `align_corners=False` would shift it by (stride - 1) / 2 pixels. At stride 1
    what reaches beyond the picture is cut off. With `patches` cell i is in the middle of the pixels from stride * i on.
    """
    if stride == 1:
        return x[..., : size[0], : size[1]]
    if patches:
        grown = F.interpolate(x, scale_factor=float(stride), mode="bilinear", align_corners=False)
        return grown[..., : size[0], : size[1]]
    height, width = x.shape[-2:]
    # one more cell for the pixels beyond the last cell's centre (cat: replicate padding's backward is random on CUDA)
    padded = torch.cat([x, x[..., -1:]], dim=3)
    padded = torch.cat([padded, padded[..., -1:, :]], dim=2)
    full = (height * stride + 1, width * stride + 1)
    grown = F.interpolate(padded, size=full, mode="bilinear", align_corners=True)
    return grown[..., : size[0], : size[1]]


def on_cells(maps: Tensor, stride: int, patches: bool = False) -> Tensor:
    """What maps of pixels (..., H, W) hold where `upsample` has the cells: (..., ceil(H / stride), ceil(W / stride)).

    With `patches` that is the pixel in the middle, of a patch that reaches beyond the picture the last one.
    """
    if not patches:
        return maps[..., ::stride, ::stride]
    rows, columns = (
        torch.arange(stride // 2, side + stride // 2, stride, device=maps.device).clamp(max=side - 1)
        for side in maps.shape[-2:]
    )
    return maps[..., rows, :][..., columns]


def conv_norm_relu(channels_in: int, channels: int, kernel: int, norm: str, dilation: int = 1) -> nn.Sequential:
    """kernel x kernel convolution, GroupNorm or BatchNorm, ReLU; same size."""
    padding = dilation * (kernel // 2)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(groups, channels) if norm == "group" else nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


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

    With hidden = 0 a branch is a single dilated 3x3 convolution to the classes, as DeepLabv2 has it on ResNet101.
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


def initialise_scores(layer: nn.Conv2d) -> None:
    """Gaussian 0.01, bias 0: all classes start equally likely (fc8 of DeepLab, SEC and DSRG)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


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
        from stages.networks.vision_transformer import ARCHITECTURES, DPT  # which takes from this module

        widths = ARCHITECTURES[config.backbone].widths
        return DPT(high, num_classes, widths, config.head_channels, config.dropout)
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
