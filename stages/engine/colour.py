"""Brightness, contrast and saturation of images on their device, for weak and strong views alike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.engine.config import AugmentationConfig, StrongAugmentationSettings


def draw_factors(
    settings: AugmentationConfig | StrongAugmentationSettings, random: np.random.Generator
) -> NDArray[np.float64]:
    """(3,): factors of brightness, contrast and saturation."""
    spreads = np.array([settings.brightness, settings.contrast, settings.saturation])
    return 1 + spreads * random.uniform(-1, 1, 3)


def change_colours(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, then contrast, then saturation, image by image.

    Args:
        images: float (B, 3, H, W), 0..255, as in all functions here.
        factors: (B, 3) from `draw_factors`; ones leave the images as they are.
    """
    for change, amount in zip(
        (brightness, contrast, saturation), factors[..., None, None, None].unbind(1), strict=True
    ):
        images = change(images, amount)
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """factor: (B, 1, 1, 1), here and below; 0 is black."""
    return (images * factor).clamp_(0, 255)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the image's mean grey."""
    # in double precision: the mean of an image must not depend on how many images are in the batch
    mean = luma(images).mean((2, 3), keepdim=True, dtype=torch.float64).float()
    return torch.lerp(mean, images, factor).clamp_(0, 255)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0 is a grey image."""
    return torch.lerp(luma(images), images, factor).clamp_(0, 255)


def luma(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), ITU-R 601-2 with the digits of torchvision: at most 0.03 (of 255) below Pillow."""
    return (0.2989 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])[:, None]
