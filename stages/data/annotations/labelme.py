"""LabelMe's JSON files, one for each image.

drawing = read_labelme(Path("street.json"))
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from artifacts.errors import DataError
from stages.data.annotations.drawing import Drawing, Region, Runs, Size, runs_of
from stages.data.annotations.reading import (
    NoAreaError,
    RegionError,
    check_points,
    ellipse,
    open_png,
    polygon,
    read_json,
    size_of,
    wrong_json,
)

_OUTLINED = ("polygon", "oriented_rectangle", "rotation")  # `rotation` is X-AnyLabeling's turned rectangle
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


def read_labelme(path: Path, size: Size | None = None) -> Drawing:
    """The drawing of a LabelMe JSON file, shapes in their order.

    Polygons, (turned) rectangles, circles and masks are regions; points and lines are in `not_drawn`. Coordinates
    are those of the image as LabelMe shows it: turned by its EXIF orientation. size: of the image, (H, W), for old
    files without it. Raises DataError for a file that is missing or not LabelMe's, and for one without a size.
    """
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise wrong_json(path, content, "LabelMe file", "it has no list 'shapes'")
    size = size_of(content, "imageHeight", "imageWidth", str(path)) or size
    if size is None:
        raise DataError(f"{path} has no imageHeight and imageWidth", "open it with LabelMe and save it again")
    regions, not_drawn, problems = [], [], []
    for number, shape in enumerate(shapes, start=1):
        where = f"shape {number}"
        try:
            regions.append(_region(shape, where, size))
        except NoAreaError as reason:
            not_drawn.append(f"{where}, {shape['label']!r}: {reason}")
        except RegionError as wrong:
            problems.append(f"{where}: {wrong}")
    image = PurePosixPath(str(content.get("imagePath") or path.stem).replace("\\", "/")).name
    return Drawing(path, image, size, tuple(regions), tuple(not_drawn), tuple(problems))


def _region(shape: Any, where: str, size: Size) -> Region:
    label = _label(shape)
    kind = shape.get("shape_type") or "polygon"  # LabelMe before 3.0 knew polygons only
    if kind == "mask":
        return Region(label, where, runs=(_mask(shape, size),))
    if kind in _OUTLINED:
        return Region(label, where, (polygon(shape.get("points"), size),))
    if kind in _WITHOUT_AREA:
        raise NoAreaError(f"it is a {kind} and has no area")
    if kind not in ("rectangle", "circle"):
        raise RegionError(f"it is of the kind {str(kind)[:40]!r}, which is not read")
    points = check_points(shape.get("points"), size)
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling names all corners
        return Region(label, where, (points,))
    if len(points) < 2:
        raise NoAreaError(f"it has {len(points)} points, a {kind} has 2")
    if len(points) != 2:
        raise RegionError(f"it has {len(points)} points, a {kind} has 2")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return Region(label, where, (np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]),))
    radius = math.hypot(x1 - x0, y1 - y0)
    return Region(label, where, (ellipse(points[0], (radius, radius), size),))


def _label(shape: Any) -> str:
    """The label, where it is a number as text: programs that write classes by their id write 3 and mean "3"."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int | float) and not isinstance(label, bool):
        return str(label)
    if label is not None and not isinstance(label, str):
        raise RegionError(f"its label is {repr(label)[:40]}, expected text")
    if not label or not label.strip():
        raise RegionError("it has no label")
    return label.strip()


def _mask(shape: Mapping[str, Any], size: Size) -> Runs:
    """A mask is a PNG in base64 whose corners, both inclusive, are the two points."""
    points = check_points(shape.get("points"), size)
    if len(points) != 2:
        raise RegionError(f"it has {len(points)} points, a mask has 2")
    (left, top), (right, bottom) = np.maximum(points.astype(int), 0).tolist()
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
    except (TypeError, ValueError) as error:
        raise RegionError(f"its mask is not a PNG in base64: {error}") from None
    pixels = np.asarray(open_png(data, size)).astype(bool)
    expected = (min(bottom + 1, size[0]) - top, min(right + 1, size[1]) - left)
    if pixels.shape != expected:
        raise RegionError(f"its mask has the shape {pixels.shape}, its points give {expected} (height, width)")
    return runs_of(pixels, top, left)
