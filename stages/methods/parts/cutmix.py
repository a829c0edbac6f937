"""CutMix for segmentation: boxes, and mixing images with their labels and maps.

Boxes after French et al. (BMVC 2020), as CPS uses them: n boxes that together cover a share q of the image. A label
map, a confidence map and the map of valid pixels must be cut with the same boxes; otherwise pasted padding would be
trained on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stages.engine import distributed
from stages.engine.batch import NO_MAPS, Batch
from stages.engine.config import CutMixSettings
from stages.engine.device import sent
from stages.engine.randomness import generator

SINGLE_BOX_AREA, SINGLE_BOX_RATIO = (0.02, 0.4), 0.3  # UniMatch's code
CHANCE = {"french": 1.0, "unimatch": 0.5}  # probability that an image has boxes, as published


def box_mask(
    height: int, width: int, boxes: int, share: tuple[float, float], random: np.random.Generator
) -> np.ndarray:
    """bool (height, width), true inside an odd number of the boxes.

    For each box an area share q ~ U(share); its height share is exp(U(0, 1) ln q) (log-uniform aspect), its width
    share q / that; both times sqrt(1 / boxes). Boxes lie inside the image; where they overlap they cancel.
    """
    mask = np.zeros((height, width), bool)
    for _ in range(boxes):
        q = random.uniform(*share)
        tall = math.exp(random.uniform() * math.log(q)) if q < 1 else 1.0
        wide = q / tall
        rows = round(tall * math.sqrt(1 / boxes) * height)
        columns = round(wide * math.sqrt(1 / boxes) * width)
        top = round(random.uniform() * (height - rows))
        left = round(random.uniform() * (width - columns))
        mask[top : top + rows, left : left + columns] ^= True
    return mask


def single_box_mask(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """bool (height, width), true in one box as UniMatch draws it.

    Area U(.02, .4) of the image, height to width U(.3, 1 / .3); drawn anew until the box fits.
    """
    mask = np.zeros((height, width), bool)
    area = random.uniform(*SINGLE_BOX_AREA) * height * width
    while True:
        ratio = random.uniform(SINGLE_BOX_RATIO, 1 / SINGLE_BOX_RATIO)
        columns, rows = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        left, top = int(random.integers(width)), int(random.integers(height))
        if left + columns <= width and top + rows <= height:
            mask[top : top + rows, left : left + columns] = True
            return mask


def draw_boxes(settings: CutMixSettings, batch: Batch, seed: int, step: int, view: int = 0) -> Tensor:
    """bool (B, H, W) on the batch's device, for one view of its images.

    The boxes of an image depend only on its place in the joint batch: two processes draw the same as one.
    """
    height, width = batch.image.shape[-2:]
    offset = distributed.rank() * len(batch)
    chance = CHANCE[settings.style] if settings.chance is None else settings.chance
    masks = []
    for place in range(offset, offset + len(batch)):
        random = generator(seed, "cutmix", step, place, view)
        if chance < 1 and random.random() < 1 - chance:
            masks.append(np.zeros((height, width), bool))
        elif settings.style == "french":
            masks.append(box_mask(height, width, settings.boxes, settings.share, random))
        else:
            masks.append(single_box_mask(height, width, random))
    return sent(np.stack(masks), batch.image.device)


def mix(first: Tensor, second: Tensor, boxes: Tensor) -> Tensor:
    """`second` inside the boxes, `first` outside.

    Args:
        first, second: (B, ..., H, W), maps of the same kind (images, labels, logits, valid).
        boxes: bool (B, H, W).
    """
    shape = (boxes.shape[0], *[1] * (first.ndim - 3), *boxes.shape[-2:])
    return torch.where(boxes.view(shape), second, first)


def mix_batches(first: Batch, second: Batch, boxes: Tensor) -> Batch:
    """The images of `second` pasted into those of `first`, with their labels and valid pixels."""
    return first.replace(
        image=mix(first.image, second.image, boxes),
        pixels=mix(first.pixels, second.pixels, boxes),
        label=mix(first.label, second.label, boxes),
        valid=mix(first.valid, second.valid, boxes),
        extra={},
        maps=NO_MAPS,
    )
