"""The embedded data set `shapes`: textured objects on cluttered grounds, with index masks.

Six classes, each with its own outline and its own texture, in any colour, size and rotation. The images are made
so that class-activation maps fail as they do on photographs:

- every object has a discriminative part (a boat's striped sail, a mushroom's dotted cap) and a plain one (hull, stem),
- boats are on water and mushrooms on moss, which appear almost nowhere else, so a classifier may respond to those,
- the clutter has the classes' textures on different outlines; objects overlap and extend over the image's edge.

Every image is drawn from (seed, image id) alone: any one of them can be drawn again without the others.

    drawing = draw(ShapesConfig(), "train_00000")     # image uint8 (H, W, 3), mask uint8 (H, W)
    summary = write_shapes(ShapesConfig(), image_ids(ShapesConfig()), writer, Execution())
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from artifacts.dataset import write_dataset
from artifacts.masks import IGNORE, encode_mask, read_mask
from artifacts.store import Writer
from stages.contract import Execution
from stages.data.annotations.image_labels import tags_of_mask
from stages.data.class_figures import class_figures
from stages.data.config import ShapesConfig
from stages.data.drawn_classes import (
    BEETLE,
    BOAT,
    CLASS_NAMES,
    FISH,
    MUSHROOM,
    PAINTERS,
    RING,
    STAR,
    FloatArray,
    colour_pair,
    random_colour,
    random_pattern,
    shaded,
    smooth_noise,
)
from stages.parallel.each_image import for_each_image
from stages.parallel.meeting import barrier
from stages.parallel.share import counted, share_of

CONTEXT_OF = {BOAT: "water", MUSHROOM: "moss"}
COMPANION_OF = {STAR: RING, RING: BOAT, BOAT: FISH, MUSHROOM: BEETLE, FISH: STAR, BEETLE: MUSHROOM}
COMPANION_CHANCE = 0.3
WORN_TEXTURE_CHANCE = 0.45  # of a thing of no class: it wears stripes, checks, dots or scales
MOST_TURN = {BOAT: 0.2, MUSHROOM: 0.45}  # radians; the other classes turn freely
SUPERSAMPLING = 2  # images are drawn this much larger, then averaged: soft outlines
SMALLEST_VISIBLE_SHARE = 0.4  # objects that are hidden more than this are removed
SMALLEST_VISIBLE_AREA = 40  # pixels


@dataclass(frozen=True)
class Drawing:
    """One image with its truth."""

    image: np.ndarray  # uint8 (H, W, 3)
    mask: np.ndarray  # uint8 (H, W): class ids, 255 on the outlines
    objects: np.ndarray  # uint8 (H, W): the number of each object, 255 on the outlines


@dataclass(frozen=True)
class Layer:
    """Something to paint: a box of the canvas, its pixels in the box, and its colours."""

    top: int
    left: int
    cover: np.ndarray  # bool (h, w)
    colour: np.ndarray  # float32 (h, w, 3) in 0..1
    class_id: int = 0

    @property
    def box(self) -> tuple[slice, slice]:
        height, width = self.cover.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def write_shapes(
    config: ShapesConfig, splits: Mapping[str, Sequence[str]], writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Draw what is missing of the data set into the writer, under torchrun each rank its share; returns the summary.

    splits: `image_ids`, or those ids with some of train held out.
    """
    everything = sorted(image_id for ids in splits.values() for image_id in ids)
    pairs = share_of(everything, execution, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    with counted(writer, execution, "drawing", pairs) as advance:
        for image_id, files in for_each_image(_files, config, pairs.left, execution.own_workers):
            for folder, content in files.items():
                writer.write_bytes(f"{folder}/{image_id}.png", content)  # the mask last: it says that all are whole
            advance()
    barrier()  # those of every rank are drawn
    if execution.rank != 0:
        return {}
    tags, sizes, pixels = {}, {}, {}
    for image_id in everything:
        mask = read_mask(writer.path / "masks" / f"{image_id}.png", len(CLASS_NAMES))
        tags[image_id], sizes[image_id] = tags_of_mask(mask), (mask.shape[0], mask.shape[1])
        pixels[image_id] = dict(enumerate(np.bincount(mask.ravel(), minlength=256).tolist()))
    facts = {"classes": class_figures(CLASS_NAMES, splits, pixels.get, tags)}
    write_dataset(
        writer,
        name="shapes",
        class_names=CLASS_NAMES,
        splits=splits,
        tags=tags,
        tag_source="masks",
        mask_ids=everything,
        sizes=sizes,
        facts=facts,
    )
    return {
        "class_names": list(CLASS_NAMES),
        "images": {split: len(ids) for split, ids in splits.items() if ids or split != "holdout"},
        "tag_source": "masks",
        "tags_per_image": round(sum(map(len, tags.values())) / len(tags), 3),
        **facts,
    }


def _files(config: ShapesConfig, image_id: str) -> dict[str, bytes]:
    """The bytes of the PNG files of an image, by folder."""
    drawing = draw(config, image_id)
    buffer = BytesIO()
    Image.fromarray(drawing.image).save(buffer, format="PNG")
    objects = {"objects": encode_mask(drawing.objects)} if config.objects else {}
    return {"images": buffer.getvalue(), **objects, "masks": encode_mask(drawing.mask)}


def image_ids(config: ShapesConfig) -> dict[str, list[str]]:
    """The ids of each split. Ids name their split, so that more weak images leave all other images as they are."""
    counts = {"train": config.train, "weak": config.weak, "val": config.val}
    return {split: [f"{split}_{index:05d}" for index in range(count)] for split, count in counts.items()}


def draw(config: ShapesConfig, image_id: str) -> Drawing:
    """Draw one image and its mask. A pure function of the config and the id."""
    rng = np.random.default_rng(_entropy(config.seed, image_id))
    height, width = _draw_size(config, rng)
    canvas_size = (height * SUPERSAMPLING, width * SUPERSAMPLING)

    objects = _visible_objects(config, canvas_size, rng)
    canvas = _background(canvas_size, rng)
    for layer in _clutter(config, canvas_size, rng) + _contexts(config, objects, canvas_size, rng):
        _paint(canvas, layer)
    instances = np.zeros(canvas_size, np.uint8)
    for number, layer in enumerate(objects, start=1):
        _cast_shadow(canvas, layer, rng)
        _paint(canvas, layer)
        instances[layer.box][layer.cover] = number
    image = _photograph(canvas, config.noise, rng)
    numbers = _numbers(instances, config.border)
    class_ids = np.full(256, IGNORE, np.uint8)
    class_ids[: len(objects) + 1] = [0, *(layer.class_id for layer in objects)]
    mask = class_ids[numbers]
    return Drawing(image, mask, numbers)


def _entropy(seed: int, image_id: str) -> list[int]:
    digest = hashlib.sha256(image_id.encode()).digest()
    return [seed, int.from_bytes(digest[:8], "big")]


def _draw_size(config: ShapesConfig, rng: np.random.Generator) -> tuple[int, int]:
    short = round(config.long_side * rng.uniform(config.shortest_side, 1.0))
    return (short, config.long_side) if rng.random() < 0.7 else (config.long_side, short)  # mostly landscape


# ------------------------------------------------------------------------------------------------- which objects


def _visible_objects(config: ShapesConfig, size: tuple[int, int], rng: np.random.Generator) -> list[Layer]:
    """Objects from back to front, without those that are hidden by others."""
    count = 1 + int(rng.choice(config.most_objects, p=_count_chances(config.most_objects)))
    class_ids = [int(rng.integers(1, len(CLASS_NAMES)))]
    for _ in range(count - 1):
        companion = rng.random() < COMPANION_CHANCE
        drawn = int(rng.integers(1, len(CLASS_NAMES)))
        class_ids.append(COMPANION_OF[class_ids[-1]] if companion else drawn)
    layers = [_object(class_id, config, count, size, rng) for class_id in class_ids]

    hidden = np.zeros(size, bool)
    visible: list[Layer] = []
    for layer in reversed(layers):  # front to back
        seen = layer.cover & ~hidden[layer.box]
        area = int(seen.sum())
        enough = area >= SMALLEST_VISIBLE_AREA * SUPERSAMPLING**2
        if not visible or (enough and area >= SMALLEST_VISIBLE_SHARE * layer.cover.sum()):
            visible.append(layer)
            hidden[layer.box] |= layer.cover
    return visible[::-1]


def _count_chances(most: int) -> FloatArray:
    chances = np.array([0.38, 0.32, 0.2, 0.1, 0.05, 0.03][:most])
    return chances / chances.sum()


def _object(class_id: int, config: ShapesConfig, count: int, size: tuple[int, int], rng: np.random.Generator) -> Layer:
    smallest, largest = np.log(config.object_radius)
    crowding = 1.0 if count < 3 else 0.8
    radius = math.exp(rng.uniform(smallest, largest)) * crowding * min(size)
    turn = rng.uniform(-1, 1) * MOST_TURN.get(class_id, math.pi)
    stretch = math.exp(rng.normal(0, 0.12))
    center = (rng.uniform(0.12, 0.88) * size[0], rng.uniform(0.12, 0.88) * size[1])
    mirrored = rng.random() < 0.5
    top, left, u, v = _local_coordinates(center, radius, turn, stretch, mirrored, size)
    cover, colour = PAINTERS[class_id](u, v, rng)
    colour = shaded(colour, u, v, rng)
    return Layer(top, left, cover, colour, class_id)


def _local_coordinates(
    center: tuple[float, float],
    radius: float,
    turn: float,
    stretch: float,
    mirrored: bool,
    size: tuple[int, int],
) -> tuple[int, int, FloatArray, FloatArray]:
    """The object's own coordinates (right, down; outline within about 1) on the box of the canvas it may touch."""
    reach = radius * 1.25 * max(stretch, 1 / stretch)
    top, left = max(0, int(center[0] - reach)), max(0, int(center[1] - reach))
    bottom, right = min(size[0], int(center[0] + reach) + 1), min(size[1], int(center[1] + reach) + 1)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    y, x = (y + 0.5 - center[0]) / radius, (x + 0.5 - center[1]) / radius
    u = (math.cos(turn) * x + math.sin(turn) * y) * stretch
    v = (-math.sin(turn) * x + math.cos(turn) * y) / stretch
    return top, left, -u if mirrored else u, v


# ------------------------------------------------------------------------------------------- ground and clutter


def _background(size: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """One or two textured grounds (above and below a crooked horizon) under uneven light. float32 (H, W, 3)"""
    canvas = _ground(size, rng)
    if rng.random() < 0.55:
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        horizon = size[0] * rng.uniform(0.3, 0.75) + (x - size[1] / 2) * rng.normal(0, 0.12)
        horizon = horizon + (smooth_noise(rng, size, size[1] / 3) - 0.5) * size[0] * 0.15
        below = y > horizon
        canvas[below] = _ground(size, rng)[below]
    light = 0.75 + 0.5 * smooth_noise(rng, size, max(size) / 1.5)
    return canvas * light[..., None]


def _ground(size: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    first = random_colour(rng, saturation=(0.05, 0.6), value=(0.25, 0.85))
    second = random_colour(rng, saturation=(0.05, 0.6), value=(0.25, 0.85))
    cell = size[0] * math.exp(rng.uniform(math.log(0.08), math.log(0.5)))
    blend = (
        0.55 * smooth_noise(rng, size, cell)
        + 0.3 * smooth_noise(rng, size, cell / 2.5)
        + 0.15 * smooth_noise(rng, size, 3)
    )
    colour = first + (second - first) * np.clip((blend - 0.5) * 2 + 0.5, 0, 1)[..., None]
    if rng.random() < 0.6:
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        pattern = random_pattern(rng, x, y, cell=rng.uniform(8, 26))
        colour = colour * (1 - rng.uniform(0.08, 0.3) * pattern[..., None])
    return colour.astype(np.float32)


def _clutter(config: ShapesConfig, size: tuple[int, int], rng: np.random.Generator) -> list[Layer]:
    """Clutter, which belongs to no class: different outlines, often with the texture of a class."""
    return [_thing(size, rng) for _ in range(int(rng.poisson(config.clutter)))]


def _thing(size: tuple[int, int], rng: np.random.Generator) -> Layer:
    center = (rng.uniform(0, 1) * size[0], rng.uniform(0, 1) * size[1])
    radius = math.exp(rng.uniform(math.log(0.05), math.log(0.26))) * min(size)
    stretch = math.exp(rng.normal(0, 0.35))
    top, left, u, v = _local_coordinates(center, radius, rng.uniform(0, 2 * math.pi), stretch, False, size)
    wobble = smooth_noise(rng, u.shape, max(4.0, radius)) - 0.5
    outline = int(rng.integers(5))
    if outline == 0:  # slab
        cover = (np.abs(u) < 0.9) & (np.abs(v) < 0.5)
    elif outline == 1:  # wedge
        cover = (v < 0.6) & (v > -0.9) & (np.abs(u) < (v + 0.9) * 0.6)
    elif outline == 2:  # pebble
        cover = np.hypot(u, v) < 0.8 + 0.7 * wobble
    elif outline == 3:  # bar
        cover = (np.abs(u) < 1.1) & (np.abs(v + 0.4 * u**2) < 0.12)
    else:  # half disc
        cover = (np.hypot(u, v) < 0.9) & (v > -0.1)
    light, dark = colour_pair(rng)
    if rng.random() > WORN_TEXTURE_CHANCE:
        colour = light + (dark - light) * smooth_noise(rng, u.shape, max(4.0, radius / 2))[..., None]
    else:
        pattern = random_pattern(rng, u, v, cell=rng.uniform(0.25, 0.5))
        colour = light + (dark - light) * pattern[..., None]
    return Layer(top, left, cover, shaded(colour.astype(np.float32), u, v, rng))


def _contexts(
    config: ShapesConfig, objects: list[Layer], size: tuple[int, int], rng: np.random.Generator
) -> list[Layer]:
    """Water below boats and moss below mushrooms: background that occurs together with a class."""
    layers = []
    for class_id, kind in CONTEXT_OF.items():
        hosts = [layer for layer in objects if layer.class_id == class_id]
        for host in hosts:
            if rng.random() < config.context_with:
                height, width = host.cover.shape
                center = (host.top + 0.78 * height, host.left + 0.5 * width)
                layers.append(_patch(kind, center, max(height, width) * rng.uniform(0.6, 0.9), size, rng))
        if not hosts and rng.random() < config.context_without:
            center = (rng.uniform(0.3, 0.9) * size[0], rng.uniform(0.1, 0.9) * size[1])
            layers.append(_patch(kind, center, min(size) * rng.uniform(0.25, 0.5), size, rng))
    return layers


def _patch(
    kind: str, center: tuple[float, float], radius: float, size: tuple[int, int], rng: np.random.Generator
) -> Layer:
    top, left, u, v = _local_coordinates(center, radius, 0.0, 1.0, False, size)
    y, x = v * radius, u * radius  # pixels, so that the grain does not grow with the patch
    cover = np.hypot(u, v * 1.7) < 0.85 + 0.6 * (smooth_noise(rng, u.shape, radius / 2) - 0.5)
    if kind == "water":
        base = random_colour(rng, hue=0.56, spread=0.05, saturation=(0.35, 0.8), value=(0.4, 0.75))
        ripple = np.sin(2 * math.pi * (y / 9 + 0.35 * np.sin(x / 6 + rng.uniform(0, 6))))
        colour = base * (0.85 + 0.3 * (ripple > 0.3))[..., None]
    else:
        base = random_colour(rng, hue=0.28, spread=0.06, saturation=(0.35, 0.8), value=(0.3, 0.65))
        blades = smooth_noise(rng, u.shape, 3) * 0.6 + 0.4 * np.sin(x * 1.6 + 4 * smooth_noise(rng, u.shape, 9))
        colour = base * (0.7 + 0.6 * blades)[..., None]
    return Layer(top, left, cover, colour.astype(np.float32))


# ------------------------------------------------------------------------------------------- from layers to pixels


def _paint(canvas: FloatArray, layer: Layer) -> None:
    canvas[layer.box][layer.cover] = layer.colour[layer.cover]


def _cast_shadow(canvas: FloatArray, layer: Layer, rng: np.random.Generator) -> None:
    """Darken the ground next to half of the objects; a shadow belongs to no class."""
    if rng.random() < 0.5:
        return
    down, right = int(rng.integers(2, 7)), int(rng.integers(-6, 7))
    shadow = np.zeros(canvas.shape[:2], bool)
    shadow[layer.box] = layer.cover
    shadow = np.roll(shadow, (down, right), axis=(0, 1))
    shadow[:down] = False
    if right > 0:
        shadow[:, :right] = False
    elif right < 0:
        shadow[:, right:] = False
    canvas[shadow] *= rng.uniform(0.5, 0.75)


def _photograph(canvas: FloatArray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Average the supersampled canvas, then exposure, tint and pixel noise. uint8 (H, W, 3)"""
    height, width = canvas.shape[0] // SUPERSAMPLING, canvas.shape[1] // SUPERSAMPLING
    image = canvas.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 3).mean(axis=(1, 3))
    exposure = math.exp(rng.normal(0, 0.15))
    tint = 1 + rng.normal(0, 0.04, 3).astype(np.float32)
    image = image * exposure * tint + rng.normal(0, noise, image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _numbers(instances: np.ndarray, border: int) -> np.ndarray:
    """Numbers of objects at image size, 255 within `border` pixels of an outline (also between two objects)."""
    numbers = instances[::SUPERSAMPLING, ::SUPERSAMPLING]
    padded = np.pad(numbers, border, mode="edge")
    height, width = numbers.shape
    outline = np.zeros(numbers.shape, bool)
    for down in range(2 * border + 1):
        for right in range(2 * border + 1):
            outline |= padded[down : down + height, right : right + width] != numbers
    return np.where(outline, IGNORE, numbers).astype(np.uint8)
