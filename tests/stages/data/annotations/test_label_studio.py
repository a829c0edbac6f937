"""Label Studio's exports: brush masks by hand and by a loop, polygons, which annotation counts, names of images."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from artifacts.errors import DataError
from stages.data.annotations.brush_runs import pack_brush, unpack_brush
from stages.data.annotations.drawing import draw
from stages.data.annotations.label_studio import LabelStudioFile, read_label_studio, uploaded_name
from stages.data.annotations.reading import RegionError

IDS = {"cat": 1, "dog": 2}
SIZE = (8, 10)


# --- run lengths ---


def plain_bits(packed: Sequence[int]) -> np.ndarray:
    """The values of a stream, by a loop over a text of its bits."""
    text = "".join(f"{byte:08b}" for byte in packed)
    at = 0

    def read(bits: int) -> int:
        nonlocal at
        at += bits
        return int(text[at - bits : at], 2)

    count, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        equal, length = read(1), 0
        length = read(sizes[read(2)]) + 1
        values += [read(value_bits)] * length if equal else [read(value_bits) for _ in range(length)]
    return np.array(values)


def stream(values: Sequence[int], rng: random.Random, sizes: Sequence[int] = (3, 4, 8, 16)) -> bytes:
    """The values in runs of random lengths, equal or not, as another program may write them."""
    text = f"{len(values):032b}00111" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    while at < len(values):
        choice = rng.randrange(4)
        length = min(rng.randint(1, 1 << sizes[choice]), len(values) - at, 40)
        run = values[at : at + length]
        text += f"{int(len(set(run)) == 1)}{choice:02b}{length - 1:0{sizes[choice]}b}"
        text += "".join(f"{value:08b}" for value in (run[:1] if len(set(run)) == 1 else run))
        at += length
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


def test_bytes_worked_by_hand():
    """Two pixels, the second in the mask: 8 values of 8 bits, and two runs of four, 1 00 011 and the value."""
    packed = bytes([0, 0, 0, 8, 0b00111001, 0b00011011, 0b11111100, 0b01100000, 0b00010001, 255, 0b10000000])
    assert unpack_brush(packed, (1, 2)).tolist() == [[False, True]]
    assert pack_brush(np.array([[False, True]])) == packed


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=80, deadline=None)
def test_a_packed_mask_is_what_a_plain_loop_reads_and_comes_back(mask):
    packed = pack_brush(mask)
    values = plain_bits(packed)
    np.testing.assert_array_equal(values.reshape(*mask.shape, 4), np.repeat(mask[:, :, None], 4, axis=2) * 255)
    np.testing.assert_array_equal(unpack_brush(packed, mask.shape), mask)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_streams_of_other_programs_are_read(seed, height, width):
    rng = random.Random(seed)
    values = [rng.choice([0, 0, 0, 7, 255]) for _ in range(4 * height * width)]
    packed = stream(values, rng, [rng.randint(1, 16) for _ in range(4)])
    assert plain_bits(packed).tolist() == values
    alpha = np.array(values[3::4]).reshape(height, width)
    np.testing.assert_array_equal(unpack_brush(packed, (height, width)), alpha > 0)


def test_a_long_run_is_cut_into_several():
    mask = np.zeros((300, 300), bool)
    mask[1:299] = True
    packed = pack_brush(mask)
    assert len(packed) < 60
    np.testing.assert_array_equal(unpack_brush(packed, (300, 300)), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-3], "cut off"),
        (lambda data: data[:2], "cut off"),
        (lambda data: b"", "cut off"),
        (lambda data: b"\0\0\0\x7c" + data[4:], "are for 31 pixels, the image has 6 "),
        (lambda data: data[:4] + bytes([data[4] & 0b00111111 | 0b01000000]) + data[5:], "values of 16 bits"),
    ],
)
def test_brush_masks_that_are_damaged(change, message):
    packed = pack_brush(np.array([[0, 1, 1], [1, 0, 0]], bool))
    with pytest.raises(RegionError, match=message):
        unpack_brush(change(packed), (2, 3))


def test_a_run_beyond_the_image_is_an_error():
    packed = stream([1] * 16, random.Random(0))
    with pytest.raises(RegionError, match=r"cover .* of 8 values"):
        unpack_brush(b"\0\0\0\x08" + packed[4:5] + stream([1] * 12, random.Random(3))[5:], (1, 2))


# --- files ---


def brush(mask: np.ndarray, *labels: str, **more: Any) -> dict[str, Any]:
    return result("brushlabels", mask.shape, {"format": "rle", "rle": list(pack_brush(mask))}, labels, **more)


def outline(points: Any, *labels: str, size: tuple[int, int] = SIZE, **more: Any) -> dict[str, Any]:
    return result("polygonlabels", size, {"points": points, "closed": True}, labels, **more)


def result(
    kind: str, size: tuple[int, int], value: dict[str, Any], labels: Sequence[str], **more: Any
) -> dict[str, Any]:
    whole = {"original_height": size[0], "original_width": size[1], "image_rotation": 0, "to_name": "image"}
    return whole | {"type": kind, "from_name": "x", "id": "1", "value": value | {kind: list(labels)}} | more


def task(image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 1, "result": list(results), "was_cancelled": False, "updated_at": "2024-01-01T00:00:00Z"}
    return {"id": 1, "data": {"image": image}, "annotations": [annotation], "predictions": []} | more


def rows(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON_MIN: a row for each annotation, the values of its results without their type."""
    found = []
    for number, one in enumerate(tasks, start=1):
        for annotation in one["annotations"]:
            row: dict[str, Any] = one["data"] | {"id": number, "annotator": 1, "annotation_id": annotation["id"]}
            for part in annotation["result"]:
                sizes = {key: part[key] for key in ("original_width", "original_height")}
                row.setdefault(part["from_name"], []).append(part["value"] | sizes)
            found.append(row | {"updated_at": annotation.get("updated_at"), "lead_time": 1.5})
    return found


def read(tmp_path: Path, content: Any, known: Sequence[str] = ()) -> LabelStudioFile:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    return read_label_studio(
        path, lambda names: next((name for name in names if name in known), names[-1]), lambda image_id: SIZE
    )


@pytest.mark.parametrize("form", [list, rows])
@pytest.mark.parametrize("seed", range(5))
def test_brush_masks_and_polygons_are_drawn_later_ones_on_top(tmp_path, seed, form):
    rng = np.random.default_rng(seed)
    mask = rng.random(SIZE) < 0.5
    points = rng.uniform(1, 99, (5, 2))
    file = read(tmp_path, form([task("a.jpg", brush(mask, "cat"), outline(points.tolist(), "dog"))]))
    expected = mask.astype(np.uint8)
    inside = skimage_polygon(points[:, 1] * SIZE[0] / 100 - 0.5, points[:, 0] * SIZE[1] / 100 - 0.5, SIZE)
    expected[inside] = 2
    np.testing.assert_array_equal(draw(file.drawings["a"], IDS), expected)


@pytest.mark.parametrize("form", [list, rows])
def test_boxes_ellipses_and_bit_masks_are_drawn_and_points_are_told(tmp_path, form):
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[7, 2:4, 3] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    parts = [
        result("rectanglelabels", SIZE, {"x": 10, "y": 25, "width": 20, "height": 25, "rotation": 0}, ["cat"]),
        # turned by 90 degrees about its upper left corner, the box of 2 x 1 pixels reaches down and to the left
        result("rectanglelabels", SIZE, {"x": 90, "y": 50, "width": 25, "height": 10, "rotation": 90}, ["dog"]),
        result("ellipselabels", SIZE, {"x": 50, "y": 50, "radiusX": 10, "radiusY": 12.5, "rotation": 0}, ["dog"]),
        result("bitmasklabels", SIZE, {"imageDataURL": url}, ["cat"]),
        result("keypointlabels", SIZE, {"x": 50, "y": 50, "width": 1}, ["cat"]),
    ]
    drawing = read(tmp_path, form([task("a.jpg", *parts)])).drawings["a"]
    expected = np.zeros(SIZE, np.uint8)
    expected[2:4, 1:3] = 1
    expected[3:5, 4:6] = 2
    expected[7, 2:4] = 1
    mask = draw(drawing, IDS)
    turned = mask.copy()
    turned[:, 6:] = 0
    np.testing.assert_array_equal(turned, expected)
    assert np.argwhere(mask[:, 6:] == 2).min(axis=0).tolist() == [4, 2]  # below the corner (9, 4), left of it
    assert (mask[:, 9] == 0).all()
    assert drawing.not_drawn == ("result 5, cat: it is a point and has no area",)


def test_the_labels_of_a_region_may_be_a_result_of_their_own(tmp_path):
    """A project with the tags Brush and Labels exports two results of one region."""
    mask = np.ones(SIZE, bool)
    bare = brush(mask) | {"type": "brush"}
    del bare["value"]["brushlabels"]
    named_so = bare | {"type": "labels", "value": bare["value"] | {"labels": ["dog"]}}
    for form in (list, rows):
        file = read(tmp_path, form([task("a.jpg", bare, named_so)]))
        assert (draw(file.drawings["a"], IDS) == 2).all()
        assert len(file.drawings["a"].regions) == 1


def test_which_annotation_counts_and_what_is_said(tmp_path):
    def annotation(label: str, **more: Any) -> dict[str, Any]:
        return {"id": 1, "result": [brush(np.ones(SIZE, bool), label)], "was_cancelled": False} | more

    early, late = {"updated_at": "2024-01-01T10:00:00Z"}, {"updated_at": "2024-03-01T10:00:00Z"}
    tasks = [
        task("latest.jpg", annotations=[annotation("dog", **late), annotation("cat", **early)]),
        task("truth.jpg", annotations=[annotation("dog", **late), annotation("cat", ground_truth=True, **early)]),
        task("skipped.jpg", annotations=[annotation("cat", **early), annotation("dog", was_cancelled=True, **late)]),
        task("none.jpg", annotations=[annotation("cat", was_cancelled=True)]),
        task("predicted.jpg", annotations=[], predictions=[annotation("cat", score=0.5)]),
        task("empty.jpg"),
        task("choice.jpg", {"type": "choices", "from_name": "q", "value": {"choices": ["good"]}}),
    ]
    file = read(tmp_path, tasks)
    values = {image_id: np.unique(draw(drawing, IDS)).tolist() for image_id, drawing in file.drawings.items()}
    assert values == {"latest": [2], "truth": [1], "skipped": [1], "empty": [0], "choice": [0]}
    assert sorted(file.undrawn) == ["none", "predicted"]
    beginnings = (
        "2 images have several annotations, of which the one marked as ground truth is read, else the one updated last",
        "not read: 2 annotations that annotators have skipped",
        "predictions of 1 image are not read",
        "left out: 1 result without a region",
    )
    for sentence, beginning in zip(file.notes, beginnings, strict=True):
        assert sentence.startswith(f"{beginning}: ")
    assert "1 choices" in file.notes[-1]


def test_rows_without_an_annotation_say_nothing(tmp_path):
    content = rows([task("a.jpg", brush(np.ones(SIZE, bool), "cat"))])
    content += [{"id": 2, "image": "b.jpg", "annotator": "", "annotation_id": None, "lead_time": None}]
    file = read(tmp_path, content)
    assert (list(file.drawings), file.undrawn) == (["a"], ("b",))


@pytest.mark.parametrize(
    ("url", "known", "expected"),
    [
        ("/data/upload/1/0a1b2c3d-IMG_1.jpg", ["IMG_1"], "IMG_1"),
        ("/data/upload/1/0a1b2c3d-IMG_1.jpg", ["IMG_1", "0a1b2c3d-IMG_1"], "0a1b2c3d-IMG_1"),
        ("/data/upload/1/0a1b2c3d-IMG_1.jpg", [], "IMG_1"),
        ("/data/local-files/?d=photos/day%201/IMG%20(1).jpg", ["IMG (1)"], "IMG (1)"),
        ("/data/local-files/?d=C%3A%5Cphotos%5CIMG.jpg", ["IMG"], "IMG"),
        ("https://host/a/IMG.JPG?X-Amz-Date=1&d", ["IMG"], "IMG"),
        ("s3://bucket/a/IMG.png", ["IMG"], "IMG"),
        ("/tasks/7/resolve/?fileuri=" + base64.b64encode(b"s3://bucket/IMG.png").decode(), ["IMG"], "IMG"),
        ("IMG#1.jpg", ["IMG#1"], "IMG#1"),
        ("100%.jpg", ["100%"], "100%"),
        ("deadbeef-.jpg", [], ".jpg"),
    ],
)
def test_the_name_of_an_image_in_its_address(tmp_path, url, known, expected):
    assert list(read(tmp_path, [task(url, brush(np.ones(SIZE, bool), "cat"))], known).drawings) == [expected]


def test_names_that_are_changed_when_a_file_is_uploaded():
    assert uploaded_name("IMG (1) é+x") == "IMG_1_éx"


ONES = np.ones(SIZE, bool)
TRIANGLE = [[0, 0], [50, 0], [0, 50]]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (brush(ONES), "it has no label"),
        (brush(ONES, "cat", "dog"), "it has the labels cat, dog, and a pixel has one class"),
        (brush(ONES, "cat", image_rotation=90), "its image was turned in Label Studio"),
        (outline([[0, 0], [150, 0], [0, 50]], "cat"), r"its point \(15, 0\) lies outside the image of 10x8"),
        (outline([[0, 0], ["x", 0], [0, 50]], "cat"), "points are not numbers"),
        (outline([[0, 0], [float("nan"), 0], [0, 50]], "cat"), "not finite"),
        (result("brushlabels", SIZE, {"format": "png", "rle": [1]}, ["cat"]), "it has the format|has the format 'png'"),
        (result("brushlabels", SIZE, {"format": "rle", "rle": [1, 300]}, ["cat"]), "no list of bytes"),
        (result("brushlabels", SIZE, {"format": "rle", "rle": list(pack_brush(ONES))[:-4]}, ["cat"]), "cut off"),
        (result("brushlabels", SIZE, {"rle": list(pack_brush(np.ones((2, 2), bool)))}, ["cat"]), "are for 4 pixels"),
        (result("bitmasklabels", SIZE, {"imageDataURL": "x"}, ["cat"]), "not a PNG"),
        (result("bitmasklabels", SIZE, {"imageDataURL": 7}, ["cat"]), "not a PNG"),
        (result("rectanglelabels", SIZE, {"x": 0, "y": 0, "width": "9", "height": 9}, ["cat"]), "its width is '9'"),
        (result("ellipselabels", SIZE, {"x": 0, "y": 0, "radiusX": 900, "radiusY": 9}, ["cat"]), "radius"),
        (result("vectorlabels", SIZE, {"vertices": []}, ["cat"]), "of a kind that is not read"),
        (outline(TRIANGLE, "cat", size=(80, 100)), "it is for an image of 100x80, others for 10x8"),
    ],
)
def test_what_is_no_region(tmp_path, part, message):
    drawing = read(tmp_path, [task("a.jpg", outline(TRIANGLE, "cat"), part)]).drawings["a"]
    assert len(drawing.problems) == 1
    with pytest.raises(DataError, match=message) as caught:
        draw(drawing, IDS)
    assert "result 2" in caught.value.message


def test_a_polygon_of_two_points_is_left_out_and_said(tmp_path):
    drawing = read(tmp_path, [task("a.jpg", outline([[0, 0], [9, 9]], "cat"))]).drawings["a"]
    assert drawing.not_drawn == ("result 1, cat: it has 2 points, a polygon has at least 3",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not a Label Studio export"),
        ([7], "is not a Label Studio export"),
        ([{"image_id": 1, "category_id": 2}], "a list of COCO results"),
        ([task("a.jpg"), {"x": 1}], "entry 2: it is no task"),
        ([task("a.jpg"), task("b/a.png")], "two tasks of the image 'a': entries 1 and 2"),
        ([task("data:image/png;base64,AAAA")], "the image itself is in it"),
        ([task("notes.pdf")], "no field of its data names one image"),
        ([task("a.jpg", data={"first": "a.jpg", "second": "b.jpg"})], "several fields name an image"),
        ([task("a.jpg", data={"image": ["a.jpg", "b.jpg"]})], "no field of its data names one image"),
        ([task("a.jpg", data={"image": True})], "no field of its data names one image"),
        ([task("a.jpg", outline(TRIANGLE, "cat", size=(-1, 5)))], "which is impossible"),
    ],
)
def test_what_is_no_label_studio_export(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert caught.value.hint


def test_fields_in_addition_to_the_image_do_no_harm(tmp_path):
    content = [task("a.jpg", data={"image": "a.jpg", "thumbnail": "small/b.jpg", "title": "x", "n": 3})]
    assert list(read(tmp_path, content).drawings) == ["a"]
