"""Supervisely's JSON files, one for each image: ann/street.jpg.json and img/street.jpg, with meta.json above both.

    drawing = read_supervisely(Path("ann/street.jpg.json"))
    labels = read_classes(Path("ann"))                         # of the project's meta.json, in its order

Polygons (with their holes), bitmaps and rectangles are regions. Whole numbers are indices of pixels, as Supervisely's
own export draws them: an outline covers the pixels whose indices lie inside it or on it, and a hole removes the pixels
inside it or on it. Numbers with a fraction come from its labelling tool, where the first pixel reaches from 0 to 1.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.errors import DataError
from stages.data.annotations.drawing import BACKGROUND_LABELS, Drawing, Region, Runs, Size, fill, runs_of
from stages.data.annotations.reading import (
    NoAreaError,
    RegionError,
    check_points,
    covered_by,
    open_png,
    polygon,
    read_json,
    size_of,
    wrong_json,
)

_WITHOUT_AREA = ("point", "line", "polyline", "graph", "cuboid", "cuboid_2d")


def read_supervisely(path: Path, size: Size | None = None) -> Drawing:
    """The drawing of a Supervisely JSON file, objects in their order. size: of the image, for files without it."""
    content = read_json(path)
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list):
        raise wrong_json(path, content, "Supervisely file", "it has no list 'objects'")
    said = content.get("size")
    size = (size_of(said, "height", "width", str(path)) if isinstance(said, dict) else None) or size
    if size is None:
        raise DataError(f"{path} has no size of its image", "export it again")
    regions, not_drawn, problems = [], [], []
    for number, one in enumerate(objects, start=1):
        where = f"object {number}"
        try:
            regions.append(_region(one, where, size))
        except NoAreaError as reason:
            not_drawn.append(f"{where}, {one['classTitle']!r}: {reason}")
        except RegionError as wrong:
            problems.append(f"{where}: {wrong}")
    return Drawing(path, path.stem, size, tuple(regions), tuple(not_drawn), tuple(problems))


def is_undrawn(path: Path) -> bool:
    """Whether the image is not annotated: no object, and no tag that marks all of it as background."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("objects") != []:
        return False
    tags = content.get("tags")
    names = [tag.get("name") for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return not any(name in BACKGROUND_LABELS for name in names)


def classes_file(folder: Path) -> Path | None:
    """The project's meta.json, two folders above its annotations (or one, where a data set was moved)."""
    folder = folder.absolute()
    places = (folder.parent.parent, folder.parent, folder)
    return next((place / "meta.json" for place in places if (place / "meta.json").is_file()), None)


def read_classes(folder: Path) -> tuple[str, ...]:
    """The names of the project's classes, in its order; none if there is no meta.json."""
    path = classes_file(folder)
    if path is None:
        return ()
    content = read_json(path)
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, list):  # another program's
        return ()
    titles = [entry.get("title") for entry in classes if isinstance(entry, dict)]
    return tuple(dict.fromkeys(title.strip() for title in titles if isinstance(title, str) and title.strip()))


def _region(one: Any, where: str, size: Size) -> Region:
    label = one.get("classTitle") if isinstance(one, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise RegionError("it has no class (classTitle)")
    label, kind = label.strip(), one.get("geometryType") or ("bitmap" if one.get("bitmap") else "polygon")
    if kind == "bitmap":
        return Region(label, where, runs=(_bitmap(one.get("bitmap"), size),))
    if kind in _WITHOUT_AREA:
        raise NoAreaError(f"it is a {kind} and has no area")
    if kind not in ("polygon", "rectangle"):
        raise RegionError(f"it is of the kind {str(kind)[:40]!r}, which is not read")
    points = one.get("points")
    exterior = points.get("exterior") if isinstance(points, Mapping) else None
    interior = (points.get("interior") or []) if isinstance(points, Mapping) else []
    if not isinstance(interior, list):
        raise RegionError("its holes (interior) are not a list")
    if kind == "rectangle":
        return Region(label, where, (_rectangle(check_points(exterior, size)),))
    outline, holes = polygon(exterior, size), [check_points(hole, size) for hole in interior]
    return Region(label, where, runs=(_with_holes(outline, [hole for hole in holes if len(hole) > 2], size),))


def _rectangle(points: np.ndarray) -> np.ndarray:
    if len(points) != 2:
        raise RegionError(f"it has {len(points)} points, a rectangle has 2")
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0) + _are_pixels(points)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _are_pixels(points: np.ndarray) -> bool:
    return bool((points == np.floor(points)).all())


def _with_holes(outline: np.ndarray, holes: list[np.ndarray], size: Size) -> Runs:
    """The runs of a polygon, in the box around it."""
    pixels = _are_pixels(np.concatenate([outline, *holes]))
    left, top = np.clip(np.floor(outline.min(axis=0)), 0, (size[1] - 1, size[0] - 1)).astype(int).tolist()
    right, bottom = np.clip(np.floor(outline.max(axis=0)) + 1, (left + 1, top + 1), (size[1], size[0])).astype(int)
    box = (int(bottom) - top, int(right) - left)
    covered = _covered(outline - (left, top), box, pixels)
    for hole in holes:
        covered &= ~_covered(hole - (left, top), box, pixels)
    return runs_of(covered, top, left)


def _covered(points: np.ndarray, box: Size, pixels: bool) -> np.ndarray:
    """bool (h, w): the pixels inside; of an outline of indices (`pixels`) also those on it."""
    if not pixels:
        return fill(box, [points])
    inside = fill(box, [points + 0.5])
    start = points.astype(np.int64)
    step = np.roll(start, -1, axis=0) - start
    steps = np.maximum(np.gcd(step[:, 0], step[:, 1]), 1)  # from a corner to the next one, by indices on the edge
    edge = np.repeat(np.arange(len(start)), steps)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(steps) - steps, steps)
    column, row = (start[edge] + place[:, None] * (step // steps[:, None])[edge]).T
    there = (column >= 0) & (column < box[1]) & (row >= 0) & (row < box[0])
    inside[row[there], column[there]] = True
    return inside


def _bitmap(bitmap: Any, size: Size) -> Runs:
    """A bitmap is a PNG, packed by zlib and in base64, whose upper left pixel lies at its origin (x, y)."""
    if not isinstance(bitmap, Mapping):
        raise RegionError("it has no bitmap")
    origin = check_points(bitmap.get("origin"), size, 0)
    if len(origin) != 1:
        raise RegionError("its origin is no pair of x and y")
    left, top = np.floor(origin[0]).astype(int).tolist()
    most = 65_536 + 8 * size[0] * size[1]  # bytes of a PNG of this size that was not packed at all, and more
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(bitmap.get("data") or "", validate=True), most)
    except (TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise RegionError(f"its bitmap is not a PNG packed in zlib and base64: {error}") from None
    if unpacking.unconsumed_tail:
        raise RegionError(f"its bitmap unpacks to more than {most:,} bytes, the most for its image")
    covered = covered_by(open_png(data, size))
    return runs_of(covered[: size[0] - top, : size[1] - left], top, left)
