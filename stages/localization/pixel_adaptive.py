"""Pixel-adaptive refinement (Ru et al., CVPR 2022): maps become means over pixels of similar colour, again and again.

It needs no network and nothing compiled, and works on batches on any device.

    refined = refined_maps(images, maps, Neighbourhood())      # (B, K, H, W), both of one size
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-8  # added to standard deviations, as in the authors' code


@dataclass(frozen=True)
class Neighbourhood:
    """Which pixels a pixel looks at, and how alike they must be.

    Attributes:
        dilations: the distances of its neighbours, pixels, in each of eight directions.
        colour_width: w1, in standard deviations of the neighbours. Of the distance, too.
        position_weight: w2, the weight of nearness against likeness of colour.
    """

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    colour_width: float = 0.3
    position_weight: float = 0.01

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """(rows, columns) to each neighbour."""
        steps = [step for step in itertools.product((-1, 0, 1), repeat=2) if any(step)]
        return [(d * y, d * x) for d in self.dilations for y, x in steps]

    def shifted(self, values: Tensor) -> Iterator[Tensor]:
        """Values (B, C, H, W) of each neighbour, views of one padded copy; those of the border go on beyond it."""
        far, (height, width) = max(self.dilations), values.shape[-2:]
        padded = F.pad(values, [far] * 4, mode="replicate")
        for y, x in self.offsets:
            yield padded[..., far + y : far + y + height, far + x : far + x + width]


def affinities(images: Tensor, around: Neighbourhood) -> Tensor:
    """a (B, N, H, W) of images (B, 3, H, W) of any range; sums to 1 over the N neighbours of each pixel.

    a_ij = (softmax_j -mean over the channels ((I_j - I_i) / (w1 s_i))^2 + w2 softmax_j -(d_j / (w1 s))^2) / (1 + w2)

    s_i: standard deviation of I_j over the neighbours j, by channel; d_j: the distance, s: its standard deviation.
    """
    count = len(around.offsets)
    nothing = torch.zeros_like(images)
    mean = sum(around.shifted(images), nothing) / count
    square = sum(((other - mean) ** 2 for other in around.shifted(images)), nothing) / (count - 1)
    width = around.colour_width * (square.sqrt() + TINY)
    unlike = torch.stack([((other - images) / width).square().mean(1) for other in around.shifted(images)], 1)
    distance = torch.tensor(around.offsets, dtype=images.dtype, device=images.device).norm(dim=1)
    near = (-((distance / (around.colour_width * (distance.std() + TINY))) ** 2)).softmax(0)
    likeness = unlike.neg_().softmax(1)
    return likeness.add_(around.position_weight * near[:, None, None]).div_(1 + around.position_weight)


def refined_maps(images: Tensor, maps: Tensor, around: Neighbourhood, iterations: int) -> Tensor:
    """M (B, K, H, W) after M_i <- sum_j a_ij M_j, repeated; a constant map stays as it is."""
    if not maps.numel():  # of images without a class
        return maps
    weights = affinities(images, around)
    for _ in range(iterations):
        total = torch.zeros_like(maps)
        for number, other in enumerate(around.shifted(maps)):
            total.addcmul_(weights[:, number, None], other)
        maps = total
    return maps
