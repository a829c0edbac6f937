"""Masks of the user's own images that lie in several places: folders and annotation files, each of a kind of its own.

masks = together([masks_of_a_folder, masks_of_a_file], places, note)       # of an image, the last mask counts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.text import named
from stages.data.config import FolderConfig


@dataclass(frozen=True)
class Masks:
    """The masks that were found, by image, and how to read them."""

    entries: Mapping[str, Any]
    read: Callable[[Any], np.ndarray]
    class_names: tuple[str, ...]
    facts: Mapping[str, Any]
    remarks: Callable[[Any], Sequence[str]] | None = None
    left_out: tuple[str, ...] = ()  # sentences on files beside them that are not used


@dataclass(frozen=True)
class PlacedMask:
    """A mask of one of several places: the number of its place, and the entry there."""

    place: int
    entry: Any

    def __str__(self) -> str:
        return str(self.entry)


@dataclass(frozen=True)
class MasksOfPlaces:
    """Reads the masks of several places, each by the reader of its place."""

    found: tuple[Masks, ...]

    def __call__(self, mask: PlacedMask) -> np.ndarray:
        return self.found[mask.place].read(mask.entry)

    def remarks(self, mask: PlacedMask) -> Sequence[str]:
        remarks = self.found[mask.place].remarks
        return remarks(mask.entry) if remarks else ()


def mask_places(settings: FolderConfig) -> list[Path]:
    """The folders and files of masks that the settings name."""
    named_ = (settings.masks,) if isinstance(settings.masks, str) else settings.masks
    return [Path(name).expanduser() for name in named_ if name]


def together(found: Sequence[Masks], places: Sequence[Path], note: Callable[[str], None]) -> Masks:
    """The masks of several places; of an image that has several, that of the last place."""
    entries: dict[str, PlacedMask] = {}
    for number, masks in enumerate(found):
        if again := sorted(entries.keys() & masks.entries.keys()):
            note(f"{len(again):,} images have another mask in {places[number]}, which counts: {named(again)}")
        entries |= {image_id: PlacedMask(number, entry) for image_id, entry in masks.entries.items()}
    reader = MasksOfPlaces(tuple(replace(masks, entries={}) for masks in found))
    formats = [masks.facts["mask_format"] for masks in found]
    left_out = tuple(sentence for masks in found for sentence in masks.left_out)
    return Masks(
        dict(sorted(entries.items())), reader, found[0].class_names, {"mask_format": formats}, reader.remarks, left_out
    )
