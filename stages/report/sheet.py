"""A contact sheet of what stages made: rows of images, each with its maps, masks or segments, and the truth.

    made = [Made(workspace.artifact("seeds"))]
    given = given_images(images_of(made[0].artifact, workspace), made)
    save_whole(draw_sheet(given, made, choose_fixed(made[0].ids)), Path("sheet.png"))

The columns of all rows are the same, so that images can be compared downwards, and artifacts along a row.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from artifacts.errors import DataError, SemisegError
from artifacts.masks import IGNORE
from artifacts.text import amount
from stages.data.overlays import (
    BED,
    FAINT,
    INK,
    PAPER,
    Legend,
    colour_of,
    common_height,
    draw_swatch,
    font_of,
    shorten,
)
from stages.report.sheet_rows import IMAGE, TRUTH, Given, Made, Row, Tile, heated, row_of

TILE, GAP, MARGIN = 200, 8, 30  # pixels
WIDTH = 2200  # of a sheet: rows of few columns stand beside each other
BETWEEN = 28  # rows, in both directions
_TITLE, _ID, _CAPTION = 78, 22, 22  # heights
_SCALE = 160  # length of the colours of heat maps


def draw_sheet(given: Given, made: Sequence[Made], ids: Sequence[str], note: str = "") -> Image.Image:
    """The sheet, RGB. note: how the images were chosen. DataError if none of them can be read."""
    shapes = []
    for image_id in ids:
        with contextlib.suppress(SemisegError):  # said in its place
            shapes.append(given.images.size(image_id))
    height = common_height(shapes, TILE)
    rows = [row_of(given, made, image_id, (TILE, height)) for image_id in ids]
    if all(row.tiles[0].pixels is None for row in rows):
        raise DataError(f"none of {len(rows)} images can be read: {rows[0].tiles[0].problem}", "semiseg check-data")
    return _Sheet(given, made, rows, height).draw(note)


class _Sheet:
    def __init__(self, given: Given, made: Sequence[Made], rows: Sequence[Row], height: int) -> None:
        self.rows, self.height = rows, height
        self.title = ", ".join(one.artifact.name for one in made)
        self.columns = _columns(made, rows)
        self.width_of_row = len(self.columns) * (TILE + GAP) - GAP
        self.beside = max(1, min(len(rows), (WIDTH + BETWEEN) // (self.width_of_row + BETWEEN)))
        self.width = max(self.beside * (self.width_of_row + BETWEEN) - BETWEEN, 560)
        values = sorted({value for row in rows for value in row.values} - {IGNORE})
        entries = [(given.class_names[value], colour_of(given.palette, value)) for value in values]
        entries = entries[1:] if given.has_background and values[:1] == [0] else entries
        entries += [("unknown (255)", None)] if any(IGNORE in row.values for row in rows) else []
        self.legend = Legend(entries) if entries else None

    def draw(self, note: str) -> Image.Image:
        head = _TITLE + (self.legend.height(self.width) + 16 if self.legend else 0)
        step = _ID + self.height + _CAPTION + BETWEEN
        down = math.ceil(len(self.rows) / self.beside)
        size = (self.width + 2 * MARGIN, MARGIN + head + down * step - BETWEEN + MARGIN)
        sheet = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(sheet)
        self._draw_heading(sheet, draw, note)
        if self.legend:
            self.legend.draw(draw, (MARGIN, MARGIN + _TITLE), self.width)
        for number, row in enumerate(self.rows):
            line, place = divmod(number, self.beside)
            corner = (MARGIN + place * (self.width_of_row + BETWEEN), MARGIN + head + line * step)
            self._draw_row(sheet, draw, row, corner)
        return sheet

    def _draw_heading(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, note: str) -> None:
        has_maps = any(": map " in column for column in self.columns)
        room = self.width - (_SCALE + 60 if has_maps else 0)
        draw.text((MARGIN, MARGIN - 6), shorten(self.title, room, 28), fill=INK, font=font_of(28))
        facts = f"{amount(len(self.rows), 'image')}{note and f', {note}'}"
        draw.text((MARGIN, MARGIN + 36), shorten(facts, self.width, 15), fill=FAINT, font=font_of(15))
        if not has_maps:
            return
        left, top = MARGIN + self.width - _SCALE - 14, MARGIN
        sheet.paste(_scale(), (left, top))
        for score, place in (("0", left - 10), ("1", left + _SCALE + 10)):
            draw.text((place, top + 7), score, fill=INK, font=font_of(14), anchor="mm")

    def _draw_row(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, corner: tuple[int, int]) -> None:
        left, top = corner
        font = font_of(14)
        name = shorten(row.image_id, self.width_of_row * 0.6, 14)
        draw.text((left, top + 8), name, fill=INK, font=font, anchor="lm")
        labels = "labels not known" if row.labels is None else ", ".join(row.labels) or "no class"
        place = font.getlength(name) + 12
        text = shorten(labels, self.width_of_row - place, 14)
        draw.text((left + place, top + 8), text, fill=FAINT, font=font, anchor="lm")
        there = {tile.column: tile for tile in row.tiles}
        for number, column in enumerate(self.columns):
            if column in there:
                self._draw_tile(sheet, draw, there[column], (left + number * (TILE + GAP), top + _ID))

    def _draw_tile(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]) -> None:
        left, top = corner
        draw.rectangle((left, top, left + TILE - 1, top + self.height - 1), fill=BED)
        if tile.pixels is None:
            for line, text in enumerate(_wrapped(tile.problem, TILE - 16, self.height // 16)):
                draw.text((left + 8, top + 8 + 16 * line), text, fill=FAINT, font=font_of(12))
        else:
            rows, columns = tile.pixels.shape[:2]
            sheet.paste(Image.fromarray(tile.pixels), (left + (TILE - columns) // 2, top + (self.height - rows) // 2))
        middle, indent = top + self.height + 11, 0
        if tile.colour is not None:
            draw_swatch(draw, (left, middle - 5), 10, tile.colour)
            indent = 15
        text = shorten(tile.caption, TILE - indent, 13)
        draw.text((left + indent, middle), text, fill=INK, font=font_of(13), anchor="lm")


def _columns(made: Sequence[Made], rows: Sequence[Row]) -> list[str]:
    """The columns that a row has anything in: of one artifact after the other, the truth last."""
    there = {tile.column for row in rows for tile in row.tiles}
    return [column for column in (IMAGE, *(column for one in made for column in one.columns), TRUTH) if column in there]


def _scale() -> Image.Image:
    """The colours of the scores 0..1 on mid-grey."""
    return Image.fromarray(heated(np.full((14, _SCALE, 1), 128.0), np.tile(np.linspace(0, 1, _SCALE), (14, 1))))


def _wrapped(text: str, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels, `most` of them."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font_of(12).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shorten(line, width, 12) for line in lines if line][: max(most - 1, 1)]
