"""A contact sheet: two dozen images of a data set on one page, with their masks and labels, to look at before use.

    write_contact_sheet(Dataset("runs/default/data"), Path("sheet.png"))

Exchanged classes, turned or shifted masks, labels of another image: visible here at a glance, instead of after hours of
training. Drawn with Pillow alone; the same images are chosen on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from artifacts.dataset import MASKED, SPLITS, Dataset
from artifacts.errors import DataError
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
    fitting_size,
    font_of,
    overlay,
    save_whole,
    scaled_image,
    scaled_mask,
    shorten,
)

COUNT = 24  # images on a sheet
COLUMNS = 6
TILE = 232  # width of an image's place, in pixels
GAP, MARGIN = 22, 36
SHARES = {
    "train": 10,
    "holdout": 2,
    "val": 6,
    "weak": 6,
    "unlabelled": 1,
    "test": 1,
}  # of 24 images; masks are what there is to see

CHIPS = {  # split -> ground and ink of its name
    "train": ("#dbeafe", "#1e40af"),
    "holdout": ("#cffafe", "#155e75"),
    "val": ("#fef3c7", "#92400e"),
    "weak": ("#dcfce7", "#166534"),
    "unlabelled": ("#e9ebee", "#4b5563"),
    "test": ("#f3e8ff", "#6b21a8"),
}


def write_contact_sheet(dataset: Dataset, path: Path) -> None:
    """Write the sheet as PNG, whole or not at all. DataError if no image can be read, OSError for a failed write."""
    save_whole(contact_sheet(dataset), path)


def contact_sheet(dataset: Dataset, count: int = COUNT, seed: int = 0) -> Image.Image:
    """The sheet, RGB: heading, legend of the class colours, and up to `count` images.

    An image that cannot be read is replaced by a note; DataError if none can be read.
    """
    tiles = [_tile(dataset, split, image_id) for split, image_id in choose_images(dataset, count, seed)]
    if tiles and all(tile.image is None for tile in tiles):
        raise DataError(f"none of {len(tiles)} images can be read: {tiles[0].problem}", "semiseg check-data")
    height = common_height([tile.image.shape for tile in tiles if tile.image is not None], TILE)
    legend = _legend(dataset)
    columns = COLUMNS if len(tiles) > COLUMNS else max(3, len(tiles))
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    head = _HEADING_HEIGHT + legend.height(width - 2 * MARGIN) + 20
    step = height + _caption_height(tiles, dataset) + GAP
    sheet = Image.new("RGB", (width, MARGIN + head + math.ceil(len(tiles) / columns) * step + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_heading(draw, dataset, len(tiles), width)
    legend.draw(draw, (MARGIN, MARGIN + _HEADING_HEIGHT), width - 2 * MARGIN)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (TILE + GAP), MARGIN + head + row * step
        _draw_image(sheet, draw, tile, dataset, (left, top), height)
        _draw_caption(draw, tile, dataset, (left, top + height + 7))
    return sheet


# ------------------------------------------------------------------------------------------------- which images


def choose_images(dataset: Dataset, count: int = COUNT, seed: int = 0) -> list[tuple[str, str]]:
    """(split, id) of the images to show: those of a split together, sorted by id.

    Each split gets its share of the places; places that a small split leaves go to the others. In a split, the class
    chosen least so far gets its next image by seeded rank. While more classes than places are left, images with
    several new classes are preferred, so that every class is shown if possible.
    """
    places = share_places({split: len(ids) for split, ids in dataset.splits.items() if ids}, count)
    seen: Counter[int] = Counter()
    chosen = []
    # Splits whose masks are shown. Masks of weak serve only to evaluate estimated masks, and are not shown.
    left = sum(places.get(split, 0) for split in MASKED)
    for split in sorted(places, key=lambda split: (split not in MASKED, SPLITS.index(split))):
        classes = {i: dataset.tags(i) if dataset.has_tags(i) else () for i in dataset.ids(split)}
        queue = _Queue(classes, seed)
        for place in range(places[split]):
            unseen = set(range(1 if dataset.has_background else 0, dataset.num_classes)) - set(seen)
            wanted = math.ceil(len(unseen) / max(1, left - place))
            image_id = queue.take(seen, unseen, wanted)
            seen.update(classes[image_id])
            chosen.append((split, image_id))
        left = max(0, left - places[split])
    return sorted(chosen, key=lambda pair: (SPLITS.index(pair[0]), pair[1]))


def share_places(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """How many places each split gets: one each, then always to the one furthest below its share, if it has more."""
    places = dict.fromkeys(sizes, 0)
    for _ in range(min(count, sum(sizes.values()))):
        open_splits = [split for split in sizes if places[split] < sizes[split]]
        first = min(open_splits, key=lambda split: (places[split] > 0, places[split] / SHARES[split]))
        places[first] += 1
    return places


class _Queue:
    """The images of a split in seeded order, by class."""

    def __init__(self, classes: Mapping[str, Collection[int]], seed: int) -> None:
        self.classes = classes
        self.waiting: dict[int | None, deque[str]] = {}  # None: all images
        for image_id in sorted(classes, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest()):
            for class_id in (None, *classes[image_id]):
                self.waiting.setdefault(class_id, deque()).append(image_id)
        self.taken: set[str] = set()

    def take(self, seen: Mapping[int, int], unseen: Collection[int], wanted: int) -> str:
        """An image of the class seen least; the first one with `wanted` unseen classes, or the one with most."""
        there = [class_id for class_id in self.waiting if class_id is not None and self._candidates(class_id, 1)]
        rarest = min(there, key=lambda class_id: (seen.get(class_id, 0), class_id)) if there else None
        new = {i: len(set(self.classes[i]) & set(unseen)) for i in self._candidates(rarest, 256)}
        image_id = next((i for i in new if new[i] >= wanted), max(new, key=lambda i: new[i]))
        self.taken.add(image_id)
        return image_id

    def _candidates(self, class_id: int | None, most: int) -> list[str]:
        waiting = self.waiting[class_id]
        while waiting and waiting[0] in self.taken:
            waiting.popleft()
        return list(itertools.islice((i for i in waiting if i not in self.taken), most))


# ------------------------------------------------------------------------------------------------- one image


@dataclass(frozen=True)
class _Tile:
    split: str
    image_id: str
    image: np.ndarray | None  # RGB uint8 (H, W, 3); None where it cannot be read
    mask: np.ndarray | None  # uint8 (H, W)
    labels: tuple[int, ...] | None  # None: not known, or not shown
    problem: str = ""


def _tile(dataset: Dataset, split: str, image_id: str) -> _Tile:
    known = split in (*MASKED, "weak") and dataset.has_tags(image_id)
    labels = dataset.tags(image_id) if known else None
    try:
        image = dataset.image(image_id)
        mask = dataset.mask(image_id) if split in MASKED else None
        if mask is not None and mask.shape != image.shape[:2]:
            raise DataError(f"the mask of {image_id} has a size different from its image's")
    except DataError as error:
        return _Tile(split, image_id, None, None, labels, error.message)
    return _Tile(split, image_id, image, mask, labels)


def _draw_image(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: _Tile, dataset: Dataset, corner: tuple[int, int], height: int
) -> None:
    left, top = corner
    draw.rectangle((left, top, left + TILE - 1, top + height - 1), fill=BED)
    if tile.image is None:
        draw.text((left + TILE / 2, top + height / 2), "cannot be read", fill=FAINT, font=font_of(14), anchor="mm")
        return
    size = fitting_size(tile.image.shape, TILE, height)
    scaled = scaled_image(tile.image, size)
    if tile.mask is not None:
        scaled = overlay(scaled, scaled_mask(tile.mask, size), dataset.palette, dataset.has_background)
    sheet.paste(Image.fromarray(scaled), (left + (TILE - size[0]) // 2, top + (height - size[1]) // 2))


# ------------------------------------------------------------------------------------------------- words

_HEADING_HEIGHT = 80
_ID_HEIGHT = 25
_LABEL_SIZE, _LABEL_LINE, _LABEL_SWATCH = 13, 19, 15


def _draw_heading(draw: ImageDraw.ImageDraw, dataset: Dataset, shown: int, width: int) -> None:
    """The name; below, how many images each split has, and further facts while there is room."""
    end = width - MARGIN
    draw.text((MARGIN, MARGIN - 6), shorten(dataset.name, end - MARGIN, 30), fill=INK, font=font_of(30))
    left, middle = float(MARGIN), MARGIN + 46
    for split in SPLITS:
        if count := len(dataset.splits.get(split, ())):
            left += _draw_chip(draw, split, (left, middle)) + 7
            draw.text((left, middle), f"{count:,}", fill=INK, font=font_of(16), anchor="lm")
            left += font_of(16).getlength(f"{count:,}") + 22
    classes = f"{dataset.num_labels} class{'es' if dataset.num_labels != 1 else ''}"
    for fact in (classes, f"labels from {dataset.tag_source}", f"{amount(shown, 'image')} shown"):
        if left + font_of(15).getlength(fact) <= end:
            draw.text((left, middle), fact, fill=FAINT, font=font_of(15), anchor="lm")
            left += font_of(15).getlength(fact) + 22


def _draw_chip(draw: ImageDraw.ImageDraw, split: str, middle: tuple[float, float]) -> float:
    """The name of a split on its colour, from the middle of its left end (`middle`); returns its width."""
    ground, ink = CHIPS[split]
    left, centre = middle
    width = _chip_width(split)
    draw.rounded_rectangle((left, centre - 9, left + width - 1, centre + 8), radius=8, fill=ground)
    draw.text((left + width / 2, centre), split, fill=ink, font=font_of(12), anchor="mm")
    return width


def _chip_width(split: str) -> float:
    return font_of(12).getlength(split) + 14


def _legend(dataset: Dataset) -> Legend:
    """The colours of the classes but the background, and of 255."""
    values = [*range(1 if dataset.has_background else 0, dataset.num_classes), IGNORE]
    names = {**dict(enumerate(dataset.class_names)), IGNORE: "ignored (255)"}
    return Legend([(names[value], colour_of(dataset.palette, value)) for value in values])


def _caption_height(tiles: Sequence[_Tile], dataset: Dataset) -> int:
    """The height of the id and of the most lines of labels that a tile needs."""
    names = [[dataset.class_names[label] for label in tile.labels or ()] for tile in tiles]
    lines = [line for some in names for _, line, _, _ in fitting_labels(some, TILE)]
    return 7 + _ID_HEIGHT + (max(lines) + 1 if lines else 1) * _LABEL_LINE


def _draw_caption(draw: ImageDraw.ImageDraw, tile: _Tile, dataset: Dataset, corner: tuple[int, int]) -> None:
    """The id and, right of it, the split; below, the image-level labels in their colours."""
    left, top = corner
    chip = _draw_chip(draw, tile.split, (left + TILE - _chip_width(tile.split), top + 9))
    draw.text((left, top + 9), shorten(tile.image_id, TILE - chip - 8, 14), fill=INK, font=font_of(14), anchor="lm")
    if tile.labels is not None:
        _draw_labels(draw, dataset, tile.labels, (left, top + _ID_HEIGHT))


def _draw_labels(draw: ImageDraw.ImageDraw, dataset: Dataset, labels: Sequence[int], corner: tuple[int, int]) -> None:
    """As many labels as fit, each behind a square of its colour, and how many more there are."""
    left, top = corner
    font = font_of(_LABEL_SIZE)
    if not labels:
        draw.text((left, top + 7), "no class", fill=FAINT, font=font, anchor="lm")
    for place, line, text, index in fitting_labels([dataset.class_names[label] for label in labels], TILE):
        x, centre = left + place, top + 7 + line * _LABEL_LINE
        if index is None:
            draw.text((x, centre), text, fill=FAINT, font=font, anchor="lm")
        else:
            draw_swatch(draw, (round(x), centre - 5), 10, colour_of(dataset.palette, labels[index]))
            draw.text((x + _LABEL_SWATCH, centre), text, fill=INK, font=font, anchor="lm")


def fitting_labels(names: Sequence[str], width: float) -> list[tuple[float, int, str, int | None]]:
    """(place in pixels, line, text, index in `names`) of the names that fit into two lines, then "+2" (index None).

    Before each name there is room for its square. A name that is wider than a line is shortened.
    """
    font = font_of(_LABEL_SIZE)
    placed: list[tuple[float, int, str, int | None]] = []
    place, line = 0.0, 0
    for index, name in enumerate(names):
        left = len(names) - index - 1
        after = 10 + font.getlength(f"+{left}") if left else 0.0
        text = shorten(name, width - _LABEL_SWATCH - after, _LABEL_SIZE)
        wide = _LABEL_SWATCH + font.getlength(text)
        if place and line == 0 and place + wide > width:
            place, line = 0.0, 1
        if line == 1 and place + wide + after > width:
            return [*placed, (place, line, f"+{left + 1}", None)]
        placed.append((place, line, text, index))
        place += wide + 10
    return placed
