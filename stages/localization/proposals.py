"""Proposals: parts of an image that may be objects of some class. Loads no torch.

They are regions of the image at several sizes, merged from superpixels, or masks that were made elsewhere: a folder
with one file for each image,

    DIR/<image id>.png    a label map: 0 where there is none, 1, 2, ... in each proposal; 8 or 16 bits
    DIR/<image id>.npz    proposals that may cover each other: `masks`, bool (n, H, W)

proposals = proposals_of(known, folder="", regions=(36, 12, 4), most=100)     # int64 (L, H, W)
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap
from artifacts.text import named
from stages.engine.known import Known
from stages.localization.regions import region_levels
from stages.localization.superpixel_graph import Features

NONE = -1
LAYERS = ("proposals-1", "proposals-2", "proposals-3")  # label maps for a training; what does not fit is not learned
PADDING = 255
UNREADABLE = (OSError, EOFError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error)
HOW = "make it again: a label map (PNG) or `masks`, bool (n, H, W), in an .npz; each at the size of its image"


def prepare(settings: Any, known: Known) -> dict[str, NDArray[np.uint8]]:
    """`Method.prepare` of methods with the settings `proposals`, `regions` and `most`: the first layers."""
    layers = proposals_of(known, settings.proposals, settings.regions, settings.most)[: len(LAYERS)]
    maps = np.full((len(LAYERS), *layers.shape[1:]), PADDING, np.uint8)
    maps[: len(layers)] = np.where(layers == NONE, PADDING, layers)
    return dict(zip(LAYERS, maps, strict=True))


def proposals_of(known: Known, folder: str, regions: Collection[int], most: int) -> NDArray[np.int64]:
    """Label maps int64 (L, H, W): the number of the proposal, 0..n-1 over all maps, or -1.

    folder: of masks made elsewhere, of which the first `most` count; "": regions of these counts, each once.
    """
    if not folder:
        return region_layers(known.image, regions)
    size = (known.image.shape[0], known.image.shape[1])
    return read_layers(file_of(Path(folder).expanduser(), known.image_id), size, most)


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


def in_layers(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Masks (n, H, W) as label maps, each in the first one in which it covers no other; empty masks are left out."""
    layers: list[NDArray[np.int64]] = [np.full(masks.shape[1:], NONE)]
    for number, mask in enumerate(masks[masks.any((1, 2))]):
        free = next((layer for layer in layers if (layer[mask] == NONE).all()), None)
        if free is None:
            free = np.full(mask.shape, NONE)
            layers.append(free)
        free[mask] = number
    return np.stack(layers)


def file_of(folder: Path, image_id: str) -> Path:
    """The file of an image; the .png where there is none, or more than one."""
    packed = folder / f"{image_id}.npz"
    return packed if packed.is_file() else folder / f"{image_id}.png"


def check_folder(folder: str, ids: Collection[str]) -> None:
    """DataError where a folder of proposals lacks those of some images."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"{place} is not a folder", "name the folder of the proposals (method.proposals)")
    if missing := sorted(image_id for image_id in ids if not file_of(place, image_id).is_file()):
        raise DataError(
            f"{place} has no proposals of {len(missing):,} of {len(ids):,} images: {named(missing)}",
            "add <image id>.png or <image id>.npz, or leave method.proposals empty for regions of the images",
        )


def read_layers(path: Path, size: tuple[int, int], most: int) -> NDArray[np.int64]:
    """The first proposals in a file, as label maps. DataError where it is none, or not of an image of this size."""
    try:
        found = _unpacked(path) if path.suffix == ".npz" else _label_map(path)
    except UNREADABLE as error:
        raise DataError(f"the proposals {path} cannot be read: {error}", HOW) from error
    height, width = found.shape[-2:]
    if (height, width) != size:
        raise DataError(f"the proposals {path} are of {width}x{height} pixels, the image has {size[1]}x{size[0]}", HOW)
    if found.ndim == 3:
        layers = in_layers(found[:most])
    else:
        numbers = np.unique(found[found > 0])[:most]
        layers = np.where(np.isin(found, numbers), np.searchsorted(numbers, found), NONE)[None]
    if not (layers != NONE).any():
        raise DataError(f"{path} has no proposal", HOW)
    return layers


def _unpacked(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as content:
        masks: NDArray[Any] = content["masks"]
    if masks.dtype != bool or masks.ndim != 3:
        raise ValueError(f"`masks` is {masks.dtype} of shape {masks.shape}")
    return masks


def _label_map(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode not in ("P", "L", "I;16", "I"):
            raise ValueError(f"its mode is {image.mode}, a label map has one number for each pixel")
        return np.array(image)


def pooled(proposals: NDArray[np.int64], features: Features, boxes: bool) -> NDArray[np.float32]:
    """(n, F): means of features over the pixels of each proposal, or over its bounding box."""
    count = int(proposals.max()) + 1
    found = np.zeros((count, len(features.values)), np.float32)
    for layer in proposals:
        if not boxes:
            found += features.means(layer + 1, count + 1)[1:].astype(np.float32)
            continue
        rows, columns = features.readers(layer.shape)
        for number, place in enumerate(ndimage.find_objects(layer + 1, count)):
            if place is not None:
                across = features.values @ columns[place[1]].mean(0)  # (F, h)
                found[number] = across @ rows[place[0]].mean(0)
    return found


def spread(
    proposals: NDArray[np.int64], labels: NDArray[np.int64], scores: NDArray, classes: Sequence[int]
) -> NDArray[np.float32]:
    """Scores float32 (len(classes), H, W) of the classes that proposals were given; classes[0] is 0.

    The score of a class is the mean, over the proposals that cover a pixel, of the scores of those with this class and
    of 0 for the rest. Where there is no proposal, class 0 has 1.
    """
    covered = (proposals != NONE).sum(0)
    found = np.zeros((len(classes), *covered.shape), np.float32)
    for place, label in enumerate(classes):
        own = np.append(np.where(labels == label, scores, 0), 0).astype(np.float32)  # NONE, -1, reads the last one
        found[place] = own[proposals].sum(0) / np.maximum(covered, 1)
    found[0][covered == 0] = 1
    return found


def with_means(known: Known, features: Features, settings: Any, boxes: bool) -> tuple[Known, NDArray[np.float32]]:
    """An image and the mean features (n, F) of its proposals; settings as of `prepare`."""
    return known, pooled(proposals_of(known, settings.proposals, settings.regions, settings.most), features, boxes)


def score_map(known: Known, settings: Any, labels: NDArray[np.int64], scores: NDArray) -> ScoreMap:
    """The maps of an image, of background and its labels, from the classes and scores of its proposals: `spread`."""
    proposals = proposals_of(known, settings.proposals, settings.regions, settings.most)
    classes = np.array([0, *known.classes], np.uint8)
    maps = spread(proposals, labels, scores, classes.tolist())
    return ScoreMap(known.image_id, maps, classes, known.scores.size, 1, "refined")
