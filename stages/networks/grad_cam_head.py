"""The self-attention Grad-CAM head of PseudoSeg: a second, coarse segmentation from a classifier's maps.

tags, logits = head(trunk(images), present, valid)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.networks.blocks import Features, initialise
from stages.networks.config import NetworkConfig


class GradCamHead(nn.Module):
    """Classifier, its class-activation maps, propagated by self-attention, and a 1x1 layer from them to logits.

    Zou et al., ICLR 2021, section 3.2, and its code. The classifier is average pooling and a linear layer on `high`.
    The attention compares cells by hypercolumns: `high` and the cells of `low` at the same places. Neither maps nor
    hypercolumns pass a gradient: the logits train only the attention and the last layer.
    """

    def __init__(self, low: int, high: int, num_classes: int, factor: int, norm: str, dim: int = 128) -> None:
        """low, high: channels of the features; factor: cells of low per cell of high; norm: as the heads' norm."""
        super().__init__()
        self.factor, self.dim = factor, dim
        self.classify = nn.Conv2d(high, num_classes - 1, 1)
        self.key = nn.Conv2d(low + high, dim, 1, bias=False)
        self.query = nn.Conv2d(low + high, dim, 1, bias=False)
        normalised = nn.GroupNorm(1, num_classes) if norm == "group" else nn.BatchNorm2d(num_classes)
        self.calibrate = nn.Sequential(nn.Conv2d(num_classes, num_classes, 1, bias=False), normalised)
        initialise(self)

    def forward(self, features: Features, present: Tensor | None, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the tags (B, C - 1), and logits (B, C, h, w) on the grid of `high`.

        Args:
            features: "low" (B, _, H / 4, W / 4), "high" (B, _, h, w).
            present: bool (B, C - 1), classes that have maps; None: those with a probability of .5 and more.
            valid: bool (B, h, w), false on padding, which is left out.
        """
        low, high = features["low"][..., :: self.factor, :: self.factor], features["high"]
        scores = self.classify(high.mean((2, 3), keepdim=True)).flatten(1)
        with torch.no_grad(), torch.autocast(high.device.type, enabled=False):
            present = scores >= 0 if present is None else present
            maps = activation_maps(
                high.float(), self.classify.weight.float(), present[:, :, None, None] & valid[:, None]
            )
        hypercolumns = torch.cat([low, high], dim=1).detach()
        spread = maps + self._attend(hypercolumns, maps, valid)  # each in 0..1
        background = 2 - spread.amax(1, keepdim=True)
        return scores, self.calibrate(torch.cat([background, spread], dim=1))

    def _attend(self, hypercolumns: Tensor, maps: Tensor, valid: Tensor) -> Tensor:
        """sum_j softmax_j(q_i k_j / sqrt(dim)) maps_j over the valid cells j of the image; shape of `maps`."""
        query, key = self.query(hypercolumns).flatten(2).float(), self.key(hypercolumns).flatten(2).float()
        with torch.autocast(maps.device.type, enabled=False):
            alike = query.transpose(1, 2) @ key / math.sqrt(self.dim)  # (B, hw, hw)
            alike = alike.masked_fill(~valid.flatten(1)[:, None], -1e9)  # finite: an image may be all padding
            return (maps.flatten(2) @ alike.softmax(2).transpose(1, 2)).view_as(maps)


def activation_maps(high: Tensor, weight: Tensor, shown: Tensor) -> Tensor:
    """Grad-CAM of a linear layer after average pooling, divided by each map's maximum: (B, K, h, w) in 0..1.

    The gradient of score k by cell u is w_k / (h w) everywhere, so Grad-CAM's mean gradient weighs the channels as
    class-activation maps do (Selvaraju et al., ICCV 2017, section 3.1), and the constant goes with the division.

    Args:
        high: (B, channels, h, w); weight: (K, channels, 1, 1).
        shown: bool, broadcast over (B, K, h, w); elsewhere a map is 0.
    """
    maps = nn.functional.conv2d(high, weight).relu() * shown
    return maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-5)


def build_grad_cam_head(config: NetworkConfig, channels: tuple[int, int], num_classes: int, factor: int) -> GradCamHead:
    """For the trunk of `config` with `channels` (low, high) of its backbone; random weights from torch's generator."""
    low, high = channels
    return GradCamHead(low, config.neck_channels if config.neck_layers else high, num_classes, factor, config.head_norm)
