"""A sheet of training images, drawn: rows of tiles with titles, labels and the meaning of the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from artifacts.dataset import first_label
from artifacts.masks import IGNORE
from stages.data.overlays import (
    FAINT,
    INK,
    PAPER,
    Legend,
    colour_of,
    draw_swatch,
    fitting_size,
    font_of,
    overlay,
    scaled_image,
    scaled_mask,
    shorten,
)

TILE = 208  # pixels, the side of a tile
WIDTH, MOST_COLUMNS = 1560, 7  # of a sheet, at most
GAP, APART, MARGIN = 6, 26, 24
EDGE = "#c4c9cf"  # around tiles: a white map has one, too
TITLE, CAPTION, HEADING = 18, 22, 34  # heights of lines
LEAST = 620  # pixels, for the title, the note and the legend
NOTE = "Confidence and score: black 0, white 1."


@dataclass(frozen=True)
class Tile:
    """One tile: an image, uint8 (h, w, 3), with labels on it, uint8 (h', w'), or scores alone, uint8 (h, w)."""

    title: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Example:
    """An image of the batch: its id, its image-level labels as class ids (None: not known), and its tiles."""

    image_id: str
    classes: tuple[int, ...] | None
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Section:
    title: str
    examples: Sequence[Example]


def draw_sheet(title: str, sections: Sequence[Section], class_names: Sequence[str], palette: bytes) -> Image.Image:
    """The sheet, RGB: a legend of the classes that occur, then the examples of each section."""
    width = 2 * MARGIN + max(LEAST, *map(_section_width, sections))
    legend = Legend(_meanings(sections, class_names, palette))
    top = MARGIN + HEADING + legend.height(width - 2 * MARGIN) + TITLE
    height = top + sum(HEADING + _height(section) for section in sections) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font_of(22))
    if any(tile.image is None for section in sections for example in section.examples for tile in example.tiles):
        draw.text((MARGIN + font_of(22).getlength(title) + 20, MARGIN + 8), NOTE, fill=FAINT, font=font_of(14))
    legend.draw(draw, (MARGIN, MARGIN + HEADING), width - 2 * MARGIN)
    for section in sections:
        draw.text((MARGIN, top + 6), shorten(section.title, width - 2 * MARGIN, 18), fill=INK, font=font_of(18))
        top += HEADING
        for number, example in enumerate(section.examples):
            line, place = divmod(number, _in_a_line(section))
            corner = MARGIN + place * (_width(_columns(section)) + APART), top + line * _line_height(section)
            _draw_example(sheet, draw, example, corner, _columns(section), class_names, palette)
        top += _height(section)
    return sheet


def _width(columns: int) -> int:
    return columns * (TILE + GAP) - GAP


def _most_tiles(section: Section) -> int:
    return max((len(example.tiles) for example in section.examples), default=1)


def _columns(section: Section) -> int:
    """Tiles of an example that stand beside each other: as equal as possible in each of its lines."""
    lines = math.ceil(_most_tiles(section) / MOST_COLUMNS)
    return math.ceil(_most_tiles(section) / lines)


def _line_height(section: Section) -> int:
    return CAPTION + math.ceil(_most_tiles(section) / _columns(section)) * (TITLE + TILE) + 12


def _in_a_line(section: Section) -> int:
    """How many examples stand beside each other."""
    fitting = (WIDTH - 2 * MARGIN + APART) // (_width(_columns(section)) + APART)
    return max(min(fitting, len(section.examples)), 1)


def _section_width(section: Section) -> int:
    return _in_a_line(section) * (_width(_columns(section)) + APART) - APART


def _height(section: Section) -> int:
    return math.ceil(len(section.examples) / _in_a_line(section)) * _line_height(section)


def _meanings(
    sections: Sequence[Section], class_names: Sequence[str], palette: bytes
) -> list[tuple[str, tuple[int, ...] | None]]:
    """The classes that occur in label maps or image-level labels, with their colours, and 255."""
    examples = [example for section in sections for example in section.examples]
    values = {value for example in examples for value in example.classes or ()}
    for labels in (tile.labels for example in examples for tile in example.tiles):
        values |= set() if labels is None else set(np.unique(labels).tolist())
    names = {**dict(enumerate(class_names)), IGNORE: "255: nothing is taught there"}
    there = sorted(value for value in values if value in names and value >= first_label(class_names))
    return [(names[value], colour_of(palette, value)) for value in there] or [("no class", colour_of(palette, 0))]


def _draw_example(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    example: Example,
    corner: tuple[int, int],
    columns: int,
    class_names: Sequence[str],
    palette: bytes,
) -> None:
    """A caption with the id and the image-level labels, and the tiles below their titles."""
    left, top = corner
    room = _width(min(len(example.tiles), columns))
    name = shorten(example.image_id, room * 0.6, 14)
    draw.text((left, top + 4), name, fill=INK, font=font_of(14))
    place = left + font_of(14).getlength(name) + 12
    for value in example.classes or ():
        text = shorten(class_names[value], left + room - place - 14, 13)
        if text == "…":
            break
        draw_swatch(draw, (round(place), top + 7), 10, colour_of(palette, value))
        draw.text((place + 14, top + 5), text, fill=INK, font=font_of(13))
        place += 14 + font_of(13).getlength(text) + 10
    for number, tile in enumerate(example.tiles):
        x, y = left + number % columns * (TILE + GAP), top + CAPTION + number // columns * (TITLE + TILE)
        draw.text((x, y + 1), shorten(tile.title, TILE, 13), fill=FAINT, font=font_of(13))
        shown = Image.fromarray(_pixels(tile, class_names, palette))
        x, y = x + (TILE - shown.width) // 2, y + TITLE + (TILE - shown.height) // 2
        sheet.paste(shown, (x, y))
        draw.rectangle((x, y, x + shown.width - 1, y + shown.height - 1), outline=EDGE)


def _pixels(tile: Tile, class_names: Sequence[str], palette: bytes) -> np.ndarray:
    """RGB uint8 of a tile, in its size on the sheet."""
    if tile.image is None:
        assert tile.scores is not None
        grey = np.repeat(tile.scores[:, :, None], 3, axis=2)
        return scaled_image(grey, fitting_size(grey.shape, TILE, TILE))
    size = fitting_size(tile.image.shape, TILE, TILE)
    image = scaled_image(tile.image, size)
    if tile.labels is None:
        return image
    return overlay(image, scaled_mask(tile.labels, size), palette, first_label(class_names) == 1)
