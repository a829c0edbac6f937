"""Files of other programs are called what they are, with what to do, and never damaged."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import DataError
from stages.data.annotations.coco_outlines import read_coco
from stages.data.annotations.cvat import read_cvat
from stages.data.annotations.labelme import read_labelme
from stages.data.annotations.supervisely import read_supervisely

COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
JSON: list[tuple[Any, str]] = [
    ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "a Label Studio export"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "a VGG Image Annotator (VIA) project"),
    ({"a.jpg99": {"filename": "a.jpg", "regions": []}}, "a VGG Image Annotator (VIA) file"),
    ({"info": {}, "categories": {"label": {}}, "items": []}, "a Datumaro file"),
    ({"annotation": {"filename": "a.jpg", "object": []}}, "an ADE20K file of objects"),
    ({"imgHeight": 4, "imgWidth": 4, "objects": []}, "a Cityscapes file of polygons"),
    (COCO | {"annotations": [{"image_id": 1, "segments_info": []}]}, "a panoptic COCO file"),
    ({"images": [], "annotations": [{"image_id": 1, "caption": "a cat"}]}, "a COCO file of captions"),
    ([{"image_id": 1, "category_id": 1, "score": 0.5}], "a list of COCO results"),
    ([{"image": "a.jpg", "annotations": []}], "a CreateML file of boxes"),
    ([{"name": "a.jpg", "labels": []}], "a BDD100K (Scalabel) file"),
    ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ({"metadata": {}, "instances": []}, "a SuperAnnotate file"),
    ({"item": {}, "annotations": []}, "a V7 Darwin file"),
    ([{"image": "a.jpg", "annotation_id": 1, "lead_time": 2.5}], "a Label Studio export (JSON_MIN)"),
    ({"id": 1, "result": [], "task": {"data": {}}}, "one annotation of Label Studio's target storage"),
]


@pytest.mark.parametrize(("content", "name"), JSON)
def test_json_of_other_programs_is_named(tmp_path: Path, content: Any, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    for read in (read_labelme, read_coco, read_supervisely):
        if read is read_supervisely and "objects" in content:
            continue
        with pytest.raises(DataError) as caught:
            read(path)
        assert name in caught.value.message
        assert "damaged" not in caught.value.message
        assert caught.value.hint


def test_the_formats_that_are_read_are_named_where_another_is_wanted(tmp_path: Path) -> None:
    labelme, supervisely = {"shapes": []}, {"objects": [], "size": {"height": 2, "width": 2}}
    for content, read, name in (
        (labelme, read_coco, "a LabelMe file"),
        (supervisely, read_coco, "a Supervisely file"),
        (labelme, read_supervisely, "a LabelMe file"),
        (supervisely, read_labelme, "a Supervisely file"),
    ):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=name):
            read(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.2 0.2\n", "YOLO's text"),
        ('\ufeff<?xml version="1.0"?><annotations/>', "XML, no JSON"),
    ],
)
def test_text_that_is_no_json_is_named(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=name):
        read_coco(path)


def test_an_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations.xml", "<annotations/>")
    with pytest.raises(DataError, match="is a ZIP archive"):
        read_coco(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("<annotation><object><name>cat</name><bndbox/></object></annotation>", "a Pascal VOC file of boxes"),
        ("<annotation><object><polygon/></object></annotation>", "an XML file of the old LabelMe"),
        ("<annotations><track id='0'/></annotations>", "CVAT for video"),
        ("<svg/>", "XML that begins with <svg>"),
    ],
)
def test_xml_of_other_programs_is_named(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=name):
        read_cvat(path)
