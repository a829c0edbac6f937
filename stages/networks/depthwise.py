"""Depthwise convolutions whose gradients a CPU computes several times faster.

    backbone = with_fast_gradients(backbone)

A CPU has fast kernels for the gradients of depthwise convolutions without dilation, and in fp32. What is dilated takes
a general kernel, up to ten times slower; in bf16 so does what has a stride. Here the cells of a convolution with
dilation d are put into d * d images in which they are neighbours, where the same convolution has no dilation; the
gradients in bf16 are computed in fp32. Outputs are those of the convolution bit by bit, gradients within rounding.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def with_fast_gradients(network: M) -> M:
    """The network, its dilated and its strided depthwise convolutions replaced: same names, same parameters."""
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Conv2d and _is_slow(layer):
                module.register_module(name, DepthwiseConv2d(layer))
    return network


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return depthwise and plain and max(*conv.stride, *conv.dilation) > 1


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution; its gradients on a CPU as the module describes, elsewhere torch's."""

    def __init__(self, conv: nn.Conv2d) -> None:
        channels, bias = conv.in_channels, conv.bias is not None
        sizes: dict[str, Any] = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        with torch.device("meta"):  # draws no random numbers
            super().__init__(channels, channels, groups=channels, bias=bias, **sizes)
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        return _Depthwise.apply(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        stride, padding, dilation = how
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        exact = torch.promote_types(weight.dtype, torch.float32)
        apart = stride == (1, 1) and padding[0] % dilation[0] == padding[1] % dilation[1] == 0
        parts = dilation if apart else (1, 1)
        padding = [side // part for side, part in zip(padding, parts, strict=True)]
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            _apart(grad.to(exact), parts),
            _apart(x.to(exact), parts),
            weight.to(exact),
            [len(weight)],
            stride,
            padding,
            (1, 1) if apart else dilation,
            False,
            (0, 0),
            len(weight),
            ctx.needs_input_grad[:3],
        )
        if to_x is not None:
            to_x = _together(to_x, parts, x.shape).to(x.dtype)
        return (to_x, to_weight, to_bias, None, None, None)  # parameters have a dtype of their own: autograd casts


def _apart(x: Tensor, parts: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (rows * columns * B, C, h, w), channels last: each `rows`-th row and each `columns`-th column.

    Zeros are added below and at the right where the sides are no multiples.
    """
    if parts == (1, 1):
        return x
    (B, C, H, W), (rows, columns) = x.shape, parts
    x = F.pad(x, (0, -W % columns, 0, -H % rows)).permute(0, 2, 3, 1)
    x = x.reshape(B, x.shape[1] // rows, rows, x.shape[2] // columns, columns, C)
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def _together(x: Tensor, parts: tuple[int, int], size: torch.Size) -> Tensor:
    """What `_apart` made of a tensor of `size`, back: (B, C, H, W)."""
    if parts == (1, 1):
        return x
    (B, C, H, W), (rows, columns), (h, w) = size, parts, x.shape[2:]
    x = x.permute(0, 2, 3, 1).reshape(rows, columns, B, h, w, C).permute(2, 3, 0, 4, 1, 5)
    return x.reshape(B, h * rows, w * columns, C).permute(0, 3, 1, 2)[:, :, :H, :W]
