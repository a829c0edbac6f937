"""The shared parts of the readers of annotation files: JSON and XML of untrusted origin, sizes, points, and limits.

A file may be wrong or hostile: every number in it is compared with a limit before it is used, above all before memory
is allocated for it.
"""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from stages.data.annotations.drawing import Size
from stages.data.annotations.formats import what_json_is, what_text_is, what_xml_is

MARGIN = 2.0  # pixels by which drawing tools may overshoot the image; what lies outside is cut off
MOST_PIXELS = 178_956_970  # of an image: no larger one is read (Pillow's limit)
MOST_LENGTH = 4_000_000  # pixels of the outline of one polygon
MOST_BYTES = 2_000_000_000  # of an annotation file; COCO's largest has 470 MB
MOST_XML_BYTES = 500_000_000
_CIRCLE_ERROR = 0.01  # pixels between a circle and its polygon


class RegionError(ValueError):
    """A mistake in a region."""


class NoAreaError(RegionError):
    """The region has no area: it is left out, counted and reported."""


# ------------------------------------------------------------------------------------------------- files


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The file's content; DataError where it cannot be read or has more than `most` bytes."""
    try:
        size = path.stat().st_size
        if size > most:
            raise DataError(
                f"the annotation file {path} has {size:,} bytes; at most {most:,} are read", "split it by images"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the annotation file {path} cannot be read: {error.strerror}", "correct its path") from None


def read_json(path: Path, each_object: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The values of a JSON file (UTF-8, or UTF-16 as Windows writes it)."""
    data = read_bytes(path)
    if found := what_text_is(data):
        raise not_read(path, found)
    try:
        return json.loads(data, object_hook=each_object)
    except RecursionError:
        raise DataError(
            f"the annotation file {path} nests lists deeper than can be read", "export it again, or leave it out"
        ) from None
    except ValueError as error:  # no JSON, no UTF-8
        raise DataError(f"the annotation file {path} is damaged: {error}", "copy or export it again") from None


class _WithoutDocumentType(ElementTree.TreeBuilder):
    """Refuses what could declare entities, whose expansion fills the memory, before any is expanded."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise RegionError(f"it declares a document type ({name[:40]}), which annotation files do not need")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file."""
    data = read_bytes(path, MOST_XML_BYTES)
    try:
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=_WithoutDocumentType()))
    except RegionError as wrong:
        raise DataError(f"the annotation file {path} is refused: {wrong}", "export it again") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"the annotation file {path} is damaged: {error}", "copy or export it again") from None


def not_read(path: Path, found: tuple[str, str]) -> DataError:
    """The error for a file of a known format where a different one is expected. found: what it is, and what to do."""
    return DataError(f"{path} is {found[0]}", found[1])


def wrong_json(path: Path, content: Any, wanted: str, lacking: str) -> DataError:
    """The error for a JSON file that is not of the format `wanted`: what it is, if that is known."""
    found = what_json_is(content)
    if found and found[0] != "a COCO file":
        return DataError(f"{path} is not a {wanted}: it is {found[0]}", found[1])
    return DataError(f"{path} is not a {wanted}: {lacking}", "take another file")


def wrong_xml(path: Path, root: ElementTree.Element, wanted: str) -> DataError:
    """The error for an XML file that is not of the format `wanted`."""
    what, cure = what_xml_is(root)
    return DataError(f"{path} is not a {wanted}: it is {what}", cure)


# ------------------------------------------------------------------------------------------------- sizes


def size_of(entry: Mapping[str, Any], height: str, width: str, where: str) -> Size | None:
    """(H, W) of an entry; None if it has none (missing, empty or 0). DataError for impossible sizes."""
    sides = [entry.get(height), entry.get(width)]
    if any(side in (None, "", 0, "0") for side in sides):
        return None
    try:
        if any(isinstance(side, bool) for side in sides):
            raise ValueError
        rows, columns = (float(side) for side in sides if side is not None)
        whole = rows >= 1 and columns >= 1 and rows == int(rows) and columns == int(columns)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        shown = " x ".join(repr(side)[:40] for side in reversed(sides))
        raise DataError(f"{where} has the size {shown} (width x height), which is impossible", "correct the size")
    if rows * columns > MOST_PIXELS:
        raise DataError(
            f"{where} has the size {columns:.0f}x{rows:.0f} (width x height); at most {MOST_PIXELS:,} pixels are read",
            "correct the size, or cut the image and its annotations into tiles",
        )
    return int(rows), int(columns)


# ------------------------------------------------------------------------------------------------- points


def check_points(values: Any, size: Size, margin: float = MARGIN) -> np.ndarray:
    """float64 (n, 2) of what was read, [x, y, x, y, ...] or [[x, y], ...]; RegionError if they are none."""
    try:
        flat = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise RegionError("its points are not numbers") from None
    if flat.size % 2 or not (flat.ndim == 1 or (flat.ndim == 2 and (flat.shape[1] == 2 or not flat.size))):
        raise RegionError("its points are not pairs of x and y")
    points = flat.reshape(-1, 2)
    if not np.isfinite(points).all():
        raise RegionError("a point of it is not finite")
    height, width = size
    outside = (points < -margin) | (points > (width + margin, height + margin))
    if outside.any():
        x, y = points[outside.any(axis=1)][0]
        raise RegionError(f"its point ({x:g}, {y:g}) lies outside the image of {width}x{height} (width x height)")
    return points


def polygon(values: Any, size: Size) -> np.ndarray:
    """The points of a polygon; NoAreaError for fewer than three, RegionError for too long an outline, slow to fill."""
    points = check_points(values, size)
    if len(points) < 3:
        raise NoAreaError(f"it has {len(points)} points, a polygon has at least 3")
    length = np.abs(np.diff(points, axis=0)).max(axis=1).sum()
    if length > MOST_LENGTH:
        raise RegionError(f"its outline is {length:,.0f} pixels long; at most {MOST_LENGTH:,} are drawn")
    return points


def ellipse(centre: np.ndarray, radii: tuple[float, float], size: Size, degrees: float = 0.0) -> np.ndarray:
    """The polygon of an ellipse that is turned clockwise; RegionError if a radius exceeds the image."""
    if not 0 <= max(radii) <= math.hypot(*size) + 2 * MARGIN or min(radii) < 0:
        raise RegionError(f"its radius {max(radii):g} is larger than the image of {size[1]}x{size[0]}")
    corners = 3 + math.ceil(math.pi * math.sqrt(max(radii) / (2 * _CIRCLE_ERROR)))
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return turned(centre + np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1), centre, degrees)


def turned(points: np.ndarray, centre: np.ndarray, degrees: float) -> np.ndarray:
    """Points turned about a centre, clockwise as seen (y runs downwards)."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre if degrees else points


# ------------------------------------------------------------------------------------------------- masks inside files


def open_png(data: bytes, most: Size) -> Image.Image:
    """A PNG inside an annotation, decoded; RegionError for anything else, and for one larger than `most`."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.height > most[0] or image.width > most[1]:
            raise RegionError(
                f"its mask has {image.width}x{image.height} pixels, more than the {most[1]}x{most[0]} it may cover"
            )
        image.load()
    except RegionError:
        raise
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        shown = "cannot identify it" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise RegionError(f"its mask is not a PNG: {shown}") from None
    return image


def covered_by(image: Image.Image) -> np.ndarray:
    """bool (H, W): the pixels of a mask that are not transparent, or not 0 where nothing is transparent."""
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        return np.asarray(image.convert("RGBA"))[:, :, 3] > 0
    covered = np.asarray(image) > 0
    return covered.max(axis=2) if covered.ndim == 3 else covered
