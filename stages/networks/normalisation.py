"""Pixels to network input: the one place where ImageNet's mean and standard deviation are applied."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0..1
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """(x - mean) / std per channel, on the images' device.

    RGB images (B, 3, H, W), uint8 0..255 or float 0..1 -> float of the same shape.
    """
    if images.dtype == torch.uint8:
        images = images.to(torch.get_default_dtype()) / 255
    mean, std = _statistics(images)
    return (images - mean) / std


def pixels_of(images: Tensor) -> Tensor:
    """Normalised images (B, 3, H, W) -> the RGB uint8 that they were made of, or the nearest."""
    mean, std = _statistics(images)
    return ((images * std + mean) * 255).round_().clamp_(0, 255).to(torch.uint8)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    # non_blocking: on a GPU the host must not wait for six numbers
    mean, std = (torch.tensor(x, dtype=images.dtype).view(1, 3, 1, 1) for x in (MEAN, STD))
    return mean.to(images.device, non_blocking=True), std.to(images.device, non_blocking=True)
