"""Predicted areas in the formats of annotation programs: LabelMe, CVAT for images 1.1, Label Studio, COCO.

    tool = TOOLS["cvat"]
    record = tool.encode(prediction)                     # of each image, in any process
    for name, data in tool.files([record, ...], names):  # the files of the export
        ...

What each program needs beside the shapes, its list of labels, is written too: `labels.txt` for LabelMe (--labels),
`labels.json` for CVAT (the raw form of a task's labels), `labels.xml` for Label Studio (the labelling interface).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from artifacts.instance_masks import document_of, run_lengths
from artifacts.masks import voc_palette
from stages.data.annotations.brush_runs import pack_brush
from stages.export.outlines import Area

IGNORED = "__ignore__"  # the label of 255, as LabelMe writes it
BACKGROUND = "background"
Shapes = Literal["polygons", "masks"]


@dataclass(frozen=True)
class Prediction:
    """What is written of one image.

    areas: (label, area) of each, larger ones first. file_name: of the image, without folders. path: to the image from
    the folder of the export. confidence: 0..1, None where it is not known. source: the name of the predictions.
    """

    image_id: str
    file_name: str
    path: str
    size: tuple[int, int]
    areas: Sequence[tuple[str, Area]]
    confidence: float | None
    source: str


@dataclass(frozen=True)
class Style:
    """How areas are written: as polygons, within `tolerance` pixels, or as masks; prefix: before the images' names."""

    shapes: Shapes
    tolerance: float
    prefix: str | None


@dataclass(frozen=True)
class Tool:
    """An annotation program: how it is called, the shapes it takes, what is written of an image, and the files."""

    title: str
    shapes: tuple[Shapes, ...]  # the first one is written unless another is asked for
    encode: Callable[[Prediction, Style], Any]
    files: Callable[[Sequence[Any], Sequence[str]], Iterator[tuple[str, bytes]]]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Name -> "#800000", VOC's colour of the class."""
    palette = voc_palette()
    return {name: f"#{palette[3 * k : 3 * k + 3].hex()}" for k, name in enumerate(names)}


# ------------------------------------------------------------------------------------------------- LabelMe


def _labelme(image: Prediction, style: Style) -> dict[str, Any]:
    shapes = [
        {
            "label": label,
            "points": area.outline(style.tolerance).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for label, area in image.areas
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image.path if style.prefix is None else style.prefix + image.file_name,
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }


def _labelme_files(records: Sequence[tuple[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for image_id, record in records:
        yield f"{image_id}.json", _json(record)
    lines = [IGNORED, "_background_", *(name for name in names if name not in (BACKGROUND, IGNORED))]
    yield "labels.txt", "".join(f"{line}\n" for line in lines).encode()


# ------------------------------------------------------------------------------------------------- CVAT


def _cvat(image: Prediction, style: Style) -> tuple[str, str]:
    """The attributes and the shapes of an image. An image without any shape is tagged background: without the tag it
    would count as not annotated when it comes back.
    """
    attributes = (
        f"name={quoteattr((style.prefix or '') + image.file_name)} width={quoteattr(str(image.size[1]))} "
        f"height={quoteattr(str(image.size[0]))}"
    )
    shapes = "".join(_cvat_shape(label, area, style) for label, area in image.areas)
    return attributes, shapes or f"    <tag label={quoteattr(BACKGROUND)} source={quoteattr('auto')}></tag>\n"


def _cvat_shape(label: str, area: Area, style: Style) -> str:
    begin = f'label={quoteattr(label)} source="auto" occluded="0"'
    if style.shapes == "masks":
        height, width = area.pixels.shape
        flat = area.pixels.ravel()
        changes = np.flatnonzero(np.diff(flat, prepend=False))  # the first run is outside, if only 0 long
        counts = np.diff(changes, prepend=0, append=flat.size)
        return (
            f'    <mask {begin} rle="{", ".join(map(str, counts))}" left="{area.left}" top="{area.top}" '
            f'width="{width}" height="{height}" z_order="0"></mask>\n'
        )
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in area.outline(style.tolerance))
    return f'    <polygon {begin} points="{points}" z_order="0"></polygon>\n'


def _cvat_files(records: Sequence[tuple[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    used = [name for name in names if name != BACKGROUND or any("<tag " in shapes for _, (_, shapes) in records)]
    colours = _colours(names)
    labels = "".join(
        f"<label><name>{escape(name)}</name><color>{colours[name]}</color><attributes></attributes></label>"
        for name in used
    )
    images = "".join(
        f"  <image id={quoteattr(str(number))} {attributes}>\n{shapes}  </image>\n"
        for number, (_, (attributes, shapes)) in enumerate(records)
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><labels>{labels}</labels></task></meta>\n{images}</annotations>\n"
    )
    yield "annotations.xml", text.encode()
    yield "labels.json", _json([{"name": name, "color": colours[name], "attributes": []} for name in used])


# ------------------------------------------------------------------------------------------------- Label Studio

_LOCAL_FILES = "/data/local-files/?d="
_CONTROLS: Mapping[Shapes, tuple[str, str]] = {
    "masks": ("brush", "BrushLabels"),
    "polygons": ("polygon", "PolygonLabels"),
}


def _label_studio(image: Prediction, style: Style) -> dict[str, Any]:
    name, control = _CONTROLS[style.shapes]
    results = [
        {
            "id": f"r{number}",
            "type": control.lower(),
            "from_name": name,
            "to_name": "image",
            "original_width": image.size[1],
            "original_height": image.size[0],
            "image_rotation": 0,
            "value": _label_studio_value(area, image.size, style) | {control.lower(): [label]},
        }
        for number, (label, area) in enumerate(image.areas, start=1)
    ]
    prediction: dict[str, Any] = {"model_version": image.source, "result": results}
    if image.confidence is not None:
        prediction["score"] = round(image.confidence, 6)
    url = (_LOCAL_FILES if style.prefix is None else style.prefix) + quote(image.file_name)
    return {"data": {"image": url}, "predictions": [prediction]}


def _label_studio_value(area: Area, size: tuple[int, int], style: Style) -> dict[str, Any]:
    if style.shapes == "masks":
        return {"format": "rle", "rle": list(pack_brush(area.within(size)))}
    percent = area.outline(style.tolerance) * (100 / size[1], 100 / size[0])
    return {"points": percent.tolist(), "closed": True}


def _label_studio_files(records: Sequence[tuple[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield "tasks.json", _json([record for _, record in records])
    colours = _colours(names)
    labels = "".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(colours[name])}/>\n"
        for name in names
        if name != BACKGROUND
    )
    controls = "".join(
        f'  <{control} name="{name}" toName="image">\n{labels}  </{control}>\n' for name, control in _CONTROLS.values()
    )
    yield "labels.xml", f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n{controls}</View>\n'.encode()


# ------------------------------------------------------------------------------------------------- COCO


def _coco(image: Prediction, style: Style) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    height, width = image.size
    entry = {"file_name": (style.prefix or "") + image.file_name, "width": width, "height": height}
    return entry, [
        {
            "category": label,
            "segmentation": {"size": [height, width], "counts": run_lengths(area.within(image.size))},
            "area": area.count,
            "bbox": [area.left, area.top, area.pixels.shape[1], area.pixels.shape[0]],
            "iscrowd": 0,
        }
        for label, area in image.areas
    ]


def _coco_files(records: Sequence[tuple[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    ids = {name: number for number, name in enumerate(names)}
    annotations = [
        [{"category_id": ids[one["category"]]} | {key: one[key] for key in one if key != "category"} for one in of]
        for _, (_, of) in records
    ]
    yield "annotations.json", _json(document_of(names, [entry for _, (entry, _) in records], annotations))


TOOLS: Mapping[str, Tool] = {
    "labelme": Tool("LabelMe", ("polygons",), _labelme, _labelme_files),
    "cvat": Tool("CVAT", ("polygons", "masks"), _cvat, _cvat_files),
    "label-studio": Tool("Label Studio", ("masks", "polygons"), _label_studio, _label_studio_files),
    "coco": Tool("COCO", ("masks",), _coco, _coco_files),
}
