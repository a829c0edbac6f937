"""CVAT's XML file "CVAT for images 1.1", one file for many images.

    file = read_cvat(Path("annotations.xml"))
    mask = draw(file.drawings["0001"], {"car": 1, "road": 2})

Polygons, boxes, ellipses (turned ones, too) and masks are regions; those of a higher z_order are drawn on top. The run
lengths of a mask go along the rows of its box. Groups and attributes have no effect.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from stages.data.annotations.coco_outlines import stem_of
from stages.data.annotations.drawing import BACKGROUND_LABELS, Drawing, Region, Runs, Size, runs_of
from stages.data.annotations.reading import (
    NoAreaError,
    RegionError,
    check_points,
    ellipse,
    polygon,
    read_xml,
    size_of,
    turned,
    wrong_xml,
)

_WITHOUT_AREA = ("polyline", "points", "tag", "cuboid", "skeleton")  # cuboids and skeletons are edges and points


@dataclass(frozen=True)
class CvatFile:
    """A CVAT file. drawings: of each image, by the stem of its file name; undrawn: the stems of those without any
    shape or tag, which are not annotated; labels: of the task, in its order.
    """

    path: Path
    drawings: Mapping[str, Drawing]
    undrawn: tuple[str, ...]
    labels: tuple[str, ...]


def read_cvat(path: Path, size_of_image: Callable[[str], Size | None] = lambda stem: None) -> CvatFile:
    """Read a CVAT XML file. size_of_image: (H, W) by stem, for files without it.

    DataError for a file of another kind, and for two images of one stem; wrong shapes are in `Drawing.problems`.
    """
    root = read_xml(path)
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        raise wrong_xml(path, root, "file of CVAT for images")
    drawings: dict[str, Drawing] = {}
    undrawn = []
    for image in images:
        name = image.get("name") or ""
        stem = stem_of(name)
        if not stem:
            raise DataError(f"{path} has an image without a name", "export it again")
        if stem in drawings or stem in undrawn:
            raise DataError(f"{path} has two images named {stem!r}, one of them {name}", "export them apart")
        if len(image) == 0:
            undrawn.append(stem)
            continue
        size = size_of(image.attrib, "height", "width", f"{path} ({name})") or size_of_image(stem)
        if size is None:
            raise DataError(f"{path} has no width and height of {name}", "export it again")
        drawings[stem] = _drawing(path, image, name, size)
    labels = [element.text.strip() for element in root.iterfind("meta/*/labels/label/name") if element.text]
    return CvatFile(path, drawings, tuple(undrawn), tuple(dict.fromkeys(labels)))


def _drawing(path: Path, image: ElementTree.Element, name: str, size: Size) -> Drawing:
    found: list[tuple[float, Region]] = []
    not_drawn, problems = [], []
    for number, shape in enumerate(image, start=1):
        where = f"{shape.tag[:40]} {number}"
        if shape.tag == "tag" and shape.get("label") in BACKGROUND_LABELS:
            continue  # the image was annotated and shows no object
        try:
            found.append((_number(shape, "z_order", 0), _region(shape, where, size)))
        except NoAreaError as reason:
            not_drawn.append(f"{where}, {shape.get('label')!r}: {reason}")
        except RegionError as wrong:
            problems.append(f"{where}: {wrong}")
    found.sort(key=lambda entry: entry[0])
    return Drawing(path, name, size, tuple(region for _, region in found), tuple(not_drawn), tuple(problems))


def _region(shape: ElementTree.Element, where: str, size: Size) -> Region:
    label = (shape.get("label") or "").strip()
    if not label:
        raise RegionError("it has no label")
    if shape.get("outside") == "1":
        raise NoAreaError("it is marked as outside of the image")
    if shape.tag == "mask":
        return Region(label, where, runs=(_mask(shape, size),))
    if shape.tag == "polygon":
        return Region(label, where, (polygon(_pairs(shape.get("points") or ""), size),))
    if shape.tag == "box":
        return Region(label, where, (_box(shape, size),))
    if shape.tag == "ellipse":
        centre = check_points([_number(shape, "cx"), _number(shape, "cy")], size)[0]
        radii = _number(shape, "rx"), _number(shape, "ry")
        return Region(label, where, (ellipse(centre, radii, size, _number(shape, "rotation", 0)),))
    if shape.tag in _WITHOUT_AREA:
        raise NoAreaError(f"it is a {shape.tag} and has no area")
    raise RegionError("it is of a kind that is not read")


def _pairs(text: str) -> list[list[str]]:
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise RegionError("its points are not pairs of x and y")
    return pairs


def _box(shape: ElementTree.Element, size: Size) -> np.ndarray:
    degrees = _number(shape, "rotation", 0)
    corners = [_number(shape, key) for key in ("xtl", "ytl", "xbr", "ytl", "xbr", "ybr", "xtl", "ybr")]
    # a turned box may have lain outside the image before it was turned
    points = check_points(corners, size, float(max(size))) if degrees else check_points(corners, size)
    return turned(points, points.mean(axis=0), degrees)


def _mask(shape: ElementTree.Element, size: Size) -> Runs:
    left, top, width, height = (int(_number(shape, key)) for key in ("left", "top", "width", "height"))
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        raise RegionError(
            f"its box of {width}x{height} at ({left}, {top}) lies outside the image of {size[1]}x{size[0]}"
        )
    try:
        counts = np.array((shape.get("rle") or "").split(","), dtype=np.int64)
    except (ValueError, OverflowError):
        raise RegionError("its run lengths (rle) are not whole numbers") from None
    if (counts < 0).any():
        raise RegionError(f"its run lengths hold {counts.min()}, which is negative")
    if (total := counts.sum(dtype=np.float64)) != width * height:
        raise RegionError(f"its run lengths cover {total:.0f} pixels, its box has {width * height}")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return runs_of(inside, top, left)


def _number(shape: ElementTree.Element, key: str, missing: float | None = None) -> float:
    text = shape.get(key)
    if text is None and missing is not None:
        return missing
    try:
        number = float(text or "")
    except ValueError:
        raise RegionError(f"its {key} is {(text or 'missing')[:40]}, expected a number") from None
    if not np.isfinite(number):
        raise RegionError(f"its {key} is not finite")
    return number
