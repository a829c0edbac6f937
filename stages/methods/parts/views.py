"""Strong views: the images of a batch with different colours, blur and cutouts, on the batch's device.

    strong = strong_view(batch, settings, seed, step)

The geometry stays, so a pseudo label of the weak view fits the strong one pixel by pixel. Colour operations are those
of torchvision, done on whole batches and rounded once at the end. The changes of an image depend on its place in the
joint batch, the step and the number of the view, never on the process that computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.engine import distributed
from stages.engine.augmentation import IGNORE, PADDING_COLOUR
from stages.engine.batch import Batch
from stages.engine.colour import brightness, contrast, draw_factors, saturation
from stages.engine.config import StrongAugmentationSettings
from stages.engine.device import sent
from stages.engine.randomness import generator
from stages.networks import normalise


def strong_view(batch: Batch, settings: StrongAugmentationSettings, seed: int, step: int, view: int = 0) -> Batch:
    """The batch with strongly augmented images; in cutouts the label is 255 and `valid` is false."""
    return strong_views([(batch, view)], settings, seed, step)[0]


def strong_views(
    parts: Sequence[tuple[Batch, int]], settings: StrongAugmentationSettings, seed: int, step: int
) -> list[Batch]:
    """`strong_view` of several batches and numbers of views; every operation runs once over the images of all."""
    randoms = [
        generator(seed, "strong", step, distributed.rank() * len(batch) + place, view)
        for batch, view in parts
        for place in range(len(batch))
    ]
    before = torch.cat([batch.pixels for batch, _ in parts])
    valid = torch.cat([batch.valid for batch, _ in parts])
    images = strong_colours(before, [draw_colours(settings, random) for random in randoms])
    size = (before.shape[2], before.shape[3])
    cutouts = {number: draw_cutout(settings, size, random) for number, random in enumerate(randoms)}
    fitting = {number: cutout for number, cutout in cutouts.items() if cutout is not None}
    for number, cutout in fitting.items():
        _fill(images[number], cutout, settings, randoms[number])
    pixels = torch.where(valid[:, None], images, before)  # padding keeps its colour
    image = (normalise(pixels) * valid[:, None]).contiguous(memory_format=torch.channels_last)
    label = torch.cat([batch.label for batch, _ in parts])
    for number, cutout in fitting.items():
        label[number][cutout] = IGNORE
        valid[number][cutout] = False
    counts = [len(batch) for batch, _ in parts]
    changed = zip(*(maps.split(counts) for maps in (image, pixels, label, valid)), strict=True)
    return [
        batch.replace(image=image, pixels=pixels, label=label, valid=valid)
        for (batch, _), (image, pixels, label, valid) in zip(parts, changed, strict=True)
    ]


class Colours(NamedTuple):
    """The changes of one image; every number is drawn, whether it is used or not."""

    jitter: bool
    grey: bool
    blur: bool
    amounts: tuple[float, ...]  # factors of brightness, contrast and saturation, turns of the hue
    order: tuple[int, ...]  # the order of these four
    sigma: float


def draw_colours(settings: StrongAugmentationSettings, random: np.random.Generator) -> Colours:
    """The colour changes of an image."""
    chances = random.random(3)
    amounts = (*draw_factors(settings, random).tolist(), settings.hue * random.uniform(-1, 1))
    order = tuple(random.permutation(4).tolist())
    jitter, grey, blur = (chances < (settings.jitter, settings.grey, settings.blur)).tolist()
    return Colours(jitter, grey, blur, amounts, order, random.uniform(*settings.blur_sigma))


def strong_colours(samples: Tensor, draws: Sequence[Colours]) -> Tensor:
    """Jitter in the order of each image, then loss of colour, then blur.

    uint8 (B, 3, H, W) -> uint8 (B, 3, H, W). Every operation runs once over the images that have it next.
    """
    # one plane per colour: much faster than the layout of the bytes
    x = samples.to(torch.float32, memory_format=torch.contiguous_format)
    changes = (brightness, contrast, saturation, turn_hue, saturation)  # factor 0 in the last operation: loss of colour
    groups = [
        (number, [n for n, draw in enumerate(draws) if draw.jitter and draw.order[turn] == number])
        for turn in range(4)
        for number in range(4)
    ]
    groups.append((4, [n for n, draw in enumerate(draws) if draw.grey]))
    groups = [(number, group) for number, group in groups if group]
    counts = [len(group) for _, group in groups]
    # one transfer for all
    members = sent(torch.tensor([n for _, group in groups for n in group], dtype=torch.int64), x.device).split(counts)
    chosen = [(*draws[n].amounts, 0.0)[number] for number, group in groups for n in group]
    amounts = sent(torch.tensor(chosen, dtype=torch.float32).view(-1, 1, 1, 1), x.device).split(counts)
    for (number, _), places, amount in zip(groups, members, amounts, strict=True):
        x.index_copy_(0, places, changes[number](x.index_select(0, places), amount))
    return _blurred(x, draws).round_().to(torch.uint8)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """The hue turned, with value and saturation of HSV kept: chroma and the lowest colour stay the same.

    turn: (B, 1, 1, 1), shares of a whole turn.
    """
    red, green, blue = x.unbind(1)
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    scale = chroma.clamp(min=1e-3).reciprocal_()  # for greys the differences are 0: any scale is right
    # sixths of a turn from red; torch.where is slow on CPUs, so 1 and 0 choose instead
    is_red, is_green = (red - high).sign_().add_(1), (green - high).sign_().add_(1)
    sixths = torch.lerp((red - green).mul_(scale).add_(4), (blue - red).mul_(scale).add_(2), is_green)
    sixths = torch.lerp(sixths, (green - blue).mul_(scale), is_red)
    turns = sixths.div_(6).add_(turn[:, 0])
    sixths = turns.sub_(turns.floor()).mul_(6)
    shares = (sixths - 3).abs_().sub_(1), 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()
    return torch.stack([torch.addcmul(low, chroma, share.clamp_(0, 1)) for share in shares], dim=1)


def _blurred(x: Tensor, draws: Sequence[Colours]) -> Tensor:
    """Gaussian blur where drawn, cut off at 3 sigma, mirrored at the edges; rows and columns apart."""
    chosen = sorted((n for n, draw in enumerate(draws) if draw.blur), key=lambda n: -draws[n].sigma)
    if not chosen:
        return x
    # mirroring reaches one pixel less than the size of the image
    radii = [min(math.ceil(3 * draws[n].sigma), min(x.shape[2:]) - 1) for n in chosen]
    distances, sigmas = np.arange(radii[0] + 1), np.array([[draws[n].sigma] for n in chosen])
    weights = np.exp(-0.5 * (distances / sigmas) ** 2) * (distances <= np.array(radii)[:, None])
    weights /= 2 * weights.sum(1, keepdims=True) - 1  # both sides and the middle, which is 1
    taps = sent(weights.astype(np.float32).T.copy(), x.device)
    places = sent(torch.tensor(chosen), x.device)
    blurred = x.index_select(0, places)
    for axis in (3, 2):
        blurred = _weighted_sum(blurred, taps[:, :, None, None, None], radii, axis)
    return x.index_copy_(0, places, blurred)


def _weighted_sum(x: Tensor, taps: Tensor, radii: Sequence[int], axis: int) -> Tensor:
    """sum_d taps[|d|] x shifted by d along an axis, |d| <= radius of each image; radii fall.

    x (b, 3, H, W), taps (r + 1, b, 1, 1, 1).
    """
    radius, length = radii[0], x.shape[axis]
    padded = F.pad(x, (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius), mode="reflect")
    total = x * taps[0]
    for distance in range(1, radius + 1):
        far = sum(own >= distance for own in radii)  # the first images; the radii of the rest are smaller
        sums, maps, weights = total[:far], padded[:far], taps[distance, :far]
        for start in (radius - distance, radius + distance):
            sums.addcmul_(maps.narrow(axis, start, length), weights)
    return total


def draw_cutout(
    settings: StrongAugmentationSettings, size: tuple[int, int], random: np.random.Generator
) -> tuple[slice, slice] | None:
    """Rows and columns of a cutout, or None.

    Share of the area, shape and place are all drawn again until the cutout fits, as in ST's code, so that large ones
    are rejected more often. UniMatch's boxes (`single_box_mask` of cutmix.py) differ only in that they keep their area.
    """
    if random.random() >= settings.cutout:
        return None
    height, width = size
    while True:
        area = random.uniform(*settings.cutout_area) * height * width
        ratio = random.uniform(settings.cutout_ratio, 1 / settings.cutout_ratio)
        columns, rows = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        left, top = int(random.integers(width)), int(random.integers(height))
        if left + columns <= width and top + rows <= height:
            return slice(top, top + rows), slice(left, left + columns)


def _fill(
    image: Tensor, cutout: tuple[slice, slice], settings: StrongAugmentationSettings, random: np.random.Generator
) -> None:
    """Noise or mean colour into the cutout of an image uint8 (3, H, W)."""
    rows, columns = (part.stop - part.start for part in cutout)
    if settings.cutout_fill == "noise":
        colours = torch.from_numpy(random.integers(0, 256, (3, rows, columns), dtype=np.uint8))
    else:
        colours = torch.tensor(PADDING_COLOUR, dtype=torch.uint8)[:, None, None]
    image[(slice(None), *cutout)] = sent(colours, image.device)
