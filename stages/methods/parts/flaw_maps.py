"""Flaw maps of guided collaborative training: the targets of the flaw detector, and the use of its output.

Ke et al., "Guided collaborative training for pixel-wise semi-supervised learning", ECCV 2020, with the kernel sizes of
its code (PixelSSL). No gradient passes through any of these functions, and none changes its arguments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.engine.losses import IGNORE
from stages.methods.parts.discrimination import one_hot

BLURS = {"found": 16, "target": 8, "dilated": 4}  # kernels: the height of the image divided by this


@torch.no_grad()
def flaw_target(probabilities: Tensor, label: Tensor, mu: float, dilations: int) -> Tensor:
    """C (B, H, W) in 0..1: where a prediction (B, C, H, W) differs from the mask (B, H, W), smooth and widened.

    mu sum_c |onehot - P| is blurred, then `dilations` times widened by a pixel and blurred again, then stretched to
    0..1 image by image. Unknown pixels (255) show no flaw: they are set to 0, since their one-hot mask of zeros would
    count as half a flaw.
    """
    difference = (one_hot(label, probabilities.shape[1]) - probabilities.float()).abs().sum(1)
    flaws = mu * difference * (label != IGNORE)
    height = label.shape[1]
    flaws = blur(flaws, odd(height // BLURS["target"]))
    for _ in range(dilations):
        widened = F.max_pool2d(flaws[:, None], 3, stride=1, padding=1)[:, 0]
        flaws = blur(widened, odd(height // BLURS["dilated"]))
    return stretch(flaws)


@torch.no_grad()
def tidy(flaws: Tensor, valid: Tensor, visible: float) -> Tensor:
    """The flaw detector's output (B, H, W), blurred and stretched to 0..1 image by image.

    Negative values and padding show no flaw, and no pixel of a map that is nowhere above `visible`.
    """
    smooth = blur(flaws.float().clamp(min=0) * valid, odd(flaws.shape[1] // BLURS["found"]))
    return torch.where(smooth.amax((1, 2), keepdim=True) > visible, stretch(smooth), torch.zeros_like(smooth))


@torch.no_grad()
def less_flawed(own: Tensor, other: Tensor, own_flaws: Tensor, other_flaws: Tensor, threshold: float) -> Tensor:
    """The targets of a network (B, C, H, W): its own probabilities where they are not worse, else those of
    the second network. Flaws above the threshold count as equal: where both are this bad, a network keeps its own.
    """
    own_flaws, other_flaws = (f.masked_fill(f > threshold, 1.0) for f in (own_flaws, other_flaws))
    return torch.where((other_flaws >= own_flaws)[:, None], own, other)


def odd(number: int) -> int:
    return number + 1 - number % 2


def blur(maps: Tensor, kernel: int) -> Tensor:
    """Gaussian blur of (B, H, W), mirrored at the borders; sigma follows from the odd kernel size as in OpenCV."""
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    places = torch.arange(kernel, device=maps.device, dtype=torch.float32) - kernel // 2
    weights = torch.exp(-0.5 * (places / sigma).square())
    weights = weights / weights.sum()
    maps = F.pad(maps[:, None], [kernel // 2] * 4, mode="reflect")
    return F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def stretch(maps: Tensor) -> Tensor:
    """(B, H, W) from 0 at an image's lowest value to 1 at its highest; a constant image becomes 0."""
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # Rounding gives a constant map tiny differences, which must not be stretched.
    span = torch.maximum(highest - lowest, 1e-3 * highest.abs()).clamp(min=1e-9)
    return (maps - lowest) / span
