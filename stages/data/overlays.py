"""A mask drawn on its image, with the names of its classes; and the letters and swatches of everything that is drawn.

    draw_overlay(dataset.image("IMG_0001"), mask, dataset.class_names, dataset.palette).save("IMG_0001.jpg")

Drawn with Pillow and NumPy alone.
"""

from __future__ import annotations

import itertools
import math
import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from artifacts.dataset import first_label
from artifacts.masks import IGNORE

INK, FAINT, PAPER, BED = "#1f2328", "#636c76", "#ffffff", "#eef0f2"
OPACITY = 0.5  # of a class's colour on its pixels; its outline has the full colour
MOST_SIDE = 2048  # pixels of the longer side of an overlay: more cannot be seen at once
LEAST_WIDTH = 280  # pixels, so that the names below a narrow image can be read

Colour = tuple[int, ...]


# ------------------------------------------------------------------------------------------------- masks on images


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    palette: bytes,
    opacity: float = OPACITY,
    legend: bool = True,
) -> Image.Image:
    """The image (RGB uint8 (H, W, 3)) with its mask on it (see `overlay`); at most MOST_SIDE pixels a side.

    legend: below it the classes that were found, with their share of the pixels, the largest first.
    """
    has_background = first_label(class_names) == 1
    size = fitting_size(mask.shape, *(min(side, MOST_SIDE) for side in mask.shape[::-1]))
    drawn = overlay(scaled_image(image, size), scaled_mask(mask, size), palette, has_background, opacity)
    shown = Image.fromarray(drawn)
    if not legend:
        return shown
    width = max(size[0], LEAST_WIDTH)
    keys = Legend(found_classes(mask, class_names, palette), max(13, width // 60))
    edge = keys.size // 2
    sheet = Image.new("RGB", (width, size[1] + keys.height(width - 2 * edge) + 2 * edge), PAPER)
    sheet.paste(shown, ((width - size[0]) // 2, 0))
    keys.draw(ImageDraw.Draw(sheet), (edge, size[1] + edge), width - 2 * edge)
    return sheet


def found_classes(mask: np.ndarray, class_names: Sequence[str], palette: bytes) -> list[tuple[str, Colour | None]]:
    """("cat 12.3 %", its colour) of the classes in a mask but the background, the largest first; 255 is "unknown".

    Without any: "no class".
    """
    counts = pixels_of_values(mask)
    values = sorted(counts, key=lambda value: -counts[value])
    first = first_label(class_names)
    names = {**dict(enumerate(class_names)), IGNORE: "unknown"}
    shares = {value: max(0.1, 100 * counts[value] / mask.size) for value in values}  # of one pixel: not 0.0
    found: list[tuple[str, Colour | None]] = [
        (f"{names[value]} {shares[value]:.1f} %", colour_of(palette, value)) for value in values if value >= first
    ]
    return found or [("no class", colour_of(palette, 0))]


def pixels_of_values(mask: np.ndarray) -> dict[int, int]:
    """Value -> pixels, of the values in a mask (uint8 (H, W)), sorted; without a copy of it in larger numbers."""
    return {value: count for value, count in enumerate(Image.fromarray(mask).histogram()) if count}


def colour_of(palette: bytes, value: int) -> Colour | None:
    """RGB of a value of a mask; None for 255, which is hatched."""
    return None if value == IGNORE else tuple(palette[3 * value : 3 * value + 3])


def fitting_size(shape: tuple[int, ...], width: float, height: float) -> tuple[int, int]:
    """The largest (width, height) of an image of `shape`, (H, W, ...), inside these; no side vanishes."""
    scale = min(width / shape[1], height / shape[0])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def common_height(shapes: Sequence[tuple[int, ...]], width: int) -> int:
    """The height at which most images of these shapes, (H, W, ...), fill the width of their place."""
    ratios = sorted(shape[0] / shape[1] for shape in shapes)
    ratio = ratios[(3 * len(ratios)) // 4] if ratios else 0.75
    return round(width * min(1.0, max(0.5, ratio)))


def scaled_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 (H, W, 3) at a size (width, height)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def scaled_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) at a size (width, height); no value is mixed with another."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: bytes, has_background: bool, opacity: float = OPACITY
) -> np.ndarray:
    """The image with its mask on it, RGB uint8 (H, W, 3).

    Classes are drawn with this opacity, their outlines opaque; background is left as it is; 255 is hatched in grey.
    """
    colours = np.frombuffer(palette, np.uint8).reshape(256, 3)
    height, width = mask.shape
    result = image.astype(np.float32)
    shown = mask != IGNORE
    if has_background:
        shown &= mask != 0
    result[shown] = (1 - opacity) * result[shown] + opacity * colours[mask[shown]]
    void = mask == IGNORE
    if void.any():
        stripe = (np.add.outer(np.arange(height), np.arange(width)) % 7) < 2
        result[void] = 0.45 * result[void] + 0.55 * 200
        result[void & stripe] = 110
    outline = shown & _outline(mask)
    result[outline] = colours[mask[outline]]
    return result.round().astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels within two of a pixel of another value."""
    padded = np.pad(mask, 2, mode="edge")
    height, width = mask.shape
    found = np.zeros(mask.shape, bool)
    for down, right in ((0, 2), (1, 2), (2, 0), (2, 1), (2, 3), (2, 4), (3, 2), (4, 2)):
        found |= padded[down : down + height, right : right + width] != mask
    return found


def save_whole(image: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all. OSError for a failed write."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- words and swatches

_SPELT = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"})


@lru_cache(maxsize=32)
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """The text in ASCII, which is all that the built-in font has: letters lose their accents, the rest becomes `?`."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_SPELT))
    return "".join(c if c.isascii() else "?" for c in decomposed if not unicodedata.combining(c))


def shorten(text: str, width: float, size: int) -> str:
    """The text, with an ellipsis in its middle where it would be wider than `width` pixels."""
    font = font_of(size)
    text = plain(text)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


class Legend:
    """Names behind swatches of their colours (None: hatched), in columns, from top to bottom. size: of the letters."""

    def __init__(self, entries: Sequence[tuple[str, Colour | None]], size: int = 15) -> None:
        self.entries, self.size = entries, size
        self.swatch, self.line = size - 1, round(size * 23 / 15)
        self._before, self._between, self._widest = (size * length // 15 for length in (8, 22, 210))

    def _places(self, width: int) -> tuple[list[tuple[int, int]], int]:
        """(left and top of each entry, room for its name): one line if all fit, else columns of equal width."""
        font, before, between = font_of(self.size), self.swatch + self._before, self._between
        lengths = [math.ceil(font.getlength(plain(name))) + before for name, _ in self.entries]
        apart = between + self._before - 2
        if sum(lengths) + apart * (len(lengths) - 1) <= width:
            lefts = itertools.accumulate((length + apart for length in lengths[:-1]), initial=0)
            return [(left, 0) for left in lefts], width
        columns = max(1, width // (min(max(lengths), self._widest) + between))
        rows = math.ceil(len(self.entries) / columns)
        step = width // math.ceil(len(self.entries) / rows)
        numbers = range(len(self.entries))
        return [(n // rows * step, n % rows * self.line) for n in numbers], step - before - between

    def height(self, width: int) -> int:
        return max(top for _, top in self._places(width)[0]) + self.line

    def draw(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int) -> None:
        places, room = self._places(width)
        for (name, colour), (right, down) in zip(self.entries, places, strict=True):
            left, top = corner[0] + right, corner[1] + down
            draw_swatch(draw, (left, top), self.swatch, colour)
            middle = (left + self.swatch + self._before, top + self.swatch / 2)
            draw.text(middle, shorten(name, room, self.size), fill=INK, font=font_of(self.size), anchor="lm")


def draw_swatch(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, colour: Colour | None) -> None:
    """A square of the colour; hatched for 255."""
    left, top = corner
    right, bottom = left + side - 1, top + side - 1
    if colour is not None:
        draw.rectangle((left, top, right, bottom), fill=colour)
        return
    draw.rectangle((left, top, right, bottom), fill="#c0c0c0")
    for offset in range(3, 2 * side - 1, 5):
        start, end = max(0, offset - side + 1), min(side - 1, offset)
        draw.line((left + start, top + offset - start, left + end, top + offset - end), fill="#6e6e6e")
