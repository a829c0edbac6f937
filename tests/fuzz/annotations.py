"""Annotation files of six formats (see KINDS) from known masks, half of them broken somewhere.

A whole file must give the mask that was meant, drawn here by scikit-image, by slices and by a plain loop; a broken one
a mask of its size, or a DataError that names the file.
"""

from __future__ import annotations

import base64
import io
import json
import random
import zlib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from artifacts.errors import DataError
from stages.data.annotations.coco_outlines import read_coco
from stages.data.annotations.cvat import read_cvat
from stages.data.annotations.drawing import Drawing, draw
from stages.data.annotations.label_studio import read_label_studio
from stages.data.annotations.labelme import read_labelme
from stages.data.annotations.supervisely import read_supervisely
from stages.data.annotations.yolo import read_yolo

IDS = {"cat": 1, "dog": 2}
JUNK = (
    None,
    True,
    -1,
    0,
    0.5,
    1e6,
    1e30,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "7",
    [],
    {},
    [[1], [1, 2]],
    [None],
)
Size = tuple[int, int]


def fuzz(rng: random.Random, folder: Path) -> str:
    kind = rng.choice(sorted(KINDS))
    size = rng.randint(1, 24), rng.randint(1, 24)
    path, text, expected = KINDS[kind](rng, folder, size)
    broken = rng.random() < 0.5
    path.write_bytes(_broken(rng, kind, text) if broken else text.encode())
    try:
        drawings = _read(kind, path, size)
        masks = [draw(drawing, IDS) for drawing in drawings]
    except DataError as error:
        if not broken or path.name not in error.message:
            raise AssertionError(f"of a {'broken' if broken else 'whole'} {kind} file it was said: {error}") from error
        return f"{kind} refused"
    for drawing, mask in zip(drawings, masks, strict=True):
        assert mask.dtype == np.uint8
        assert mask.shape == drawing.size
        assert set(np.unique(mask).tolist()) <= {0, 1, 2, 255}
    if broken:
        return f"{kind} broken and read"
    np.testing.assert_array_equal(masks[0], expected)
    return f"{kind} read"


def _read(kind: str, path: Path, size: Size) -> list[Drawing]:
    if kind == "coco":
        file = read_coco(path)
        if file.problems:
            raise DataError(f"{path}: {file.problems[0]}")
        return [file.annotations_of(stem) for stem in file.image_ids]
    if kind == "cvat":
        return list(read_cvat(path).drawings.values())
    if kind == "label_studio":
        return list(read_label_studio(path, lambda names: "a", lambda image_id: size).drawings.values())
    if kind == "yolo":
        return [read_yolo(path, size, sorted(IDS))]
    return [(read_labelme if kind == "labelme" else read_supervisely)(path)]


def _broken(rng: random.Random, kind: str, text: str) -> bytes:
    """The file with one value exchanged, cut off, or with a stretch of other characters."""
    if kind not in ("cvat", "yolo") and rng.random() < 0.6:
        content = json.loads(text)
        places = list(_places(content))
        for _ in range(rng.randint(1, 3)):
            inside, key = rng.choice(places)
            inside[key] = rng.choice(JUNK)
        return json.dumps(content).encode()
    data = text.encode()
    start = rng.randrange(max(len(data), 1))
    if rng.random() < 0.3:
        return data[:start]
    filling = rng.choice([b"", b"9" * 400, b'"', b"<", b"[" * 3000, b"-", b"e9", b"\xff\x00", b"nan", b",", b";;"])
    return data[:start] + filling + data[start + rng.randint(0, 3) :]


def _places(content: Any) -> list[tuple[Any, Any]]:
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else []
    return [place for key in keys for place in [(content, key), *_places(content[key])]]


# --- shapes that are known ---


def _outline(rng: random.Random, size: Size) -> tuple[list[list[float]], np.ndarray]:
    """Corners of which no edge runs through a pixel's centre, and scikit-image's pixels."""
    points = [
        [round(rng.uniform(-1, size[1] + 1), 3) + 1e-4, round(rng.uniform(-1, size[0] + 1), 3) + 2e-4]
        for _ in range(rng.randint(3, 8))
    ]
    columns, rows = np.array(points).T - 0.5
    inside = np.zeros(size, bool)
    inside[skimage_polygon(rows, columns, size)] = True
    return points, inside


def _box(rng: random.Random, size: Size) -> tuple[list[int], np.ndarray]:
    """[left, top, right, bottom], right and bottom outside."""
    left, top = rng.randrange(size[1]), rng.randrange(size[0])
    right, bottom = rng.randint(left + 1, size[1]), rng.randint(top + 1, size[0])
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    return [left, top, right, bottom], inside


def _blob(rng: random.Random, size: Size) -> np.ndarray:
    bits = rng.getrandbits(size[0] * size[1])
    return np.array([bits >> place & 1 for place in range(size[0] * size[1])], bool).reshape(size)


def _counts(values: list[bool]) -> list[int]:
    """Run lengths by a plain loop, the first of what is outside."""
    counts, inside = [0], False
    for value in values:
        if value != inside:
            counts.append(0)
            inside = value
        counts[-1] += 1
    return counts


def _text(counts: list[int]) -> str:
    """COCO's text form, digit by digit."""
    text = ""
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        last = False
        while not last:
            digit, number = number % 32, number // 32
            last = number == (-1 if digit >= 16 else 0)
            text += chr(48 + digit + (0 if last else 32))
    return text


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _area(points: list[list[float]]) -> float:
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def _layers(shapes: list[tuple[str, np.ndarray]], size: Size) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for label, inside in shapes:
        mask[inside] = IDS[label]
    return mask


# --- the formats ---


def _labelme(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    shapes, meant = [], []
    for _ in range(rng.randint(0, 4)):
        label, kind = rng.choice(sorted(IDS)), rng.choice(["polygon", "rectangle", "mask", "point"])
        shape: dict[str, Any] = {"label": label, "shape_type": kind, "group_id": rng.choice([None, 3]), "flags": {}}
        if kind == "polygon":
            shape["points"], inside = _outline(rng, size)
            shape["points"] = rng.choice([shape["points"], [value for point in shape["points"] for value in point]])
        elif kind == "rectangle":
            (left, top, right, bottom), inside = _box(rng, size)
            shape["points"] = rng.choice([[[left, top], [right, bottom]], [[right, top], [left, bottom]]])
        elif kind == "mask":
            (left, top, right, bottom), box = _box(rng, size)
            blob = _blob(rng, (bottom - top, right - left))
            inside = np.zeros(size, bool)
            inside[box] = blob.ravel()
            shape |= {"points": [[left, top], [right - 1, bottom - 1]], "mask": base64.b64encode(_png(blob)).decode()}
        else:
            shape["points"], inside = [[0, 0]], np.zeros(size, bool)
        shapes.append(shape)
        meant.append((label, inside))
    content = {"version": "5", "shapes": shapes, "imagePath": "a.jpg", "imageData": None}
    content |= {"imageHeight": size[0], "imageWidth": rng.choice([size[1], float(size[1])])}
    return folder / "a.json", json.dumps(content), _layers(meant, size)


def _coco(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    annotations, meant = [], []
    forms = (int, str, float)
    for number in range(rng.randint(0, 4)):
        label, kind = rng.choice(sorted(IDS)), rng.choice(["polygon", "runs", "text", "list", "line"])
        if kind == "polygon":
            points, inside = _outline(rng, size)
            outline: Any = [[value for point in points for value in point]]
            area = _area(points)
        elif kind == "line":
            outline, inside, area = [[0, 0, 1, 1]], np.zeros(size, bool), 0.0
        else:
            inside = _blob(rng, size)
            counts = _counts(inside.T.ravel().tolist())
            outline = {"size": list(size), "counts": counts if kind == "runs" else _text(counts)}
            outline = [outline] if kind == "list" else outline
            area = float(inside.sum())
        category = rng.choice(forms)(IDS[label] - 1)
        annotations.append({"id": number, "image_id": rng.choice(forms)(0), "category_id": category})
        annotations[-1] |= {"segmentation": outline, "bbox": [0, 0, 1, 1]} | rng.choice([{}, {"iscrowd": 0}])
        meant.append((area, label, inside))
    meant.sort(key=lambda entry: -entry[0])
    image = {"id": rng.choice(forms)(0), "file_name": "sub/a.png", "height": size[0], "width": size[1]}
    categories = [{"id": rng.choice(forms)(IDS[label] - 1), "name": label, "supercategory": "x"} for label in IDS]
    content = {"images": [image], "categories": categories, "annotations": annotations}
    return folder / "a.json", json.dumps(content), _layers([(label, inside) for _, label, inside in meant], size)


def _cvat(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    lines, meant = [], []
    for _ in range(rng.randint(1, 4)):
        label, kind, depth = (
            rng.choice(sorted(IDS)),
            rng.choice(["polygon", "box", "mask", "polyline"]),
            rng.randint(0, 2),
        )
        if kind == "polygon":
            points, inside = _outline(rng, size)
            values = {"points": ";".join(f"{x},{y}" for x, y in points)}
        elif kind == "polyline":
            values, inside = {"points": "0,0;1,1"}, np.zeros(size, bool)
        else:
            (left, top, right, bottom), inside = _box(rng, size)
            values = {"xtl": left, "ytl": top, "xbr": right, "ybr": bottom}
            if kind == "mask":
                blob = _blob(rng, (bottom - top, right - left))
                box, inside = inside, np.zeros(size, bool)
                inside[box] = blob.ravel()
                values = {"rle": ", ".join(map(str, _counts(blob.ravel().tolist()))), "left": left, "top": top}
                values |= {"width": right - left, "height": bottom - top}
        values |= {"label": label, "z_order": depth, "occluded": 0}
        attributes = " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items())
        lines.append(f'<{kind} {attributes}><attribute name="x">1</attribute></{kind}>')
        meant.append((depth, label, inside))
    meant.sort(key=lambda entry: entry[0])
    image = f'<image id="0" name="sub/a.png" width="{size[1]}" height="{size[0]}">{"".join(lines)}</image>'
    labels = "".join(f"<label><name>{label}</name></label>" for label in IDS)
    text = f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>{labels}'
    text += f"</labels></task></meta>{image}</annotations>"
    return folder / "a.xml", text, _layers([(label, inside) for _, label, inside in meant], size)


def _supervisely(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    objects, meant = [], []
    for _ in range(rng.randint(0, 4)):
        label, kind = rng.choice(sorted(IDS)), rng.choice(["polygon", "rectangle", "bitmap", "line"])
        one: dict[str, Any] = {"classTitle": label, "geometryType": kind}
        (left, top, right, bottom), inside = _box(rng, size)
        if kind == "polygon":
            outline = [[rng.randrange(size[1]), rng.randrange(size[0])] for _ in range(rng.randint(3, 6))]
            one["points"] = {"exterior": [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]}
            one["points"]["interior"] = [outline] if rng.random() < 0.5 else []
            for hole in one["points"]["interior"]:
                inside &= ~_closed(hole, size)
        elif kind == "bitmap":
            blob = _blob(rng, (bottom - top, right - left))
            box, inside = inside, np.zeros(size, bool)
            inside[box] = blob.ravel()
            data = base64.b64encode(zlib.compress(_png(blob))).decode()
            one["bitmap"] = {"origin": [left, top], "data": data}
        else:
            one["points"] = {"exterior": [[left, top], [right - 1, bottom - 1]], "interior": []}
            inside = inside if kind == "rectangle" else np.zeros(size, bool)
        objects.append(one)
        meant.append((label, inside))
    content = {"description": "", "tags": [], "size": {"height": size[0], "width": size[1]}, "objects": objects}
    return folder / "a.jpg.json", json.dumps(content), _layers(meant, size)


def _closed(outline: list[list[int]], size: Size) -> np.ndarray:
    """The pixels whose indices lie inside an outline or on it, by a plain loop."""
    inside = np.zeros(size, bool)
    edges = list(zip(outline, outline[1:] + outline[:1], strict=True))
    for y in range(size[0]):
        for x in range(size[1]):
            odd = False
            for (x0, y0), (x1, y1) in edges:
                cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
                if cross == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
                    odd = True
                    break
                if (y0 > y) != (y1 > y) and (cross > 0) == (y1 > y0):
                    odd = not odd
            inside[y, x] = odd
    return inside


def _label_studio(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    results, meant = [], []
    shares = np.array([100 / size[1], 100 / size[0]])
    for number in range(rng.randint(0, 4)):
        label, kind = rng.choice(sorted(IDS)), rng.choice(["polygon", "rectangle", "brush", "keypoint"])
        value: dict[str, Any] = {f"{kind}labels": [label]}
        if kind == "polygon":
            points, inside = _outline(rng, size)
            value["points"] = (np.array(points) * shares).tolist()
        elif kind == "rectangle":
            (left, top, right, bottom), inside = _box(rng, size)
            box = np.array([[left, top], [right - left, bottom - top]]) * shares
            value |= dict(zip(("x", "y", "width", "height"), box.ravel().tolist(), strict=True)) | {"rotation": 0}
        elif kind == "brush":
            inside = _blob(rng, size)
            value |= {"format": "rle", "rle": _brush(rng, inside)}
        else:
            value |= {"x": 1, "y": 1}
            inside = np.zeros(size, bool)
        results.append({"id": str(number), "type": f"{kind}labels", "from_name": "x", "to_name": "y", "value": value})
        results[-1] |= {"original_width": size[1], "original_height": size[0], "image_rotation": 0}
        meant.append((label, inside))
    annotations = [{"id": 2, "result": results, "updated_at": "2024-02-02T00:00:00Z"}]
    if rng.random() < 0.5:  # an older one, which does not count
        annotations.append({"id": 1, "result": [], "updated_at": "2024-01-01T00:00:00Z"})
    rng.shuffle(annotations)
    task = {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": annotations}
    return folder / "a.json", json.dumps([task]), _layers(meant, size)


def _brush(rng: random.Random, inside: np.ndarray) -> list[int]:
    """Label Studio's packed bits, in runs of any length: of equal values, or of values that are written out."""
    values = [255 * int(pixel) for pixel in inside.ravel() for _ in range(4)]
    text, at = f"{len(values):032b}00111" + "0010" + "0011" + "0111" + "1111", 0
    while at < len(values):
        run = values[at : at + rng.randint(1, 8)]
        same = len(set(run)) == 1
        text += f"{int(same)}00{len(run) - 1:03b}" + "".join(f"{value:08b}" for value in (run[:1] if same else run))
        at += len(run)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def _yolo(rng: random.Random, folder: Path, size: Size) -> tuple[Path, str, np.ndarray]:
    lines, meant = [], []
    for _ in range(rng.randint(0, 4)):
        label = rng.choice(sorted(IDS))
        points, inside = _outline(rng, size)
        shares = [repr(value / side) for x, y in points for value, side in ((x, size[1]), (y, size[0]))]
        lines.append(" ".join([rng.choice(["{}", "{}.0"]).format(sorted(IDS).index(label)), *shares]))
        meant.append((_area(points), label, inside))
    meant.sort(key=lambda entry: -entry[0])
    text = rng.choice(["\n", "\r\n"]).join([*lines, ""])
    return folder / "a.txt", text, _layers([(label, inside) for _, label, inside in meant], size)


KINDS = {
    "coco": _coco,
    "cvat": _cvat,
    "label_studio": _label_studio,
    "labelme": _labelme,
    "supervisely": _supervisely,
    "yolo": _yolo,
}
