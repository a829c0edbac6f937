"""What `prepare-data` finds out about each image, in columns: kept until the data set is written, 50 bytes an image.

prepared = PreparedImages(sorted_ids, has_background=True)
prepared.add("a", one)                     # in any order
prepared.size("a"), prepared.classes("a")
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.masks import IGNORE
from stages.data.photographs import ImageFile

FLAGS = ("copied", "turned", "ambiguous", "as_stored")  # a bit each: whether there is a copy, and those of `ImageFile`


@dataclass(frozen=True)
class Prepared:
    """The facts on an image, and the bytes to write unless they were written before."""

    image: ImageFile
    pixels: Mapping[int, int] | None  # class id -> pixels in the mask, after the class map; None without a mask
    mask: bytes | None
    remarks: Sequence[str] = ()  # on the mask


class PreparedImages:
    """The facts on images, see `Prepared`; those that few images have lie in dicts.

    Attributes: remarks (id -> remarks on its mask), image_remarks (id -> `ImageFile.remarks`), where there are some.
    """

    def __init__(self, ids: Sequence[str], has_background: bool) -> None:
        """ids: sorted and distinct."""
        self.remarks: dict[str, Sequence[str]] = {}
        self.image_remarks: dict[str, Mapping[str, str]] = {}
        self._ids, self._first = ids, 1 if has_background else 0
        self._sizes = np.zeros((len(ids), 2), np.int64)  # (H, W)
        self._bytes = np.zeros(len(ids), np.int64)
        self._flags = np.zeros(len(ids), np.uint8)
        self._starts = np.zeros(len(ids), np.int64)  # where the classes of an image begin in the two arrays
        self._lengths = np.full(len(ids), -1, np.int16)  # how many there are; -1: it has no mask
        self._classes, self._pixels = array("B"), array("q")
        self._same: dict[tuple[int, ...], tuple[int, ...]] = {}  # one tuple for all images with the same classes

    def add(self, image_id: str, one: Prepared) -> None:
        row, image = self._row(image_id), one.image
        self._sizes[row], self._bytes[row] = image.size, image.file_bytes
        flags = (image.copy is not None, image.turned, image.ambiguous, image.as_stored)
        self._flags[row] = sum(flag << bit for bit, flag in enumerate(flags))
        if one.remarks:
            self.remarks[image_id] = one.remarks
        if image.remarks:
            self.image_remarks[image_id] = image.remarks
        if one.pixels is not None:
            self._starts[row], self._lengths[row] = len(self._classes), len(one.pixels)
            self._classes.extend(one.pixels.keys())
            self._pixels.extend(one.pixels.values())

    def _row(self, image_id: str) -> int:
        return bisect.bisect_left(self._ids, image_id)

    def size(self, image_id: str) -> tuple[int, int]:
        height, width = self._sizes[self._row(image_id)].tolist()
        return height, width

    def file_bytes(self, image_id: str) -> int:
        return int(self._bytes[self._row(image_id)])

    def has(self, flag: str, image_id: str) -> bool:
        """flag: one of FLAGS."""
        return bool(self._flags[self._row(image_id)] >> FLAGS.index(flag) & 1)

    def pixels(self, image_id: str) -> dict[int, int] | None:
        """class id -> pixels in the mask; None without a mask."""
        if (span := self._span(image_id)) is None:
            return None
        return dict(zip(self._classes[span], self._pixels[span], strict=True))

    def classes(self, image_id: str) -> tuple[int, ...] | None:
        """The classes with a pixel in the mask, without background and 255; None without a mask."""
        if (span := self._span(image_id)) is None:
            return None
        found = tuple(sorted(class_id for class_id in self._classes[span] if self._first <= class_id != IGNORE))
        return self._same.setdefault(found, found)

    def _span(self, image_id: str) -> slice | None:
        row = self._row(image_id)
        start, length = int(self._starts[row]), int(self._lengths[row])
        return None if length < 0 else slice(start, start + length)
