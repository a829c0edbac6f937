"""Strong views: the pictures of a batch with other colours, blur and holes, on the batch's device.

    strong = strong_view(batch, settings, seed, step)

The geometry stays, so a pseudo label of the weak view fits the strong one pixel by pixel. Colour operations are
torchvision's; what happens to a picture depends on its place in the joint batch, the step and the number of the view,
never on the process that holds it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from stages.engine import distributed
from stages.engine.augmentation import IGNORE, PADDING_COLOUR
from stages.engine.batch import Batch
from stages.engine.config import StrongAugmentationSettings
from stages.engine.randomness import generator
from stages.networks import normalise


def strong_view(batch: Batch, settings: StrongAugmentationSettings, seed: int, step: int, view: int = 0) -> Batch:
    """The batch with strongly augmented pictures; in holes the label is 255 and `valid` is false."""
    offset = distributed.rank() * len(batch)
    images, holes = [], []
    for place, picture in enumerate(batch.pixels, start=offset):
        random = generator(seed, "strong", step, place, view)
        image = change_colours(picture, settings, random)
        hole = draw_hole(settings, (picture.shape[1], picture.shape[2]), random)
        if hole is not None:
            image = _filled(image, hole, settings, random)
        images.append(image)
        holes.append(hole)
    pixels = torch.where(batch.valid[:, None], torch.stack(images), batch.pixels)  # padding keeps its colour
    image = (normalise(pixels) * batch.valid[:, None]).contiguous(memory_format=torch.channels_last)
    label, valid = batch.label, batch.valid
    if any(hole is not None for hole in holes):
        label, valid = label.clone(), valid.clone()
        for number, hole in enumerate(holes):
            if hole is not None:
                label[number][hole] = IGNORE
                valid[number][hole] = False
    return batch.replace(image=image, pixels=pixels, label=label, valid=valid)


def change_colours(picture: Tensor, settings: StrongAugmentationSettings, random: np.random.Generator) -> Tensor:
    """Jitter in a random order, loss of colour, blur; each with its probability.

    uint8 (3, H, W) -> uint8 (3, H, W). All numbers are drawn whether they are used or not.
    """
    chances = random.random(3)
    brightness, contrast, saturation = (
        1 + spread * random.uniform(-1, 1) for spread in (settings.brightness, settings.contrast, settings.saturation)
    )
    hue = settings.hue * random.uniform(-1, 1)
    order = random.permutation(4)
    sigma = random.uniform(*settings.blur_sigma)
    if chances[0] < settings.jitter:
        for operation in order:
            if operation == 0:
                picture = tv.adjust_brightness(picture, brightness)
            elif operation == 1:
                picture = tv.adjust_contrast(picture, contrast)
            elif operation == 2:
                picture = tv.adjust_saturation(picture, saturation)
            elif hue:
                picture = tv.adjust_hue(picture, hue)
    if chances[1] < settings.grey:
        picture = tv.rgb_to_grayscale(picture, num_output_channels=3)
    if chances[2] < settings.blur:
        picture = tv.gaussian_blur(picture, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma])
    return picture


def draw_hole(
    settings: StrongAugmentationSettings, size: tuple[int, int], random: np.random.Generator
) -> tuple[slice, slice] | None:
    """Rows and columns of a hole, or None: a share of the picture's area, drawn anew until it fits."""
    if random.random() >= settings.cutout:
        return None
    height, width = size
    area = random.uniform(*settings.cutout_area) * height * width
    while True:
        ratio = random.uniform(settings.cutout_ratio, 1 / settings.cutout_ratio)
        columns, rows = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        left, top = int(random.integers(width)), int(random.integers(height))
        if left + columns <= width and top + rows <= height:
            return slice(top, top + rows), slice(left, left + columns)


def _filled(
    image: Tensor, hole: tuple[slice, slice], settings: StrongAugmentationSettings, random: np.random.Generator
) -> Tensor:
    image = image.clone()
    rows, columns = (part.stop - part.start for part in hole)
    if settings.cutout_fill == "noise":
        colours = torch.from_numpy(random.integers(0, 256, (3, rows, columns), dtype=np.uint8))
    else:
        colours = torch.tensor(PADDING_COLOUR, dtype=torch.uint8)[:, None, None]
    image[(slice(None), *hole)] = colours.to(image.device, non_blocking=True)
    return image
