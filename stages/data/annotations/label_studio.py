"""Label Studio's JSON exports, one file for many images: `JSON` and `JSON_MIN`.

    file = read_label_studio(Path("project-1.json"), find)     # find: the id of an image, from the names it may have
    mask = draw(file.drawings["IMG_0001"], {"car": 1, "road": 2})

Polygons, boxes and ellipses are in percent of the image; brush masks are run lengths, bit masks PNGs. Later regions lie
over earlier ones. Of several annotations of a task the one marked as ground truth counts, else the one that was
updated last; skipped (cancelled) ones and predictions never do. An annotation that was submitted without a region says
that the image shows no object; a task without annotation says nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from artifacts.errors import DataError
from artifacts.image_files import SUFFIXES
from artifacts.text import amount, named
from stages.data.annotations.brush_runs import unpack_brush
from stages.data.annotations.coco_outlines import stem_of
from stages.data.annotations.drawing import Drawing, Region, Size, runs_of
from stages.data.annotations.reading import (
    NoAreaError,
    RegionError,
    check_points,
    covered_by,
    ellipse,
    open_png,
    polygon,
    read_json,
    size_of,
    turned,
    wrong_json,
)

Find = Callable[[Sequence[str]], str]  # the id of the image that has one of these names, or the likeliest name
_LOCAL_FILE = re.compile(r"[?&]d=([^&]*)")  # /data/local-files/?d=folder/IMG.jpg
_RESOLVED = re.compile(r"[?&]fileuri=([^&]*)")  # /tasks/1/resolve/?fileuri=<base64 of s3://...>
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_OF_ROWS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time")  # of JSON_MIN alone
_NOT_SHAPES = ("relation", "choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker")


@dataclass(frozen=True)
class LabelStudioFile:
    """A Label Studio export.

    Attributes: path, drawings (by image id, of those that were annotated; without regions where there is no object),
    undrawn (ids of images whose tasks have no annotation), notes (sentences on what was chosen and left out).
    """

    path: Path
    drawings: Mapping[str, Drawing]
    undrawn: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Task:
    """A task: its number in the file, its data, the annotations that count, best first, and what does not count."""

    number: int
    data: Mapping[str, Any]
    annotations: list[Sequence[Any]] = field(default_factory=list)
    skipped: int = 0
    predictions: int = 0
    image_id: str = ""


def read_label_studio(
    path: Path, find: Find, size_of_image: Callable[[str], Size | None] = lambda image_id: None
) -> LabelStudioFile:
    """Read an export. size_of_image: (H, W) by image id, for tasks without regions.

    DataError for a file of another kind, a task without the name of an image, and two tasks of one image; wrong regions
    are in `Drawing.problems`.
    """
    content = read_json(path, _pack)
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise wrong_json(path, content, "Label Studio export", "it is no list of tasks")
    tasks = list(_tasks(path, content))
    _find_images(path, tasks, find)
    drawings: dict[str, Drawing] = {}
    others: dict[str, int] = {}
    for task in tasks:
        if task.annotations:
            drawings[task.image_id] = _drawing(path, task, size_of_image, others)
    undrawn = tuple(task.image_id for task in tasks if not task.annotations)
    return LabelStudioFile(path, drawings, undrawn, tuple(_notes(tasks, others)))


# ------------------------------------------------------------------------------------------------- tasks


def _tasks(path: Path, content: Sequence[dict[str, Any]]) -> Iterator[_Task]:
    """The tasks of an export: entries with `data` and `annotations`, or those of JSON_MIN, which has one for each
    annotation.
    """
    by_id: dict[Any, tuple[_Task, list[dict[str, Any]]]] = {}
    for number, entry in enumerate(content, start=1):
        if isinstance(entry.get("data"), dict):
            yield _whole_task(number, entry)
        elif "annotation_id" in entry or "annotator" in entry:
            data = {key: value for key, value in entry.items() if key not in _OF_ROWS}
            key = repr(entry.get("id", f"row {number}"))
            by_id.setdefault(key, (_Task(number, data), []))[1].append(entry)
        elif number == 1:
            raise wrong_json(path, content, "Label Studio export", "its first entry is no task")
        else:
            raise DataError(f"{path}, entry {number}: it is no task of Label Studio", "export it again")
    for task, rows in by_id.values():
        given = [row for row in rows if row.get("annotation_id") is not None]
        task.annotations = [_shapes_of_row(row) for row in sorted(given, key=_order, reverse=True)]
        yield task


def _whole_task(number: int, entry: Mapping[str, Any]) -> _Task:
    annotations = entry.get("annotations", entry.get("completions"))
    annotations = [one for one in annotations if isinstance(one, dict)] if isinstance(annotations, list) else []
    given = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
    predictions = entry.get("predictions")
    return _Task(
        number,
        entry["data"],
        [_list(one.get("result")) for one in sorted(given, key=_order, reverse=True)],
        len(annotations) - len(given),
        len(predictions) if isinstance(predictions, list) else 0,
    )


def _order(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    """The ground truth first, then the latest; times are ISO 8601 text."""
    return bool(annotation.get("ground_truth")), str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _shapes_of_row(row: Mapping[str, Any]) -> list[Any]:
    """The results of a row of JSON_MIN, as those of a task; its other lists are data of the task, or choices."""
    lists = (value for key, value in row.items() if key not in _OF_ROWS and isinstance(value, list))
    return [one | {"value": one} for values in lists for one in values if isinstance(one, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _notes(tasks: Sequence[_Task], others: Mapping[str, int]) -> Iterator[str]:
    if several := [task.image_id for task in tasks if len(task.annotations) > 1]:
        yield (
            f"{amount(len(several), 'image has', 'images have')} several annotations, of which the one marked as "
            f"ground truth is read, else the one updated last: {named(sorted(several))}"
        )
    if skipped := [task.image_id for task in tasks if task.skipped]:
        count = sum(task.skipped for task in tasks)
        yield f"not read: {amount(count, 'annotation')} that annotators have skipped: {named(sorted(skipped))}"
    if predicted := [task.image_id for task in tasks if task.predictions]:
        yield f"predictions of {amount(len(predicted), 'image')} are not read: {named(sorted(predicted))}"
    if others:
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        yield f"left out: {amount(sum(others.values()), 'result')} without a region: {shown}"


# ------------------------------------------------------------------------------------------------- images


def _find_images(path: Path, tasks: Sequence[_Task], find: Find) -> None:
    """Sets the image of each task."""
    first: dict[str, _Task] = {}
    for task in tasks:
        task.image_id = find(_names_of(path, task))
        if (other := first.setdefault(task.image_id, task)) is not task:
            raise DataError(
                f"{path} has two tasks of the image {task.image_id!r}: entries {other.number} and {task.number}",
                "delete one of them in Label Studio, or export them apart",
            )


def _names_of(path: Path, task: _Task) -> list[str]:
    """The names that the task's image may have, likeliest last; DataError where it names none."""
    texts = {key: value for key, value in task.data.items() if isinstance(value, str) and value}
    images = {key: value for key, value in texts.items() if _file_name(value).lower().endswith(SUFFIXES)}
    where = f"{path}, entry {task.number}"
    if not images and any(value.startswith("data:") for value in texts.values()):
        raise DataError(f"{where}: the image itself is in it, not the name of a file", "add a field with its file name")
    if len(images) > 1 and (known := [key for key in ("image", "img", "photo") if key in images]):
        images = {known[0]: images[known[0]]}
    if len(images) != 1:
        shown = ", ".join(f"{key}: {str(value)[:60]!r}" for key, value in (images or task.data).items()) or "nothing"
        what = "several fields name an image" if images else "no field of its data names one image"
        raise DataError(f"{where}: {what} ({shown[:300]})", "export tasks of one image each, in the field `image`")
    written = next(iter(images.values()))
    names = [_last_part(written), _file_name(written)]
    names += [name for name in dict.fromkeys(map(_without_upload, names)) if name not in names]
    return [stem_of(name) for name in dict.fromkeys(names)]


def _file_name(url: str) -> str:
    """The file's name in a URL or path, as Label Studio writes them."""
    if found := _LOCAL_FILE.search(url):
        return _last_part(unquote(found[1]))
    if found := _RESOLVED.search(url):
        try:
            return _file_name(base64.b64decode(unquote(found[1]), validate=True).decode())
        except (binascii.Error, ValueError):
            return _last_part(unquote(found[1]))
    is_url = "://" in url or url.startswith("/")
    try:
        return _last_part(unquote(urlsplit(url).path if is_url else url))
    except ValueError:  # brackets that are no address
        return _last_part(url)


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _without_upload(name: str) -> str:
    return _UPLOADED.sub("", name, count=1) if _UPLOADED.match(name) else name


def uploaded_name(name: str) -> str:
    """What Label Studio makes of a file name when it stores it: spaces become `_`, brackets and others are left out."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


# ------------------------------------------------------------------------------------------------- regions


def _drawing(path: Path, task: _Task, size_of_image: Callable[[str], Size | None], others: dict[str, int]) -> Drawing:
    """The drawing of a task's best annotation; results that are no regions are counted in `others`."""
    results = list(_with_labels(task.annotations[0], others))
    sizes = [
        size_of(result, "original_height", "original_width", f"{path} ({task.image_id})") for _, result, _ in results
    ]
    size = next((found for found in sizes if found), None) or size_of_image(task.image_id)
    if size is None:
        raise DataError(
            f"{path} has no original_width and original_height of {task.image_id}", "export it again, as JSON"
        )
    regions, not_drawn, problems = [], [], []
    for (number, result, labels), own in zip(results, sizes, strict=True):
        where = f"result {number}"
        try:
            if own not in (None, size):
                raise RegionError(f"it is for an image of {own[1]}x{own[0]}, others for {size[1]}x{size[0]}")
            regions.append(_region(result, labels, where, size))
        except NoAreaError as reason:
            not_drawn.append(f"{where}, {', '.join(labels)}: {reason}")
        except RegionError as wrong:
            problems.append(f"{where}: {wrong}")
    return Drawing(path, task.image_id, size, tuple(regions), tuple(not_drawn), tuple(problems))


def _with_labels(results: Sequence[Any], others: dict[str, int]) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """(number, result, labels) of each region. A project with the tags Brush and Labels has two results of one region,
    the first without labels.
    """
    found = []
    for number, result in enumerate(results, start=1):
        value = result.get("value") if isinstance(result, dict) else None
        kind = str(result.get("type") or "").lower() if isinstance(result, dict) else ""
        if not isinstance(value, dict) or kind in _NOT_SHAPES or not (_labels(value) or _kind(value)):
            others[kind or "unknown"] = others.get(kind or "unknown", 0) + 1
            continue
        found.append((number, result, _labels(value)))
    labelled = {_geometry(result) for _, result, labels in found if labels is not None}
    for number, result, labels in found:
        if labels is not None or _geometry(result) not in labelled:
            yield number, result, labels or []


def _labels(value: Mapping[str, Any]) -> list[str] | None:
    """The labels of a region (brushlabels, polygonlabels, labels, ...); None where it has no list of them."""
    lists = [labels for key, labels in value.items() if key.lower().endswith("labels") and isinstance(labels, list)]
    return [str(label).strip() for labels in lists for label in labels] if lists else None


def _geometry(result: Mapping[str, Any]) -> str:
    return repr(sorted((key, shape) for key, shape in result["value"].items() if not key.lower().endswith("labels")))


def _kind(value: Mapping[str, Any]) -> str:
    """What a region is, by its keys: JSON_MIN has no other sign."""
    for kind, keys in (
        ("brush", {"rle"}),
        ("bit mask", {"imageDataURL"}),
        ("polygon", {"points"}),
        ("ellipse", {"x", "y", "radiusX", "radiusY"}),
        ("box", {"x", "y", "width", "height"}),
        ("point", {"x", "y"}),
    ):
        if keys <= value.keys():
            return kind
    return ""


def _region(result: Mapping[str, Any], labels: Sequence[str], where: str, size: Size) -> Region:
    value, kind = result["value"], _kind(result["value"])
    if kind == "point":
        raise NoAreaError("it is a point and has no area")
    if len(labels) != 1 or not labels[0]:
        several = f"the labels {', '.join(labels)}, and a pixel has one class" if len(labels) > 1 else "no label"
        raise RegionError(f"it has {several}")
    if result.get("image_rotation") or value.get("image_rotation"):
        raise RegionError("its image was turned in Label Studio: turn it back there")
    if kind == "brush":
        return Region(labels[0], where, runs=(runs_of(_brush(value, size)),))
    if kind == "bit mask":
        return Region(labels[0], where, runs=(runs_of(_bit_mask(value, size)),))
    if kind == "polygon":
        return Region(labels[0], where, (polygon(_pixels(value["points"], size), size),))
    if kind in ("ellipse", "box"):
        return Region(labels[0], where, (_ellipse(value, size) if kind == "ellipse" else _box(value, size),))
    raise RegionError("it is of a kind that is not read")


def _pixels(points: Any, size: Size) -> np.ndarray:
    """Points in percent as pixels."""
    return check_points(points, (100, 100), margin=float("inf")) * (size[1] / 100, size[0] / 100)


def _numbers(value: Mapping[str, Any], *keys: str) -> list[float]:
    numbers = [value.get(key, 0 if key == "rotation" else None) for key in keys]
    if wrong := [
        key
        for key, number in zip(keys, numbers, strict=True)
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e6
    ]:
        raise RegionError(f"its {wrong[0]} is {repr(value.get(wrong[0]))[:40]}, expected a number")
    return [float(number) for number in numbers if number is not None]


def _box(value: Mapping[str, Any], size: Size) -> np.ndarray:
    """A box, turned about its upper left corner."""
    x, y, width, height, degrees = _numbers(value, "x", "y", "width", "height", "rotation")
    corners = _pixels([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], size)
    # a turned box may have lain outside the image before it was turned
    points = check_points(corners, size, float(max(size))) if degrees else check_points(corners, size)
    return turned(points, points[0], degrees)


def _ellipse(value: Mapping[str, Any], size: Size) -> np.ndarray:
    x, y, across, down, degrees = _numbers(value, "x", "y", "radiusX", "radiusY", "rotation")
    centre, radii = _pixels([(x, y), (across, down)], size)
    return ellipse(check_points(centre, size)[0], (float(radii[0]), float(radii[1])), size, degrees)


def _brush(value: Mapping[str, Any], size: Size) -> np.ndarray:
    packed = value["rle"]
    if value.get("format", "rle") != "rle":
        raise RegionError(f"its mask has the format {repr(value['format'])[:40]}, expected 'rle'")
    if not isinstance(packed, bytes):
        raise RegionError("its run lengths (rle) are no list of bytes")
    return unpack_brush(packed, size)


def _bit_mask(value: Mapping[str, Any], size: Size) -> np.ndarray:
    text = value["imageDataURL"]
    try:
        data = base64.b64decode(text.partition("base64,")[2], validate=True)
    except (AttributeError, ValueError):
        raise RegionError("its mask is not a PNG in base64") from None
    covered = covered_by(open_png(data, size))
    if covered.shape != size:
        raise RegionError(
            f"its mask has {covered.shape[1]}x{covered.shape[0]} pixels, the image has {size[1]}x{size[0]}"
        )
    return covered


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """A parsed object with its brush as bytes: as a list of numbers it needs eight times the memory."""
    packed = entry.get("rle")
    if isinstance(packed, list):
        with contextlib.suppress(TypeError, ValueError):  # said when it is used
            entry["rle"] = bytes(packed)
    return entry
