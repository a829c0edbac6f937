"""IRNet's displacement field: from each cell to the centroid of its instance (Ahn et al., CVPR 2019, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from artifacts.cells import cells
from stages.networks.blocks import Backbone, at_stride, initialise, thinning

STRIDE = 4
COARSE = 8  # levels from this stride on are joined at it first
CHANNELS = {"first": 64, "fine": 128, "coarse": 256}  # of a level: the finest, the others below stride 8, the rest


class DisplacementBranch(nn.Module):
    """Levels of a backbone -> displacements (dy, dx) in cells of stride 4, minus their mean over the training images.

    Each level 1x1, GroupNorm, resized, ReLU; those of stride 8 and more are joined at stride 8 (1x1 -> 256, GroupNorm,
    resized to stride 4, ReLU), then all at stride 4: 1x1 -> 256, GroupNorm, ReLU, 1x1 -> 2.

    Attributes:
        mean: (2,), 0 until the training has measured it; subtracted in eval mode only.
    """

    mean: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.strides, self.patches = backbone.level_strides, backbone.patches
        self.fine = sum(stride < COARSE for stride in self.strides[:-1])
        widths = [CHANNELS["coarse" if k >= self.fine else "fine" if k else "first"] for k in range(len(self.strides))]
        self.levels = nn.ModuleList(
            _normalised(channels, width, thinning(stride, self.stride_of(number)))
            for number, (channels, width, stride) in enumerate(
                zip(backbone.level_channels, widths, self.strides, strict=True)
            )
        )
        self.coarse = _normalised(sum(widths[self.fine :]), CHANNELS["coarse"])
        self.joint = _normalised(sum(widths[: self.fine]) + CHANNELS["coarse"], CHANNELS["coarse"])
        self.field = nn.Conv2d(CHANNELS["coarse"], 2, 1, bias=False)
        self.register_buffer("mean", torch.zeros(2))
        initialise(self)

    def stride_of(self, number: int) -> int:
        """The stride at which a level is joined with others."""
        return STRIDE if number < self.fine else COARSE

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """levels: of images (B, 3, H, W), `size` = (H, W). Returns (B, 2, ceil(H / 4), ceil(W / 4)), in cells."""
        maps = []
        for number, (layer, level, stride) in enumerate(zip(self.levels, levels, self.strides, strict=True)):
            wanted = self.stride_of(number)
            maps.append(at_stride(layer(level), _cells(size, wanted), wanted, stride, self.patches).relu())
        coarse = at_stride(self.coarse(torch.cat(maps[self.fine :], 1)), _cells(size, STRIDE), STRIDE, COARSE).relu()
        field: Tensor = self.field(self.joint(torch.cat([*maps[: self.fine], coarse], 1)).relu())
        return field if self.training else field - self.mean.view(1, 2, 1, 1)


def _cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return cells(size[0], stride), cells(size[1], stride)


def _normalised(channels: int, width: int, step: int = 1) -> nn.Sequential:
    """1x1 -> `width`, GroupNorm of 8 groups (64 channels) or 16 (published)."""
    convolution = nn.Conv2d(channels, width, 1, stride=step, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8 if width == CHANNELS["first"] else 16, width))
