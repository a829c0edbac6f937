"""Perturbations of features, applied by cross-consistency training before its auxiliary decoders.

Features are (B, C, h, w). What happens to an image depends on its place in the joint batch: each function takes one
NumPy generator an image (`image_generators`), or one seed for the whole batch (`feature_noise`).

Source: Ouali, Hudelot & Tami, CVPR 2020, section 3.3, and its code, unless another source is named. docs/methods/cct.md
lists the differences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from stages.engine import distributed
from stages.engine.randomness import generator
from stages.networks import on_cells

Box = tuple[slice, slice]  # rows, columns
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def image_generators(count: int, seed: int, *purpose: str | int) -> list[np.random.Generator]:
    """One generator for each of this process's `count` images, by place in the joint batch."""
    first = distributed.rank() * count
    return [generator(seed, *purpose, place) for place in range(first, first + count)]


def uniform(like: Tensor, low: float, high: float, random: np.random.Generator) -> Tensor:
    """U(low, high), fp32, of a tensor's shape and device; drawn on the device, from a seed that `random` gives."""
    own = torch.Generator(like.device).manual_seed(int(random.integers(2**63)))
    return torch.rand(like.shape, generator=own, device=like.device) * (high - low) + low


def channel_dropout(features: Tensor, rate: float, randoms: Sequence[np.random.Generator]) -> Tensor:
    """DropOut: whole channels become 0 with probability `rate`, the others grow by 1 / (1 - rate)."""
    kept = np.stack([random.random(features.shape[1]) >= rate for random in randoms])
    scale = torch.from_numpy(kept / (1 - rate)).to(features.device, features.dtype, non_blocking=True)
    return features * scale[:, :, None, None]


def complementary_masks(
    count: int, channels: int, whole: float, seed: int, *purpose: str | int
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the channels of two views, float32 (count, channels) each: 0 in one view where it is 2 in the second.

    One draw an image, half of its channels to either view on average. A random share `whole` of the images of the
    joint batch, rounded down, keeps all channels in both views: factors 1 (Yang et al., UniMatch V2, and its code).
    """
    first, joint = distributed.rank() * count, distributed.world_size() * count
    randoms = image_generators(count, seed, *purpose)
    masks = np.stack([2 * random.integers(0, 2, channels) for random in randoms]).astype(np.float32)
    kept = generator(seed, *purpose, "whole").permutation(joint)[: int(joint * whole)]
    masks[[place - first for place in kept if first <= place < first + count]] = 1
    return masks, 2 - masks


def feature_drop(features: Tensor, share: tuple[float, float], randoms: Sequence[np.random.Generator]) -> Tensor:
    """F-Drop: cells whose mean over the channels reaches gamma times the image's largest become 0.

    gamma ~ U(share), one an image.
    """
    gamma = torch.tensor([random.uniform(*share) for random in randoms], dtype=features.dtype)
    strength = features.detach().mean(1, keepdim=True)
    limit = strength.amax((2, 3), keepdim=True) * gamma.to(features.device, non_blocking=True).view(-1, 1, 1, 1)
    return features * (strength < limit)


def feature_noise(features: Tensor, spread: float, seed: int, *purpose: str | int) -> Tensor:
    """F-Noise: z + z n, n ~ U(-spread, spread) for every channel and cell, the same n for all images."""
    noise = uniform(features[0], -spread, spread, generator(seed, *purpose))
    return features * (1 + noise).to(features.dtype)


def keep_cells(features: Tensor, kept: Tensor, stride: int, patches: bool = False) -> Tensor:
    """Con-Msk, Obj-Msk and G-Cutout: cells outside a map of pixels become 0.

    Args:
        kept: bool (B, H, W). A cell is read at its centre (`on_cells`), as nearest-neighbour sampling does.
    """
    return features * on_cells(kept, stride, patches)[:, None]


def object_boxes(foreground: np.ndarray, min_contour: int) -> list[Box]:
    """Bounding boxes of the connected regions (8 neighbours) whose border has more than `min_contour` pixels.

    foreground: bool (H, W). A region's border are its pixels with a neighbour of the four outside of it. Regions in
    the order of their first pixel, row by row.
    """
    regions, count = ndimage.label(foreground, EIGHT_NEIGHBOURS)
    border = foreground & ~ndimage.binary_erosion(foreground)
    lengths = np.bincount(regions[border], minlength=count + 1)
    return [box for number, box in enumerate(ndimage.find_objects(regions), 1) if lengths[number] > min_contour]


def guided_cutout(
    boxes: Sequence[Sequence[Box]], size: tuple[int, int], erase: float, randoms: Sequence[np.random.Generator]
) -> np.ndarray:
    """G-Cutout: bool (B, H, W), false in a random box inside each object's, `erase` times as high and wide."""
    kept = np.ones((len(boxes), *size), bool)
    for image, own, random in zip(kept, boxes, randoms, strict=True):
        for rows, columns in own:
            image[_part(rows, erase, random), _part(columns, erase, random)] = False
    return kept


def _part(whole: slice, share: float, random: np.random.Generator) -> slice:
    length = int(share * (whole.stop - whole.start))
    start = whole.start + int(random.integers(whole.stop - whole.start - length + 1))
    return slice(start, start + length)
