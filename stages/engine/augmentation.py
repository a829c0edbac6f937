"""Paired augmentation: geometry on the CPU, sample by sample (colour and normalisation: batch by batch, on the device).

Images and labels stay uint8 until they are on the device. All draws come from one generator per sample, so a sample
does not depend on which process makes it, or when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.cells import on_copy
from artifacts.masks import IGNORE
from artifacts.score_maps import ScoreMap
from stages.engine.colour import draw_factors
from stages.engine.config import AugmentationConfig
from stages.engine.interpolation import interpolation_matrix
from stages.engine.randomness import generator

PADDING_COLOUR = (124, 116, 104)  # ImageNet's mean: zero after normalisation


@dataclass(frozen=True)
class Geometry:
    """One draw: the part of the image that is shown, at which size, mirrored or not.

    `box` is (left, top, right, bottom) in pixels of the original, `size` is (width, height) of its copy in the
    crop's upper left corner; the rest of the crop is padding.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool


class View(NamedTuple):
    """How a sample shows its image: the geometry, and factors of brightness, contrast and saturation (3,)."""

    geometry: Geometry
    colour: NDArray[np.float32]


def draw_view(config: AugmentationConfig, size: tuple[int, ...], crop_size: int, random: np.random.Generator) -> View:
    """A new view of an image of `size` (height, width) pixels."""
    geometry = draw_geometry(config, size, crop_size, random)
    return View(geometry, draw_factors(config, random).astype(np.float32))


def fixed_view(config: AugmentationConfig, image_id: str, number: int, size: tuple[int, ...], crop_size: int) -> View:
    """View `number`, from 0 on, of the `config.views` of an image; with flip, an odd one mirrors the one before."""
    draw, mirrored = divmod(number, 2) if config.flip else (number, 0)
    view = draw_view(config, size, crop_size, generator(0, "view", image_id, draw))
    return view._replace(geometry=replace(view.geometry, flip=bool(mirrored)))


def draw_geometry(
    config: AugmentationConfig, size: tuple[int, ...], crop_size: int, random: np.random.Generator
) -> Geometry:
    """Random scale, crop position and mirroring for an image of `size` (height, width) pixels."""
    height, width = size
    if config.mode == "resize":
        return Geometry((0, 0, width, height), (crop_size, crop_size), config.flip and random.random() < 0.5)
    scale = float(random.choice(config.scales)) if config.scales else float(random.uniform(*config.scale))
    scaled_width, scaled_height = max(round(width * scale), 1), max(round(height * scale), 1)
    shown_width, shown_height = min(scaled_width, crop_size), min(scaled_height, crop_size)
    left = int(random.integers(scaled_width - shown_width + 1))
    top = int(random.integers(scaled_height - shown_height + 1))
    x, y = width / scaled_width, height / scaled_height  # original pixels per scaled pixel
    box = (left * x, top * y, min((left + shown_width) * x, width), min((top + shown_height) * y, height))
    return Geometry(box, (shown_width, shown_height), config.flip and random.random() < 0.5)


def cut_image(image: np.ndarray, geometry: Geometry, crop_size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (crop_size, crop_size, 3), bilinear; padding has ImageNet's mean colour."""
    part = Image.fromarray(image).resize(geometry.size, Image.Resampling.BILINEAR, box=geometry.box)
    width, height = geometry.size
    shown, padding = slice(0, width), slice(width, crop_size)
    if geometry.flip:  # mirrored by Pillow: several times faster than copying a mirrored array
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        shown, padding = slice(crop_size - width, crop_size), slice(0, crop_size - width)
    crop = np.empty((crop_size, crop_size, 3), np.uint8)
    crop[:height, shown] = np.asarray(part)
    crop[:height, padding] = PADDING_COLOUR
    crop[height:] = PADDING_COLOUR
    return crop


def cut_label(label: np.ndarray, geometry: Geometry, crop_size: int) -> np.ndarray:
    """uint8 (H, W) -> uint8 (crop_size, crop_size), nearest neighbour; padding is 255."""
    part = Image.fromarray(label).resize(geometry.size, Image.Resampling.NEAREST, box=geometry.box)
    crop = np.full((crop_size, crop_size), IGNORE, np.uint8)
    crop[: geometry.size[1], : geometry.size[0]] = np.asarray(part)
    return crop[:, ::-1] if geometry.flip else crop


def cut_maps(
    maps: ScoreMap, num_classes: int, geometry: Geometry, crop_size: int, stride: int, padding: float
) -> np.ndarray:
    """Score maps of an image -> float32 (num_classes, h, w), h = w = ceil(crop_size / stride).

    Channel c is class id c, 0 where the maps lack it. Cell i is centred on pixel `stride` * i of the crop and has the
    value that the map, interpolated bilinearly, has at that point of the image; `padding` where there is none.
    """
    left, top, right, bottom = geometry.box
    places = np.arange(0, crop_size, stride)
    across = crop_size - 1 - places if geometry.flip else places  # pixels of the crop before it was mirrored
    rows, columns = (
        interpolation_matrix(first + on_copy(at, shown, last - first), maps.stride, count)
        for first, last, at, shown, count in zip(
            (top, left), (bottom, right), (places, across), geometry.size[::-1], maps.scores.shape[1:], strict=True
        )
    )
    cut = np.zeros((num_classes, len(places), len(places)), np.float32)
    cut[maps.classes] = rows @ maps.scores @ columns.T
    cut[:, places >= geometry.size[1]] = padding
    cut[:, :, across >= geometry.size[0]] = padding
    return cut


def valid_area(geometry: Geometry, crop_size: int) -> np.ndarray:
    """bool (crop_size, crop_size): true where the crop shows the image, false on padding."""
    valid = np.zeros((crop_size, crop_size), bool)
    valid[: geometry.size[1], : geometry.size[0]] = True
    return valid[:, ::-1] if geometry.flip else valid
