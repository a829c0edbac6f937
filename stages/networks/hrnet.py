"""HRNet: parallel branches at strides 4, 8, 16 and 32 that exchange features in every stage (timm's implementation)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from artifacts.cells import cells
from stages.networks.blocks import Backbone, Features, pad_to_multiples, upsample
from stages.networks.timm_models import create

FACTORS = (1, 2, 4, 8)  # cells of the first branch, stride 4, per cell of each branch
COARSEST = 32  # the last branch's stride
# the parts of timm's network that a segmenter uses, by their names; the rest is the classifier
STEM = ("conv1", "bn1", "act1", "conv2", "bn2", "act2")
BODY = ("layer1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4")


class HRNet(Backbone):
    """`high`: all four branches at stride 4, concatenated (HRNetV2); `low`: the first layer's output at stride 4.

    Sun et al., "High-Resolution Representations for Labeling Pixels and Regions", arXiv 1904.04514. Parameter names are
    timm's. Images are padded with zeros at the right and bottom to multiples of 32, so that the branches
    fit each other; maps are cut to ceil(size / 4) cells.
    """

    stride = 4
    level_strides = (4, 8, 16, 32)
    unused_prefixes = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")

    layer1: nn.Module
    transition1: nn.ModuleList
    transition2: nn.ModuleList
    transition3: nn.ModuleList
    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module

    def __init__(self, name: str) -> None:
        super().__init__()
        net: Any = create(name, head="")
        for part in (*STEM, *BODY):
            self.add_module(part, getattr(net, part))
        self.low_channels = 4 * net.stage1_cfg["num_channels"][0]  # bottlenecks give four times their width
        self.level_channels = tuple(net.stage4_cfg["num_channels"])
        self.high_channels = sum(self.level_channels)

    def levels(self, x: Tensor) -> list[Tensor]:
        """The four branches."""
        _, branches = self._branches(x)
        return [
            branch[..., : cells(x.shape[-2], stride), : cells(x.shape[-1], stride)]
            for branch, stride in zip(branches, self.level_strides, strict=True)
        ]

    def forward(self, x: Tensor) -> Features:
        rows, columns = (cells(side, self.stride) for side in x.shape[-2:])
        low, branches = self._branches(x)
        size = (low.shape[2], low.shape[3])
        high = torch.cat([upsample(b, size, factor) for b, factor in zip(branches, FACTORS, strict=True)], dim=1)
        return {"low": low[..., :rows, :columns], "high": high[..., :rows, :columns]}

    def _branches(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first layer's output, and the four branches, of the padded image."""
        x = pad_to_multiples(x, COARSEST)
        for part in STEM:
            x = self.get_submodule(part)(x)
        low = self.layer1(x)
        branches = self.stage2([layer(low) for layer in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])  # a new branch at twice the stride
        branches = self.stage4([*branches, self.transition3[-1](branches[-1])])
        return low, branches
