"""Segments: parts of an image without a class, of which some may cover others. Loads no torch.

They are regions of the image at several sizes, merged from superpixels, those of the stage `segments`, or masks
that were made elsewhere: a folder with one file for each image,

    DIR/<image id>.png     a label map: 0 where there is none, 1, 2, ... in each segment; 8 or 16 bits
    DIR/<image id>.npz     segments that may cover each other: `masks`, bool (n, H, W)
    DIR/<image id>.json    the same as COCO's run lengths, a list of {"segmentation": {"size", "counts"}}, or an object
                           with such a list, `annotations`: what SAM's codes write

layers = read_layers(file_of(folder, image_id), size)     # int64 (L, H, W), the number of the segment or NONE
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_segments import SegmentFile, item_of
from artifacts.store import Artifact
from artifacts.text import named
from stages.data.annotations.coco_outlines import mask_of_runs
from stages.data.annotations.reading import RegionError, read_json
from stages.localization.regions import region_levels

NONE = -1
SUFFIXES = (".npz", ".json", ".png")  # where an image has several files, the first of these is read
UNREADABLE = (OSError, EOFError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error, RegionError)
HOW = (
    "make it again: a label map (PNG), `masks`, bool (n, H, W), in an .npz, or COCO's run lengths (JSON); each at the "
    "size of its image"
)


def region_layers(image: NDArray[np.uint8], counts: Collection[int]) -> NDArray[np.int64]:
    """Regions at several levels, the smallest first; one that is there at a level before is left out."""
    layers: list[NDArray[np.int64]] = []
    before: NDArray[np.int64] | None = None
    total = 0
    for level in region_levels(image, sorted(set(counts))):
        number = int(level.max()) + 1
        new = np.ones(number, bool)
        if before is not None:
            pairs = np.unique(np.stack([level.ravel(), before.ravel()]), axis=1)
            new = np.bincount(pairs[0], minlength=number) > 1
        numbers = np.where(new, total + np.cumsum(new) - 1, NONE)
        layers.append(numbers[level])
        total, before = total + int(new.sum()), level
    return np.stack(layers)


def in_layers(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.int64]:
    """Masks of `size` as label maps, each in the first one in which it covers no other; empty masks are left out."""
    layers: list[NDArray[np.int64]] = [np.full(size, NONE)]
    for number, mask in enumerate(mask for mask in masks if mask.any()):
        free = next((layer for layer in layers if (layer[mask] == NONE).all()), None)
        if free is None:
            free = np.full(size, NONE)
            layers.append(free)
        free[mask] = number
    return np.stack(layers)


def file_of(folder: Path, image_id: str) -> Path:
    """The file of an image; the .png where there is none."""
    files = (folder / f"{image_id}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), folder / f"{image_id}.png")


def check_folder(folder: str, ids: Collection[str], key: str) -> None:
    """DataError where a folder of segments, the value of the setting `key`, lacks those of some images."""
    place, what = Path(folder).expanduser(), key.rpartition(".")[2]
    if not place.is_dir():
        raise DataError(f"{place} is not a folder", f"name the folder of the {what} ({key})")
    if missing := sorted(image_id for image_id in ids if not file_of(place, image_id).is_file()):
        raise DataError(
            f"{place} has no {what} of {len(missing):,} of {len(ids):,} images: {named(missing)}",
            f"add <image id>.png, .npz or .json, or leave {key} empty for regions of the images",
        )


def check_stored(segments: Artifact, ids: Collection[str]) -> None:
    """DataError where an artifact of segments lacks those of some images."""
    if missing := sorted(image_id for image_id in ids if item_of(image_id) not in segments.items):
        raise DataError(
            f"{segments.name} has no segments of {len(missing):,} of {len(ids):,} images: {named(missing)}",
            "make segments of all their splits (semiseg segments --split A,B), or vote on fewer (--split)",
        )


def stored_layers(segments: Artifact, image_id: str, size: tuple[int, int]) -> NDArray[np.int64]:
    """The segments of an image in an artifact, as label maps; there may be none."""
    entries = segments.json(item_of(image_id), SegmentFile).annotations
    try:
        return in_layers(_masks_of_runs(entries, size), size)
    except UNREADABLE as error:
        cure = "give the data set that the segments were made from"
        raise DataError(f"the segments of {image_id} in {segments.name} do not fit its image: {error}", cure) from error


def read_layers(path: Path, size: tuple[int, int], most: int | None = None) -> NDArray[np.int64]:
    """The first segments in a file, or all, as label maps. DataError where they cannot be read or are not of this size.

    A list of run lengths may be empty: nothing was found. A label map and an array of masks without any are mistakes.
    """
    try:
        if path.suffix == ".json":
            return in_layers(islice(_masks_of_runs(_entries(path), size), most), size)
        found: NDArray[Any] = _unpacked(path) if path.suffix == ".npz" else _label_map(path)
    except UNREADABLE as error:
        raise DataError(f"the segments {path} cannot be read: {error}", HOW) from error
    height, width = found.shape[-2:]
    if (height, width) != size:
        raise DataError(f"the segments {path} are of {width}x{height} pixels, the image has {size[1]}x{size[0]}", HOW)
    if found.ndim == 3:
        layers = in_layers(found[:most], size)
    else:
        numbers = np.unique(found[found > 0])[:most]
        layers = np.where(np.isin(found, numbers), np.searchsorted(numbers, found), NONE)[None]
    if not (layers != NONE).any():
        raise DataError(f"{path} has no segment", HOW)
    return layers


def _unpacked(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as content:
        masks: NDArray[Any] = content["masks"]
    if masks.dtype != bool or masks.ndim != 3:
        raise ValueError(f"`masks` is {masks.dtype} of shape {masks.shape}")
    return masks


def _entries(path: Path) -> list[Any]:
    """The list of segments in a JSON file, as SAM's codes write it."""
    content = read_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ValueError("it is no list of segments, and has no `annotations`")
    return entries


def _masks_of_runs(entries: Iterable[Any], size: tuple[int, int]) -> Iterator[NDArray[np.bool_]]:
    """The masks (H, W) one by one: those of a large image together would need gigabytes."""
    for number, entry in enumerate(entries, start=1):
        shape = entry.get("segmentation") if isinstance(entry, dict) else None
        if not isinstance(shape, dict):
            raise ValueError(f"entry {number} has no run lengths")
        yield mask_of_runs(shape, size)


def _label_map(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode not in ("P", "L", "I;16", "I"):
            raise ValueError(f"its mode is {image.mode}, a label map has one number for each pixel")
        return np.array(image)
