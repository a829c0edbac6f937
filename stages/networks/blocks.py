"""The parts of backbones and heads: the base class of backbones, initial weights, upsampling."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from artifacts.cells import cells

Features = dict[str, Tensor]


class Backbone(nn.Module):
    """Base: levels, and BatchNorm that stays frozen through `.train()`.

    Attributes:
        level_channels, level_strides: channels of each map of `levels`, and input pixels per cell; finest first.
        low_level: the level that `forward` calls "low".
        low_channels, high_channels: channels of the two maps.
        stride: input pixels per cell of `high`.
        low_stride: input pixels per cell of `low`.
        patches: whether cell i covers the pixels from stride * i on, instead of being centred on that pixel (DINOv2).
        unused_prefixes: the parameters of torchvision's network that this backbone does not have.
        gradient_layer: the submodule at stride 8 whose gradients are SEC's background cue; "": there is none.
        children_in_order: whether every module runs its children in their order, so that a BatchNorm after a
            convolution may be folded into it.
        frozen_norms: names of the BatchNorm layers that stay frozen, where not all do (`batch_norm_frozen`).
        frozen: whether all of it is: it has no gradient and stays in eval mode.
    """

    level_channels: tuple[int, ...]
    level_strides: tuple[int, ...]
    low_level: int = 0
    low_channels: int
    high_channels: int
    stride: int
    low_stride: int = 4
    patches: bool = False
    unused_prefixes: tuple[str, ...] = ()
    gradient_layer: str = ""
    children_in_order: bool = True
    batch_norm_frozen: bool = False
    frozen_norms: Collection[str] = ()
    frozen: bool = False

    def levels(self, x: Tensor) -> list[Tensor]:
        """The feature maps after each stage, finest first: (B, channels, ceil(H / stride), ceil(W / stride)) each."""
        raise NotImplementedError  # every backbone has stages

    def stages(self) -> list[nn.Module]:
        """The modules that the stages end with, finest first."""
        return list(self.children())

    def forward(self, x: Tensor) -> Features:
        levels = self.levels(x)
        return {"low": levels[self.low_level], "high": levels[-1]}

    def sort_weights(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Published weights by their published names -> (this backbone's by its own names, unused ones)."""
        used = {key: value for key, value in state.items() if not key.startswith(self.unused_prefixes or "\0")}
        return used, {key: value for key, value in state.items() if key not in used}

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(module, _BatchNorm) for module in self.modules())

    def freeze_batch_norm(self, statistics: bool = True) -> None:
        """Freeze every BatchNorm: its affine (no gradient) and its statistics (eval mode in training too)."""
        self.batch_norm_frozen = statistics
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode and not self.frozen)
        for name, module in self.named_modules():
            if isinstance(module, _BatchNorm) and (self.batch_norm_frozen or name in self.frozen_norms):
                module.eval()
        return self


def initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan-in) convolutions with zero biases; norms start as the identity (He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.GroupNorm, _BatchNorm)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def pad_to_multiples(x: Tensor, of: int, before: int = 0) -> Tensor:
    """Zeros at the right and bottom up to sides that are multiples of `of`, and `before` zeros at the left and top."""
    height, width = (side + before for side in x.shape[-2:])
    return F.pad(x, (before, cells(width, of) * of - width, before, cells(height, of) * of - height))


def upsample(x: Tensor, size: tuple[int, int], stride: int, patches: bool = False) -> Tensor:
    """Bilinear upsampling that keeps cell i on pixel `stride` * i, for every size.

    x (B, C, h, w) with h = ceil(H / stride) -> (B, C, H, W), size = (H, W). At H = stride * (h - 1) + 1 (321, 513: the
    sizes of the DeepLab line) this equals `align_corners=True`; at other sizes that option would stretch the map by an
    amount that depends on the size, and `align_corners=False` would shift it by (stride - 1) / 2 pixels. At stride 1
    cells beyond the image are cut off. With `patches` cell i is in the middle of the pixels from stride * i on.
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


def antialiased(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, h, w) resized to (H, W) = `size`: bilinear, with means where it becomes smaller."""
    if size[1] == 1:  # torch 2.15 on a CPU mixes rows and channels of channels_last memory here
        x = x.contiguous()
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def thinning(stride: int, wanted: int) -> int:
    """The step at which a convolution on maps of a finer stride gives those of the wanted one; else 1."""
    return wanted // stride if wanted % stride == 0 else 1


def at_stride(maps: Tensor, size: tuple[int, int], wanted: int, stride: int, patches: bool = False) -> Tensor:
    """Maps of a stride, finer ones already thinned out, at the cells (h, w) = `size` of the wanted stride."""
    if wanted % stride == 0:
        return maps[..., : size[0], : size[1]]
    if stride % wanted == 0 and not patches:
        return upsample(maps, size, stride // wanted)
    pixels = upsample(maps, (size[0] * wanted, size[1] * wanted), stride, patches)
    return pixels[..., ::wanted, ::wanted]


def conv_norm_relu(channels_in: int, channels: int, kernel: int, norm: str, dilation: int = 1) -> nn.Sequential:
    """kernel x kernel convolution, GroupNorm or BatchNorm, ReLU; same size."""
    padding = dilation * (kernel // 2)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(groups, channels) if norm == "group" else nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def initialise_scores(layer: nn.Conv2d) -> None:
    """Gaussian 0.01, bias 0: all classes start equally likely (fc8 of DeepLab, SEC and DSRG)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
