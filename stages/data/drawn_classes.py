"""How the classes of the data set `shapes` look: an outline and a texture each, in colours drawn at random.

A painter takes an object's own coordinates (right and down, outline within about 1) and gives where the object covers,
bool (h, w), and its colours, float32 (h, w, 3) in 0..1. The colours and patterns here serve ground and clutter too.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

CLASS_NAMES = ("background", "star", "ring", "boat", "mushroom", "fish", "beetle")
STAR, RING, BOAT, MUSHROOM, FISH, BEETLE = range(1, 7)

HUE_HABIT_CHANCE = 0.65  # of an object: its colours are near its class's usual hue

FloatArray = np.ndarray


# ------------------------------------------------------------------------------------------------- the six classes


def _star(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Five points; a checkerboard in the middle, plain tips."""
    light, dark = colour_pair(rng, hue=0.12)
    distance = np.hypot(u, v)
    cover = _star_outline(u, v, points=5, inner=rng.uniform(0.42, 0.52))
    cell = rng.uniform(0.2, 0.26)
    checks = (np.floor(u / cell) + np.floor(v / cell)) % 2 == 0
    tips = distance > 0.62
    return cover, two_colours(checks | tips, light, dark)


def _ring(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """An open ring in sectors of two colours; the ground shows through the hole."""
    light, dark = colour_pair(rng, hue=0.0)
    distance = np.hypot(u, v)
    cover = (distance < 1) & (distance > rng.uniform(0.42, 0.58))
    sectors = int(rng.integers(5, 8))
    return cover, two_colours(np.sin(np.arctan2(v, u) * sectors) > 0, light, dark)


def _boat(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A striped sail (the telling part) over a dull hull."""
    light, dark = colour_pair(rng, hue=0.02)
    wood = random_colour(rng, hue=0.07, spread=0.05, saturation=(0.2, 0.5), value=(0.25, 0.5))
    depth = np.clip((v - 0.3) / 0.5, 0, 1)
    hull = (v > 0.3) & (v < 0.8) & (np.abs(u) < 1.0 - 0.4 * depth)
    mast = (np.abs(u) < 0.05) & (v > -1) & (v <= 0.3)
    height = (v + 1.0) / 1.2  # 0 at the top of the mast, 1 at the foot of the sail
    sail = (v > -1) & (v < 0.2) & (u > -0.55 * height) & (u < 0.85 * height)
    stripes = np.sin(v * rng.uniform(14, 19)) > 0
    colour = two_colours(stripes, light, dark)
    planks = 1 - 0.25 * (np.mod(v * 7, 1) < 0.25)
    colour[hull] = (wood[None] * planks[..., None])[hull]
    colour[mast] = wood * 0.7
    return hull | mast | sail, colour


def _mushroom(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A dotted cap (the telling part) on a pale stem."""
    spots, skin = colour_pair(rng, hue=0.0)
    pale = random_colour(rng, hue=0.1, spread=0.06, saturation=(0.05, 0.25), value=(0.6, 0.85))
    cap = (u**2 / 0.95 + (v - 0.05) ** 2 / 0.9 < 1) & (v < 0.05)
    stem = (v >= 0.05) & (v < 0.95) & (np.abs(u) < rng.uniform(0.2, 0.3) + 0.1 * v)
    cell = rng.uniform(0.34, 0.44)
    row = np.floor(v / cell)
    across = np.mod(u / cell + 0.5 * np.mod(row, 2), 1) - 0.5
    down = np.mod(v / cell, 1) - 0.5
    colour = two_colours(np.hypot(across, down) < 0.3, spots, skin)
    streaks = 0.9 + 0.1 * np.sin(u * 40)
    colour[stem] = (pale[None] * streaks[..., None])[stem]
    return cap | stem, colour


def _fish(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A body of curved scales with an eye; a plain tail and a plain fin."""
    light, dark = colour_pair(rng, hue=0.5)
    slimness = rng.uniform(0.48, 0.62)
    body = ((u + 0.2) / 0.8) ** 2 + (v / slimness) ** 2 < 1
    tail = (u > 0.45) & (u < 1) & (np.abs(v) < (u - 0.38) * 0.95)
    fin = (np.abs(u + 0.1) < 0.3) & (v < 0) & (v > -slimness - 0.22 + np.abs(u + 0.1) * 0.9)
    cell = rng.uniform(0.24, 0.32)
    phase = np.mod(u / cell + 0.45 * np.cos(2 * math.pi * v / cell), 1)
    shade = (0.25 + 0.75 * phase)[..., None]
    colour = (light * shade + dark * (1 - shade)).astype(np.float32)
    colour[(tail | fin) & ~body] = 0.5 * (light + dark)
    to_eye = np.hypot(u + 0.68, v + 0.1)
    colour[to_eye < 0.17] = 0.95
    colour[to_eye < 0.1] = 0.05
    return body | tail | fin, colour


def _beetle(u: FloatArray, v: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Wings striped lengthwise (the telling part); a dull head and six dull legs."""
    light, dark = colour_pair(rng, hue=0.3)
    horn = random_colour(rng, hue=0.08, spread=0.2, saturation=(0.1, 0.5), value=(0.1, 0.3))
    wings = (u / 0.58) ** 2 + ((v - 0.1) / 0.82) ** 2 < 1
    head = np.hypot(u, v + 0.78) < 0.3
    side = np.abs(u)
    legs = np.zeros_like(wings)
    for joint, slope in ((-0.35, -0.45), (0.1, 0.1), (0.5, 0.6)):
        legs |= (np.abs(v - joint - slope * (side - 0.5)) < 0.075) & (side < 1.0)
    stripes = np.sin(side * rng.uniform(19, 25)) > 0
    colour = two_colours(stripes, light, dark)
    colour[~wings] = horn
    colour[(side < 0.04) & wings] = horn
    return wings | head | legs, colour


PAINTERS: dict[int, Callable[..., tuple[FloatArray, FloatArray]]] = {
    STAR: _star,
    RING: _ring,
    BOAT: _boat,
    MUSHROOM: _mushroom,
    FISH: _fish,
    BEETLE: _beetle,
}


def _star_outline(u: FloatArray, v: FloatArray, points: int, inner: float) -> FloatArray:
    """Inside a star whose tips lie at distance 1 and whose notches lie at distance `inner`."""
    half = math.pi / points
    angle = np.abs(np.mod(np.arctan2(v, u) + half, 2 * half) - half)
    x, y = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle)
    notch_x, notch_y = inner * math.cos(half), inner * math.sin(half)
    return (notch_x - 1) * y - notch_y * (x - 1) > 0


# ------------------------------------------------------------------------------------------- colours and textures


def random_colour(
    rng: np.random.Generator,
    hue: float | None = None,
    spread: float = 1.0,
    saturation: tuple[float, float] = (0.2, 0.9),
    value: tuple[float, float] = (0.2, 0.95),
) -> FloatArray:
    """A random colour, float32 (3,) in 0..1; `hue` +- `spread` in turns of the colour circle."""
    turn = rng.random() if hue is None else hue + rng.uniform(-spread, spread)
    return np.array(colorsys.hsv_to_rgb(turn % 1.0, rng.uniform(*saturation), rng.uniform(*value)), np.float32)


def colour_pair(rng: np.random.Generator, hue: float | None = None) -> tuple[FloatArray, FloatArray]:
    """A light and a dark colour. A class's hue is only a habit: often it is any other."""
    habit = hue if hue is not None and rng.random() < HUE_HABIT_CHANCE else None
    light = random_colour(rng, habit, spread=0.08, saturation=(0.05, 0.7), value=(0.68, 1.0))
    dark = random_colour(rng, habit, spread=0.12, saturation=(0.3, 0.95), value=(0.12, 0.5))
    return light, dark


def two_colours(choose_first: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    return np.where(choose_first[..., None], first, second).astype(np.float32)


def random_pattern(rng: np.random.Generator, x: FloatArray, y: FloatArray, cell: float) -> FloatArray:
    """Stripes, checks, dots or scales in 0..1, turned freely; `cell` in the units of x and y."""
    turn = rng.uniform(0, math.pi)
    a = (math.cos(turn) * x + math.sin(turn) * y) / cell
    b = (-math.sin(turn) * x + math.cos(turn) * y) / cell
    kind = int(rng.integers(4))
    if kind == 0:
        return (np.mod(a, 1) < 0.5).astype(np.float32)
    if kind == 1:
        return ((np.floor(a) + np.floor(b)) % 2).astype(np.float32)
    if kind == 2:
        return (np.hypot(np.mod(a, 1) - 0.5, np.mod(b, 1) - 0.5) < 0.3).astype(np.float32)
    return np.mod(a + 0.45 * np.cos(2 * math.pi * b), 1).astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: tuple[int, ...], cell: float) -> FloatArray:
    """Smooth random values in 0..1 whose bumps are about `cell` pixels wide. float32 (H, W)"""
    height, width = size
    rows, columns = math.ceil(height / cell) + 1, math.ceil(width / cell) + 1
    grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    grown = grid.resize((math.ceil(columns * cell), math.ceil(rows * cell)), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(grown)[:height, :width], 0, 1)


def shaded(colour: FloatArray, u: FloatArray, v: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Light from one side and a grain: no surface is flat."""
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + 0.22 * (math.cos(angle) * u + math.sin(angle) * v)
    grain = 0.9 + 0.2 * smooth_noise(rng, u.shape, 4)
    return (colour * (light * grain)[..., None]).astype(np.float32)
