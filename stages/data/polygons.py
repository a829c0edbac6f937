"""Annotation files that hold outlines, LabelMe's and COCO's, drawn as index masks.

A `Drawing` is what such a file says about one picture, small enough to be sent to another process; `draw` makes the
mask of it, uint8 (H, W): 0 where nothing lies, class ids, 255 for ignore.

    mask = draw(read_labelme(Path("street.json")), {"car": 1, "person": 2})
    file = read_coco(Path("instances_val2017.json"))
    mask = draw(file.annotations_of("000000000139"), {name: ... for name in file.categories.values()})

x runs to the right and y downwards, in pixels from the upper left corner of the picture, so the centre of the first
pixel is (0.5, 0.5): the convention of both formats. A pixel belongs to an outline if its centre lies inside, where a
line out of it crosses the outline an odd number of times (even-odd). A centre exactly on an edge counts as right of it
or below it: outlines that share an edge neither share pixels nor leave a gap. LabelMe's own export and pycocotools
differ by pixels along the edge; LabelMe paints the outline too, so that its regions are about half a pixel wider.

Outlines are filled by scan lines in numpy. Pillow cuts coordinates down to whole pixels, and scikit-image, which gives
the same pixels as this module, tests every pixel of the box against every edge: 80 times slower for 300 points.
"""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from artifacts.masks import IGNORE
from stages.data.lists import SHOWN, named

MARGIN = 2.0  # pixels by which drawing tools may overshoot the picture; what lies outside is cut off
BACKGROUND_LABELS = ("background", "_background_")
IGNORE_LABELS = ("__ignore__",)  # with _background_ LabelMe's convention, see its labels.txt
_OUTLINED = ("polygon", "oriented_rectangle", "rotation")  # `rotation` is X-AnyLabeling's turned rectangle
_CIRCLE_ERROR = 0.01  # pixels between a circle and the polygon that stands for it

Size = tuple[int, int]  # (H, W)
Key = int | str  # an id of a COCO file


# ------------------------------------------------------------------------------------------------- what was drawn


@dataclass(frozen=True)
class Runs:
    """A region as run lengths: pixels outside and inside in turn, column after column, outside first."""

    top: int
    left: int
    size: Size  # of the box that the runs fill
    counts: np.ndarray  # int64 (n,), their sum is the number of pixels of the box

    def pixels(self) -> np.ndarray:
        """bool (H, W) of the box."""
        height, width = self.size
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(width, height).T


@dataclass(frozen=True)
class Region:
    """One object: a label, and outlines or runs whose union it covers."""

    label: str
    where: str  # "shape 3" or "annotation 17"
    outlines: tuple[np.ndarray, ...] = ()  # float64 (n, 2) each: x, y in pixels
    runs: Runs | None = None
    crowd: bool = False

    def area(self) -> float:
        """In pixels, as the sum over the outlines; where outlines cross, parts cancel."""
        inside = 0 if self.runs is None else int(self.runs.counts[1::2].sum())
        return inside + sum(_shoelace(outline) for outline in self.outlines)


@dataclass(frozen=True)
class Drawing:
    """What an annotation file says about one picture; later regions lie over earlier ones.

    Attributes: path (the annotation file), picture (its file name, as written there), size (H, W), regions,
    not_drawn (a sentence for each shape that has no area: points and lines), problems (a sentence for each region that
    is left out because it is wrong).
    """

    path: Path
    picture: str
    size: Size
    regions: tuple[Region, ...]
    not_drawn: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({self.picture})"


class _RegionError(ValueError):
    """Says what is wrong with a region."""


def draw(
    drawing: Drawing, class_ids: Mapping[str, int], *, ground: int = 0, crowd: Literal["ignore", "class"] = "ignore"
) -> np.ndarray:
    """The index mask of a drawing, uint8 (H, W).

    class_ids: label -> class id or 255; several labels may share an id. LabelMe's `_background_` and `__ignore__` are
    known without. ground: the value where nothing lies. crowd: COCO's crowd regions become 255 where no other object
    lies ("ignore"; ground where their class is ground), or are objects like the others ("class").
    An object that covers no pixel centre leaves no pixel.
    Raises DataError for problems of the drawing (`dataclasses.replace(drawing, problems=())` draws the rest), and
    for labels without an id.
    """
    refuse_problems(str(drawing), drawing.problems)
    check_labels([drawing], class_ids)
    conventions = dict.fromkeys(BACKGROUND_LABELS, ground) | dict.fromkeys(IGNORE_LABELS, IGNORE)
    values = conventions | dict(class_ids)
    mask = np.full(drawing.size, ground, dtype=np.uint8)
    for region in sorted(drawing.regions, key=lambda region: not (region.crowd and crowd == "ignore")):
        value = values[region.label]
        if region.crowd and crowd == "ignore" and value != ground:
            value = IGNORE
        for box, inside in _covered(region, drawing.size):
            mask[box][inside] = value
    return mask


def check_labels(drawings: Iterable[Drawing], class_ids: Mapping[str, int]) -> None:
    """Every label has a class id; DataError names all that have none, each with a place and a count."""
    known = {*class_ids, *BACKGROUND_LABELS, *IGNORE_LABELS}
    places: dict[str, list[str]] = {}
    for drawing in drawings:
        for region in drawing.regions:
            if region.label not in known:
                places.setdefault(region.label, []).append(f"{drawing}, {region.where}")
    if not places:
        return
    found = "; ".join(
        f"{label!r} ({where[0]}" + (f" and {len(where) - 1} more)" if len(where) > 1 else ")")
        for label, where in sorted(places.items())
    )
    count = f"{len(places)} labels are" if len(places) > 1 else "a label is"
    raise DataError(
        f"{count} no class: {found}",
        f"add them to the class table, or correct them; the classes are {', '.join(class_ids)}",
    )


def refuse_problems(where: str, problems: Sequence[str]) -> None:
    """DataError that names the first few problems and counts the rest; nothing if there are none."""
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        count = f"{len(problems)} annotations are" if len(problems) > 1 else "an annotation is"
        raise DataError(
            f"{where}: {count} wrong:{shown}{more}",
            "correct them in the program that wrote them, or delete them",
        )


# ------------------------------------------------------------------------------------------------- filling


def fill(shape: Size, polygons: Iterable[np.ndarray]) -> np.ndarray:
    """bool (H, W): the union of polygons, each float (n, 2) of x, y in pixels, closed by itself, of any orientation.

    Pixels whose centre lies inside by the even-odd rule; see the module for centres on an edge. What lies outside
    (H, W) is cut off.
    """
    covered = np.zeros(shape, dtype=bool)
    for polygon in polygons:
        for box, inside in _inside(np.asarray(polygon, dtype=np.float64), shape):
            covered[box] |= inside
    return covered


Box = tuple[slice, slice]


def _covered(region: Region, shape: Size) -> Iterator[tuple[Box, np.ndarray]]:
    """(box, bool (h, w) of its pixels) of every part of a region; the box lies inside the picture."""
    for outline in region.outlines:
        yield from _inside(outline, shape)
    if region.runs is not None:
        (height, width), top, left = region.runs.size, region.runs.top, region.runs.left
        yield (slice(top, top + height), slice(left, left + width)), region.runs.pixels()


def _inside(points: np.ndarray, shape: Size) -> Iterator[tuple[Box, np.ndarray]]:
    """The box of a polygon and the pixels inside; nothing where it covers no row of pixel centres.

    Each edge crosses some rows of centres; right of every crossing, inside and outside change places.
    """
    height, width = shape
    start = points - 0.5  # centres have whole numbers now
    end = np.roll(start, -1, axis=0)
    downwards = (start[:, 1] <= end[:, 1])[:, None]  # an edge has the same crossings whichever way it was drawn
    upper, lower = np.where(downwards, start, end), np.where(downwards, end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    rows = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64) - first  # crossed by each edge
    if not rows.any():
        return
    edge = np.repeat(np.arange(len(rows)), rows)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows)
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossing = upper[edge, 0] + (row - upper[edge, 1]) * slope
    column = np.clip(np.ceil(crossing), 0, width).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    box = (int(row.max()) - top + 1, int(column.max()) - left + 1)
    changes = np.bincount((row - top) * box[1] + column - left, minlength=box[0] * box[1]).reshape(box)
    inside = (np.cumsum(changes, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :-1]  # the last column is outside again
    yield (slice(top, top + box[0]), slice(left, left + box[1] - 1)), inside


def _shoelace(points: np.ndarray) -> float:
    x, y = (points - points[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2)


def _check_points(values: Any, size: Size) -> np.ndarray:
    """float64 (n, 2) of what was read, [x, y, x, y, ...] or [[x, y], ...]; _RegionError says what is wrong with it."""
    try:
        flat = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise _RegionError("its points are no numbers") from None
    if flat.size % 2 or not (flat.ndim == 1 or (flat.ndim == 2 and flat.shape[1] == 2)):
        raise _RegionError("its points are no pairs of x and y")
    points = flat.reshape(-1, 2)
    if not np.isfinite(points).all():
        raise _RegionError("a point of it is not finite")
    height, width = size
    outside = (points < -MARGIN) | (points > (width + MARGIN, height + MARGIN))
    if outside.any():
        x, y = points[outside.any(axis=1)][0]
        raise _RegionError(f"its point ({x:g}, {y:g}) lies outside the picture of {width}x{height} (width x height)")
    return points


def _polygon(values: Any, size: Size) -> np.ndarray:
    points = _check_points(values, size)
    if len(points) < 3:
        raise _RegionError(f"it has {len(points)} points, a polygon has at least 3")
    return points


# ------------------------------------------------------------------------------------------------- LabelMe


def read_labelme(path: Path, size: Size | None = None) -> Drawing:
    """The drawing of a LabelMe JSON file, shapes in their order.

    Polygons, (turned) rectangles, circles and masks are regions; points and lines stand in `not_drawn`. Coordinates
    are those of the picture as LabelMe shows it: turned by its EXIF orientation. size: of the picture, (H, W), for old
    files that do not say it. Raises DataError for a file that is missing or not LabelMe's, and for one without a size.
    """
    content = _read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{path} is no LabelMe file: it has no list 'shapes'", "take another file, or another reader")
    size = _size_of(content, "imageHeight", "imageWidth") or size
    if size is None:
        raise DataError(f"{path} does not say imageHeight and imageWidth", "open it with LabelMe and save it again")
    regions, not_drawn, problems = [], [], []
    for number, shape in enumerate(shapes, start=1):
        where = f"shape {number}"
        try:
            region = _labelme_region(shape, where, size)
        except _RegionError as wrong:
            problems.append(f"{where}: {wrong}")
            continue
        if region is None:
            not_drawn.append(f"{where}, {shape['label']!r}, is a {shape['shape_type']} and has no area")
        else:
            regions.append(region)
    picture = PurePosixPath(str(content.get("imagePath") or path.stem).replace("\\", "/")).name
    return Drawing(path, picture, size, tuple(regions), tuple(not_drawn), tuple(problems))


def _labelme_region(shape: Any, where: str, size: Size) -> Region | None:
    """The region of a shape; None for a kind without an area."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise _RegionError("it has no label")
    label, kind = label.strip(), shape.get("shape_type") or "polygon"  # LabelMe before 3.0 knew polygons only
    if kind == "mask":
        return Region(label, where, runs=_labelme_mask(shape, size))
    if kind in _OUTLINED:
        return Region(label, where, (_polygon(shape.get("points"), size),))
    if kind not in ("rectangle", "circle"):
        return None
    points = _check_points(shape.get("points"), size)
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling names all corners
        return Region(label, where, (points,))
    if len(points) != 2:
        raise _RegionError(f"it has {len(points)} points, a {kind} has 2")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return Region(label, where, (np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]),))
    radius = math.hypot(x1 - x0, y1 - y0)
    corners = 3 + math.ceil(math.pi * math.sqrt(radius / (2 * _CIRCLE_ERROR)))
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return Region(label, where, (np.stack([x0 + radius * np.cos(angle), y0 + radius * np.sin(angle)], axis=1),))


def _labelme_mask(shape: Mapping[str, Any], size: Size) -> Runs:
    """A mask is a PNG in base64 whose corners, both inclusive, are the two points."""
    points = _check_points(shape.get("points"), size)
    if len(points) != 2:
        raise _RegionError(f"it has {len(points)} points, a mask has 2")
    (left, top), (right, bottom) = np.maximum(points.astype(int), 0).tolist()
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))) as picture:
            pixels = np.asarray(picture).astype(bool)
    except (OSError, SyntaxError, TypeError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise _RegionError(f"its mask is no PNG in base64: {error}") from None
    expected = (min(bottom + 1, size[0]) - top, min(right + 1, size[1]) - left)
    if pixels.shape != expected:
        raise _RegionError(f"its mask has the shape {pixels.shape}, its points ask for {expected} (height, width)")
    changes = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=False))  # the first run is outside, if only 0 long
    return Runs(top, left, expected, np.diff(changes, prepend=0, append=pixels.size))


# ------------------------------------------------------------------------------------------------- COCO


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file, indexed by picture.

    Attributes: path, image_ids (stem of the file name -> id in the file), categories (id -> name), problems (a sentence
    for every annotation that belongs to no picture or to no category of the file).
    """

    path: Path
    image_ids: Mapping[str, Key]
    categories: Mapping[Key, str]
    problems: tuple[str, ...]
    _images: Mapping[Key, Mapping[str, Any]] = field(repr=False)
    _annotations: Mapping[Key, Sequence[Mapping[str, Any]]] = field(repr=False)

    def file_name(self, stem: str) -> str:
        """The picture's file as the JSON file names it, which may be in a sub-folder."""
        return str(self._image(stem)["file_name"])

    def annotations_of(self, stem: str, size: Size | None = None) -> Drawing:
        """The drawing of a picture: larger objects first, so that small ones stay visible; labels are category names.

        Objects of equal area keep their order. The area is that of the outline: some programs write that of the box
        into the file. size: of the picture, (H, W), for files that do not say it. DataError for an unknown picture.
        """
        image = self._image(stem)
        size = _size_of(image, "height", "width") or size
        if size is None:
            raise DataError(f"{self.path} does not say height and width of {stem}", "add them to its entry in images")
        regions: list[Region] = []
        problems: list[str] = []
        for annotation in self._annotations.get(image["id"], ()):
            label, where = self.categories[annotation["category_id"]], f"annotation {annotation.get('id')}"
            outlines, runs = _coco_shape(annotation.get("segmentation"), where, size, problems)
            if outlines or runs is not None:
                regions.append(Region(label, where, outlines, runs, bool(annotation.get("iscrowd"))))
        regions.sort(key=lambda region: -region.area())
        return Drawing(self.path, str(image["file_name"]), size, tuple(regions), (), tuple(problems))

    def labels_of(self, stem: str) -> frozenset[str]:
        """Names of the categories that have an annotation in the picture, crowd regions too."""
        annotations = self._annotations.get(self._image(stem)["id"], ())
        return frozenset(self.categories[annotation["category_id"]] for annotation in annotations)

    def _image(self, stem: str) -> Mapping[str, Any]:
        if stem not in self.image_ids:
            raise DataError(f"{self.path} has no picture {stem!r}", "take it from the list, or add it to the file")
        return self._images[self.image_ids[stem]]


def read_coco(path: Path) -> CocoFile:
    """Read the annotations of a COCO JSON file (instances, or stuff as polygons or runs).

    One pass indexes them by picture, nothing is copied: 860,000 annotations (as many as COCO's train2017 has) took
    15 s and 1.6 GB.
    Raises DataError for a file of another kind, entries without id or name, and two pictures of one stem.
    Annotations that belong nowhere are told in `CocoFile.problems`, wrong outlines in `Drawing.problems`.
    """
    content = _read_json(path, _pack)
    parts = {
        name: content.get(name) if isinstance(content, dict) else None
        for name in ("images", "categories", "annotations")
    }
    if missing := [name for name, part in parts.items() if not isinstance(part, list)]:
        raise DataError(f"{path} is no COCO file with masks: it has no list {named(missing)}", "take another file")
    images = _by_id(path, "images", parts["images"], "file_name")
    categories = {
        key: str(entry["name"]) for key, entry in _by_id(path, "categories", parts["categories"], "name").items()
    }
    annotations, problems = _index_annotations(path, parts["annotations"] or [], images, categories)
    return CocoFile(path, _stems(path, images), categories, tuple(problems), images, annotations)


def _by_id(path: Path, name: str, entries: Any, needed: str) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"id", needed} <= entry.keys() or not isinstance(entry["id"], int | str):
            raise DataError(f"{path}: entry {number} of {name} lacks id or {needed}", "complete the entry")
        if entry["id"] in found:
            raise DataError(f"{path}: id {entry['id']} stands twice in {name}", "give each entry its own id")
        found[entry["id"]] = entry
    return found


def _stems(path: Path, images: Mapping[Key, Mapping[str, Any]]) -> dict[str, Key]:
    stems: dict[str, Key] = {}
    for image_id, entry in images.items():
        stem = PurePosixPath(str(entry["file_name"]).replace("\\", "/")).stem
        if stem in stems:
            both = f"{images[stems[stem]]['file_name']} and {entry['file_name']}"
            raise DataError(f"{path} has two pictures named {stem!r}: {both}", "rename one of them, or split the file")
        stems[stem] = image_id
    return stems


def _index_annotations(
    path: Path, annotations: Sequence[Any], images: Mapping[Key, Any], categories: Mapping[Key, str]
) -> tuple[dict[Key, list[dict[str, Any]]], list[str]]:
    """Annotations by image id, and a sentence for each that belongs nowhere."""
    index: dict[Key, list[dict[str, Any]]] = {}
    problems = []
    for number, annotation in enumerate(annotations, start=1):
        if not isinstance(annotation, dict) or "segments_info" in annotation:
            raise DataError(
                f"{path}: entry {number} of annotations is no object with an outline (a panoptic file?)",
                "take the file of instances; panoptic masks are PNG files",
            )
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image_id, Key) or image_id not in images:
            problems.append(f"annotation {annotation.get('id')}: its image {image_id} is not in the file")
        elif not isinstance(category_id, Key) or category_id not in categories:
            problems.append(f"annotation {annotation.get('id')}: its category {category_id} is not in the file")
        else:
            index.setdefault(image_id, []).append(annotation)
    return index, problems


def _coco_shape(
    segmentation: Any, where: str, size: Size, problems: list[str]
) -> tuple[tuple[np.ndarray, ...], Runs | None]:
    """(outlines, runs) of a segmentation; what is wrong with it is added to `problems` and left out."""
    if isinstance(segmentation, dict):
        try:
            return (), _coco_runs(segmentation, size)
        except _RegionError as wrong:
            problems.append(f"{where}: {wrong}")
            return (), None
    if isinstance(segmentation, np.ndarray):  # one polygon without the list around it
        segmentation = [segmentation]
    if not isinstance(segmentation, list) or not segmentation:
        problems.append(f"{where}: it has no outline (a box only?)")
        return (), None
    outlines = []
    for number, values in enumerate(segmentation, start=1):
        try:
            outlines.append(_polygon(values, size))
        except _RegionError as wrong:
            part = f", polygon {number}" if len(segmentation) > 1 else ""
            problems.append(f"{where}{part}: {wrong}")
    return tuple(outlines), None


def _coco_runs(segmentation: Mapping[str, Any], size: Size) -> Runs:
    counts, given = segmentation.get("counts"), segmentation.get("size")
    if given != list(size):
        raise _RegionError(f"its run lengths are for the size {given}, the picture has {list(size)} (height, width)")
    lengths = _uncompressed(counts) if isinstance(counts, str) else np.asarray(counts)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any():
        raise _RegionError("its run lengths are no whole numbers")
    total = lengths.sum(dtype=np.float64)
    if total != size[0] * size[1]:
        raise _RegionError(f"its run lengths make {total:.0f} pixels, the picture has {size[0] * size[1]}")
    return Runs(0, 0, size, lengths.astype(np.int64))


def _uncompressed(text: str) -> np.ndarray:
    """The run lengths in COCO's text form (maskApi.c, rleFrString).

    A character less 48 holds five bits, lowest first, and 32 if more follow; the number is signed, and from the fourth
    on it is the difference to the length two before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise _RegionError(f"its run lengths hold the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) << (shift - 4)  # the sign
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise _RegionError("its run lengths end in the middle of a number")
    return np.array(lengths)


# ------------------------------------------------------------------------------------------------- JSON


def _read_json(path: Path, each_object: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_hook=each_object)
    except OSError as error:
        raise DataError(f"the annotation file {path} cannot be read: {error.strerror}", "correct its path") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise DataError(f"the annotation file {path} is damaged: {error}", "copy or export it again") from None


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """An object just parsed, its coordinates and run lengths as arrays: as lists, train2017 took 1.2 GB more."""
    for key in ("segmentation", "counts"):
        values = entry.get(key)
        if isinstance(values, list) and values:
            try:
                entry[key] = (
                    [np.array(part, float) for part in values] if isinstance(values[0], list) else np.array(values)
                )
            except (TypeError, ValueError):
                continue  # its annotation is named when it is used
    return entry


def _size_of(entry: Mapping[str, Any], height: str, width: str) -> Size | None:
    """(H, W) of an entry; None where it has none, or what cannot be one."""
    sides = [side for side in (entry.get(height), entry.get(width)) if isinstance(side, int | float)]
    if len(sides) < 2 or not all(side >= 1 and side == int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])
