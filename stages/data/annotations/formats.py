"""Recognises common annotation files, including those that semiseg does not read: what a file is, and what to do.

what_json_is(content)      # ("a Label Studio export", "export it as COCO ...") or None
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

Named = tuple[str, str]  # what it is, and what to do

READ = "semiseg reads masks as PNG, JSON of LabelMe, Supervisely, COCO and Label Studio, CVAT's XML and YOLO's polygons"
_BOXES = f"boxes are not masks: draw outlines; {READ}"
_YOLO: Named = (
    "YOLO's text (a line an object)",
    "name the folder of such files as masks, which holds one for each image",
)
_PANOPTIC: Named = (
    "a panoptic COCO file, whose masks are PNG files of segment ids",
    "take the file of instances, or convert it to PNGs of class ids (panopticapi: panoptic2semantic_segmentation.py)",
)
# (name, what to do, the keys that a file of this kind has at its top)
_BY_KEYS: tuple[tuple[str, str, frozenset[str]], ...] = (
    (
        "a LabelMe file, which is for one image",
        "name the folder of such files as masks",
        frozenset({"shapes"}),
    ),
    (
        "a VGG Image Annotator (VIA) project",
        f"export it from VIA as COCO; {READ}",
        frozenset({"_via_img_metadata"}),
    ),
    (
        "a Datumaro file",
        "convert it: datum convert -if datumaro -i FOLDER -f coco_instances -o OUT",
        frozenset({"categories", "items"}),
    ),
    (
        "a Cityscapes file of polygons",
        "take the PNGs gtFine_labelIds (--dataset cityscapes reads the whole data set)",
        frozenset({"imgHeight", "imgWidth", "objects"}),
    ),
    (
        "a Supervisely file, which is for one image",
        "name the folder ann as masks, which holds such a file for each image",
        frozenset({"objects", "size"}),
    ),
    (
        "one annotation of Label Studio's target storage",
        "export the project from Label Studio as JSON",
        frozenset({"result", "task"}),
    ),
    ("a V7 Darwin file", f"export it as COCO from V7; {READ}", frozenset({"item", "annotations"})),
    ("a SuperAnnotate file", f"export it as COCO; {READ}", frozenset({"instances", "metadata"})),
    (
        "an ADE20K file of objects",
        "take the PNGs of class ids of ADEChallengeData2016",
        frozenset({"annotation"}),
    ),
    ("a Labelbox export", f"convert it to COCO; {READ}", frozenset({"data_row"})),
    ("GeoJSON (QuPath, QGIS)", f"rasterise it to PNGs of class ids; {READ}", frozenset({"type", "features"})),
)
# the same of the entries of a list
_BY_ENTRY: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("a Label Studio export", "name the file itself as masks", frozenset({"data"})),
    ("a Label Studio export (JSON_MIN)", "name the file itself as masks", frozenset({"annotation_id", "lead_time"})),
    (
        "a list of COCO results (predictions)",
        "give the file of annotations, with images and categories",
        frozenset({"image_id", "category_id"}),
    ),
    ("a Labelbox export", f"convert it to COCO; {READ}", frozenset({"data_row"})),
    ("a CreateML file of boxes", _BOXES, frozenset({"image", "annotations"})),
    ("a BDD100K (Scalabel) file", f"convert it to COCO (bdd100k.label.to_coco); {READ}", frozenset({"name", "labels"})),
)


def what_json_is(content: Any) -> Named | None:
    """The format of the values of a JSON file; None if it is not known."""
    if isinstance(content, list):
        first = content[0] if content else None
        return _with_keys(first, _BY_ENTRY)
    if not isinstance(content, dict):
        return None
    annotations = content.get("annotations")
    entry = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(entry, dict) and "segments_info" in entry:
        return _PANOPTIC
    if isinstance(entry, dict) and "caption" in entry:
        return "a COCO file of captions", "take the file of instances"
    classes = content.get("classes")
    if isinstance(classes, list) and classes and isinstance(classes[0], dict) and {"title", "shape"} <= {*classes[0]}:
        return "Supervisely's list of classes (meta.json)", "name the folder ann of a data set of the project as masks"
    if all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        return "a COCO file", "name the file itself as masks"
    if found := _with_keys(content, _BY_KEYS):
        return found
    if any(isinstance(value, dict) and {"filename", "regions"} <= value.keys() for value in content.values()):
        return "a VGG Image Annotator (VIA) file", f"export it from VIA as COCO; {READ}"
    return None


def _with_keys(entry: Any, known: tuple[tuple[str, str, frozenset[str]], ...]) -> Named | None:
    if not isinstance(entry, dict):
        return None
    return next(((name, cure) for name, cure, keys in known if keys <= entry.keys()), None)


def what_xml_is(root: ElementTree.Element) -> Named:
    """The format of an XML file."""
    inside = {element.tag for child in root for element in (child, *child)}
    if root.tag == "annotations" and "track" in inside:
        return "CVAT for video", "export the task as CVAT for images 1.1"
    if root.tag == "annotations" and "image" in inside:
        return "a CVAT file", "name the file itself as masks"
    if root.tag == "annotation" and "bndbox" in inside:
        return "a Pascal VOC file of boxes", f"take the PNGs of SegmentationClass; {_BOXES}"
    if root.tag == "annotation" and "polygon" in inside:
        return "an XML file of the old LabelMe (MIT)", f"convert it to COCO or LabelMe's JSON; {READ}"
    return f"XML that begins with <{root.tag[:40]}>", READ


def begins_as_xml(data: bytes) -> bool:
    """Whether a file is XML by its first character, behind the byte-order mark of UTF-8 or UTF-16."""
    return data[:4096].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"<")


def what_text_is(data: bytes) -> Named | None:
    """Why the content of a file is not JSON: an archive, XML or YOLO's lines; None if it may be JSON."""
    if data.startswith(b"PK\x03\x04"):
        return "a ZIP archive", "extract it, and name what was in it"
    if data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "a compressed archive", "extract it, and name what was in it"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")):
        return "an image", "masks is the folder of the masks, not one of them"
    if begins_as_xml(data):
        return "XML, no JSON", "name it .xml: of XML, CVAT for images 1.1 is read"
    return _YOLO if is_yolo(data) else None


def is_yolo(data: bytes) -> bool:
    """Whether a file begins with a line of YOLO's: the number of a class, and at least four numbers of its object."""
    lines = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").splitlines() or [b""]
    words = lines[0].split()[: 5 if len(lines) == 1 else None]  # the last one may be cut off
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(numbers) >= 5 and numbers[0] >= 0 and numbers[0].is_integer()
