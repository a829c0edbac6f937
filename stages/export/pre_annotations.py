"""Predicted masks as pre-annotations: what an annotation program opens, so that people correct instead of draw.

    figures = export_annotations(TOOLS["cvat"], predictions, Path("for-cvat"), images, settings, execution)

Every connected area of a class becomes a shape, larger ones first; 255 becomes `__ignore__`, and background is what is
left. Images come in the order of a list, or else of confidence, least sure first: the mean over the pixels of the
largest probability, from the confidences or score maps of the predictions; where there are neither, in the order of
their file names. `order.csv` has the order for programs that sort by name.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.confidence import probability_of_index
from artifacts.dataset import Dataset
from artifacts.disk_errors import disk_errors
from artifacts.errors import DataError, UsageError
from artifacts.item_shapes import Classes
from artifacts.masks import IGNORE, read_mask
from artifacts.score_maps import INDEX, ScoreMaps
from artifacts.store import Artifact
from stages.contract import Execution
from stages.data.images import ImageFolder
from stages.data.lists.id_lists import Names, check_subset, read_lines
from stages.export.annotation_tools import BACKGROUND, IGNORED, Prediction, Shapes, Style, Tool
from stages.export.outlines import areas_of
from stages.export.submission import ids_of_masks
from stages.parallel.each_image import for_each_image

ORDER = "order.csv"


@dataclass(frozen=True)
class Settings:
    """least: smaller areas, in pixels, are left out. tolerance: of outlines, in pixels. first: the number of images,
    None for all. prefix: before the images' names, None for what the program expects. shapes: None for the usual ones.
    only: a text or CSV file of the images, in its order; None for all.
    """

    least: int = 16
    tolerance: float = 1.0
    first: int | None = None
    prefix: str | None = None
    shapes: Shapes | None = None
    only: Path | None = None


@dataclass(frozen=True)
class _Job:
    """What a process needs to write images; sent to it once."""

    tool: Tool
    style: Style
    least: int
    predictions: Artifact
    class_names: tuple[str, ...]
    files: Mapping[str, Path]
    sizes: Mapping[str, tuple[int, int]]
    folder: Path
    confidences: Mapping[str, float]


def export_annotations(
    tool: Tool,
    predictions: Artifact,
    folder: Path,
    images: Dataset | ImageFolder | None,
    settings: Settings,
    execution: Execution,
) -> dict[str, Any]:
    """Writes the new folder `folder`, and returns figures. images: those that were predicted.

    UsageError for a folder that exists and for shapes that the program lacks; ArtifactError for an artifact without
    masks; DataError for images that are not known, and masks of a size different from the image's. Then no folder is
    left behind.
    """
    _check(tool, folder, settings)
    ids, class_names = ids_of_masks(predictions), tuple(predictions.json("classes.json", Classes).class_names)
    wanted = _listed(settings.only, ids, predictions.name) if settings.only else ids
    files, sizes = _image_files(predictions.name, wanted, images)
    confidences, order = _confidences(predictions, wanted, execution)
    if settings.only:
        order = f"as in {settings.only}"
    else:
        wanted = sorted(wanted, key=lambda image_id: (confidences.get(image_id, 0), image_id))
    ids = wanted[: settings.first]
    job = _Job(
        tool,
        Style(settings.shapes or tool.shapes[0], settings.tolerance, settings.prefix),
        settings.least,
        predictions,
        class_names,
        files,
        sizes,
        folder.absolute(),
        confidences,
    )
    records: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    with execution.progress.track(len(ids), "export") as tracker:
        for image_id, (record, found) in for_each_image(_encode, job, ids, execution.workers):
            records[image_id] = record
            counts += found
            tracker.advance()
    names = (*class_names, IGNORED) if counts["ignored"] else class_names
    _write(folder, job, [(image_id, records[image_id]) for image_id in ids], names)
    return {
        "folder": str(folder),
        "tool": tool.title,
        "shapes": job.style.shapes,
        "images": len(ids),
        "areas": counts["areas"],
        "left_out": counts["left_out"],
        "empty": counts["empty"],
        "order": order,
    }


def _check(tool: Tool, folder: Path, settings: Settings) -> None:
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists already", "name a new folder")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {folder.absolute().parent}", "make it, or correct the path")
    if settings.shapes not in (None, *tool.shapes):
        raise UsageError(
            f"{tool.title} is given {' or '.join(tool.shapes)}, not {settings.shapes}", "leave out --shapes"
        )


# ------------------------------------------------------------------------------------------------- images


def _listed(path: Path, ids: Sequence[str], name: str) -> list[str]:
    """The ids in the first cells of a table or list, in its order; a line of headings (id, file, image) is no image.

    DataError for images that were not predicted.
    """
    names = Names(ids)
    cells = [row[0] for row in csv.reader(line for _, line in read_lines(path)) if row]
    if cells and names.find(cells[0]) is None and cells[0].lower() in ("id", "file", "image"):
        del cells[0]
    found = list(dict.fromkeys(names.find(cell) or cell for cell in cells))
    check_subset(found, ids, str(path), repr(name))
    return found


def _image_files(
    name: str, ids: Sequence[str], images: Dataset | ImageFolder | None
) -> tuple[dict[str, Path], dict[str, tuple[int, int]]]:
    """The file and the size of each image."""
    if images is None:
        raise DataError(
            f"the images that {name!r} was predicted of are not known: they were moved, or prepared anew",
            "name their folder (--images DIR)",
        )
    if isinstance(images, ImageFolder):
        check_subset(ids, images.ids, repr(name), str(images.path))
        files = {image_id: images.file(image_id) for image_id in ids}
    else:
        files = {image_id: images.source_path(image_id) for image_id in ids}
    return files, {image_id: images.size(image_id) for image_id in ids}


def _confidences(predictions: Artifact, ids: Sequence[str], execution: Execution) -> tuple[dict[str, float], str]:
    """The mean of the largest probability in each image, and how images are ordered, in words."""
    items, confident = predictions.items, f"confidence/{ids[0]}.png"
    source: ScoreMaps | Artifact
    if confident in items:
        source = predictions
    elif INDEX in items and ScoreMaps(predictions).meaning == "probability":
        source = ScoreMaps(predictions)
    else:
        return {}, "by file name, since there are no score maps (predict with --output both)"
    found = for_each_image(_confidence, source, ids, execution.workers)
    return dict(found), "least sure first, by the mean of the largest probability"


def _confidence(source: ScoreMaps | Artifact, image_id: str) -> float:
    if isinstance(source, ScoreMaps):
        return float(source[image_id].scores.max(axis=0).mean())
    indices = read_mask(source.file(f"confidence/{image_id}.png"))
    return float(probability_of_index(indices.astype(np.float64)).mean())


# ------------------------------------------------------------------------------------------------- writing


def _encode(job: _Job, image_id: str) -> tuple[Any, Counter[str]]:
    """The program's record of an image, and counts of areas, of those left out, and of 255 among them."""
    height, width = job.sizes[image_id]
    mask = read_mask(job.predictions.file(f"masks/{image_id}.png"), len(job.class_names), (width, height))
    counts: Counter[str] = Counter()
    areas = []
    for value in np.unique(mask).tolist():
        label = IGNORED if value == IGNORE else job.class_names[value]
        if label == BACKGROUND:
            continue
        found, small = areas_of(mask == value, job.least)
        areas += [(label, area) for area in found]
        counts += Counter(areas=len(found), left_out=small, ignored=len(found) * (value == IGNORE))
    areas.sort(key=lambda entry: -entry[1].count)
    counts["empty"] += not areas
    file = job.files[image_id].absolute()
    prediction = Prediction(
        image_id,
        file.name,
        Path(os.path.relpath(file, job.folder)).as_posix(),
        (height, width),
        areas,
        job.confidences.get(image_id),
        job.predictions.name,
    )
    return job.tool.encode(prediction, job.style), counts


def _write(folder: Path, job: _Job, records: Sequence[tuple[str, Any]], names: Sequence[str]) -> None:
    """The files of the program and the order, in a hidden folder that gets its name when it is whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_errors(folder):
            partial.mkdir()
            for name, data in job.tool.files(records, names):
                (partial / name).write_bytes(data)
            (partial / ORDER).write_text(_order(job, records), encoding="utf-8", newline="")
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _order(job: _Job, records: Sequence[tuple[str, Any]]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "confidence"])
    for image_id, _ in records:
        confidence = job.confidences.get(image_id)
        rows.writerow([job.files[image_id].name, "" if confidence is None else f"{confidence:.6f}"])
    return text.getvalue()
