"""Outlines against a plain loop over pixels, scikit-image and pycocotools; then the two file formats."""

from __future__ import annotations

import base64
import io
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from artifacts.errors import DataError
from stages.data.annotations.coco_outlines import read_coco, run_lengths
from stages.data.annotations.drawing import Drawing, Region, Runs, check_labels, draw, fill
from stages.data.annotations.labelme import read_labelme

# --- filling ---

SHAPE = (9, 11)  # (H, W)
COORDINATES = st.tuples(st.floats(-3, 14, width=32), st.floats(-3, 12, width=32))
POLYGONS = st.lists(COORDINATES, min_size=3, max_size=9).map(np.array)


def centre_is_inside(polygon: np.ndarray, row: int, column: int) -> bool:
    """Even-odd by one ray to the right of the centre."""
    x, y, inside = column + 0.5, row + 0.5, False
    corners = polygon.tolist()
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def distance_to_outline(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float (H, W): how far each centre is from the nearest edge."""
    centres = np.stack(np.mgrid[: size[0], : size[1]][::-1], axis=-1) + 0.5
    nearest = np.full(size, np.inf)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        length = float(((end - start) ** 2).sum())
        along = np.clip((centres - start) @ (end - start) / length, 0, 1) if length else np.zeros(size)
        offset = centres - start - along[..., None] * (end - start)
        nearest = np.minimum(nearest, np.hypot(offset[..., 0], offset[..., 1]))
    return nearest


@settings(max_examples=60)
@given(polygon=POLYGONS)
def test_a_pixel_is_inside_where_a_ray_from_its_centre_says_so(polygon):
    found, clear = fill(SHAPE, [polygon]), distance_to_outline(polygon, SHAPE) > 1e-5
    for row, column in np.argwhere(clear):  # on an edge the last bits of two formulas decide
        assert found[row, column] == centre_is_inside(polygon, row, column), (row, column)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), corners=st.integers(3, 40))
def test_it_is_the_polygon_of_scikit_image(seed, corners):
    polygon = np.random.default_rng(seed).uniform((-5, -5), (35, 25), (corners, 2))  # no centre lies on an edge
    expected = np.zeros((20, 30), bool)
    expected[skimage_polygon(polygon[:, 1] - 0.5, polygon[:, 0] - 0.5, expected.shape)] = True
    np.testing.assert_array_equal(fill((20, 30), [polygon]), expected)


@settings(max_examples=60)
@given(
    cut=st.lists(st.tuples(st.integers(0, 22), st.integers(1, 17)), min_size=0, max_size=6, unique_by=lambda p: p[1])
)
def test_two_outlines_along_one_cut_share_no_pixel_and_leave_none(cut):
    """Corners on the half-pixel grid: centres lie on edges all the time. The cut goes down, the halves are closed
    left and right of it, one clockwise and one not."""
    path = [(5.5, 0.0), *[(x / 2, y / 2) for x, y in sorted(cut, key=lambda point: point[1])], (5.5, 9.0)]
    left, right = [(-1.0, 9.0), (-1.0, 0.0), *path], [(12.0, 9.0), (12.0, 0.0), *path]
    covered = fill(SHAPE, [np.array(left)]).astype(int) + fill(SHAPE, [np.array(right[::-1])])
    np.testing.assert_array_equal(covered, 1)


@settings(max_examples=40)
@given(polygons=st.lists(POLYGONS, min_size=1, max_size=3), start=st.integers(0, 8))
def test_several_polygons_are_united_and_where_they_begin_and_turn_does_not_matter(polygons, start):
    one_by_one = np.logical_or.reduce([fill(SHAPE, [polygon]) for polygon in polygons])
    np.testing.assert_array_equal(fill(SHAPE, polygons), one_by_one)
    turned = [np.roll(polygon, start, axis=0)[::-1] for polygon in polygons]
    np.testing.assert_array_equal(fill(SHAPE, turned), one_by_one)


def test_images_that_a_person_can_check():
    square = np.array([(1, 1), (4, 1), (4, 3), (1, 3)])
    assert fill((4, 6), [square]).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    half = np.array([(0.5, 0.5), (2.5, 0.5), (2.5, 1.5), (0.5, 1.5)])  # edges run through centres
    assert fill((3, 4), [half]).astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    bow = np.array([(0, 0), (8, 4), (8, 0), (0, 4)])  # crosses itself: two triangles
    wide, narrow = [1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0, 1]
    assert fill((4, 8), [bow]).astype(int).tolist() == [narrow, wide, wide, narrow]
    assert not fill((4, 4), [np.array([(1.6, 1.6), (2.4, 1.6), (2.4, 2.4)])]).any()  # between the centres
    assert not fill((4, 4), [np.array([(0, 1.5), (4, 1.5), (2, 1.5)])]).any()  # no area
    assert fill((4, 4), [np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])]).all()
    assert not fill((4, 4), []).any()


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_pycocotools_differs_only_along_edges(seed):
    mask_api = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * math.pi, 8))
    radii = random.uniform(4, 11, 8)
    polygon = np.stack([15 + radii * np.cos(angles), 12 + radii * np.sin(angles)], axis=1)
    coded = mask_api.frPyObjects([polygon.ravel().tolist()], 24, 30)
    theirs = mask_api.decode(coded)[:, :, 0].astype(bool)
    different = theirs != fill((24, 30), [polygon])
    assert (distance_to_outline(polygon, (24, 30))[different] <= 0.5).all()


# --- drawings ---

IDS = {"cat": 1, "dog": 2, "bird": 3}


def square(left: float, top: float, side: float) -> list[list[float]]:
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


def shape(label: Any, points: Any, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


@pytest.fixture
def labelme(tmp_path: Path):
    """labelme(*shapes, imageHeight=...) is the path of a LabelMe file for an image of 8x6 (width x height)."""

    def write(*shapes: Any, **changes: Any) -> Path:
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": list(shapes),
            "imagePath": "..\\images\\street.jpg",
            "imageData": None,
            "imageHeight": 6,
            "imageWidth": 8,
        } | changes
        path = tmp_path / "street.json"
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
        return path

    return write


def png_text(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_later_labelme_shapes_lie_over_earlier_ones(labelme):
    drawing = read_labelme(labelme(shape("cat", square(0, 0, 4)), shape("dog", square(2, 2, 4))))
    assert (drawing.image, drawing.size) == ("street.jpg", (6, 8))
    assert draw(drawing, IDS).tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 2, 2, 2, 2, 0, 0],
        [1, 1, 2, 2, 2, 2, 0, 0],
        [0, 0, 2, 2, 2, 2, 0, 0],
        [0, 0, 2, 2, 2, 2, 0, 0],
    ]
    assert draw(drawing, IDS).dtype == np.uint8


def test_every_labelme_shape_with_an_area_is_drawn(labelme):
    blob = np.array([[1, 0, 1], [1, 1, 0]], bool)
    drawing = read_labelme(
        labelme(
            shape("cat", [[7.0, 2.0], [5.0, 0.0]], "rectangle"),  # corners in any order
            shape("bird", [[0, 0], [2, 0], [2, 1], [0, 1]], "rectangle"),  # X-AnyLabeling: all four
            shape("dog", [[1, 3], [3, 4]], "mask", mask=png_text(blob)),
            shape("dog", [[4, 4], [6, 4], [6, 6], [4, 6]], "oriented_rectangle"),
            shape("cat", square(7, 5, 1), None),  # files of old versions
        )
    )
    assert not drawing.not_drawn
    assert draw(drawing, IDS).tolist() == [
        [3, 3, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 2, 0, 2, 0, 0, 0, 0],
        [0, 2, 2, 0, 2, 2, 0, 0],
        [0, 0, 0, 0, 2, 2, 0, 1],
    ]


@settings(max_examples=30)
@given(x=st.floats(5, 25), y=st.floats(5, 15), radius=st.floats(0, 12), turn=st.floats(-0.5, 0.5))
def test_a_circle_is_the_pixels_within_its_radius(tmp_path_factory, x, y, radius, turn):
    rim = [x + radius * math.cos(turn), y + radius * math.sin(turn)]
    path = tmp_path_factory.mktemp("circle") / "a.json"
    size = {"imageHeight": 30, "imageWidth": 40}
    path.write_text(json.dumps({"shapes": [shape("cat", [[x, y], rim], "circle")], **size}))
    rows, columns = np.mgrid[:30, :40] + 0.5
    distance = np.hypot(columns - x, rows - y)
    clear = abs(distance - radius) > 0.011  # it is drawn as a polygon
    np.testing.assert_array_equal((draw(read_labelme(path), IDS) == 1)[clear], (distance < radius)[clear])


@settings(max_examples=30)
@given(data=st.data())
def test_a_labelme_mask_comes_back(tmp_path_factory, data):
    height, width = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    top, left = data.draw(st.tuples(st.integers(0, 6 - height), st.integers(0, 8 - width)))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    pixels = np.array(bits).reshape(height, width)
    corners = [[left, top], [left + width - 1, top + height - 1]]
    path = tmp_path_factory.mktemp("mask") / "a.json"
    record = shape("cat", corners, "mask", mask=png_text(pixels))
    path.write_text(json.dumps({"shapes": [record], "imageHeight": 6, "imageWidth": 8}))
    expected = np.zeros((6, 8), np.uint8)
    expected[top : top + height, left : left + width][pixels] = 1
    drawing = read_labelme(path)
    np.testing.assert_array_equal(draw(drawing, IDS), expected)
    assert drawing.regions[0].area() == pixels.sum()


def test_a_labelme_mask_whose_corner_is_the_image_s(labelme):
    """Programs write the end of a slice for the corner there, and a mask that is smaller by one."""
    record = shape("cat", [[6, 4], [8, 6]], "mask", mask=png_text(np.ones((2, 2), bool)))
    assert draw(read_labelme(labelme(record)), IDS).sum() == 4


def test_labelme_s_own_names_for_background_and_ignore(labelme):
    drawing = read_labelme(
        labelme(
            shape("cat", square(0, 0, 6)),
            shape("_background_", square(1, 1, 2)),
            shape("__ignore__", square(4, 4, 2)),
        )
    )
    mask = draw(drawing, IDS)
    assert [mask[0, 0], mask[1, 1], mask[5, 5], mask[0, 7]] == [1, 0, 255, 0]
    mask = draw(drawing, IDS, ground=255)  # a data set without background
    assert [mask[0, 0], mask[1, 1], mask[5, 5], mask[0, 7]] == [1, 255, 255, 255]


def test_points_and_lines_are_told_and_not_drawn(labelme):
    drawing = read_labelme(
        labelme(
            shape("cat", [[1, 1], [3, 3]], "line"),
            shape("dog", [[1, 1]], "point"),
            shape("dog", [[1, 1], [2, 2], [3, 1]], "linestrip"),
        )
    )
    assert drawing.not_drawn == (
        "shape 1, 'cat': it is a line and has no area",
        "shape 2, 'dog': it is a point and has no area",
        "shape 3, 'dog': it is a linestrip and has no area",
    )
    assert not draw(drawing, {}).any()


def test_all_unknown_labels_are_named_at_once(labelme):
    path = labelme(shape("Cat", square(0, 0, 2)), shape("cow", square(0, 0, 2)), shape("Cat", square(3, 3, 2)))
    with pytest.raises(
        DataError, match=r"2 labels are not a class: 'Cat' .*, shape 1 and 1 more\); 'cow' .*, shape 2\)"
    ) as e:
        draw(read_labelme(path), IDS)
    assert "the classes are cat, dog, bird" in e.value.hint
    check_labels([read_labelme(path)], {"Cat": 1, "cow": 0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape("cat", [[0, 0], [1, 1], [2, 3]], "circle"), "it has 3 points, a circle has 2"),
        (shape("cat", [[0, 0], [9, 1], [30, 3]]), r"its point \(30, 3\) lies outside the image of 8x6"),
        (shape("cat", [[0, 0], [1, float("nan")], [3, 3]]), "a point of it is not finite"),
        (shape("cat", [[0, 0], [1], [3, 3]]), "its points are not numbers"),
        (shape("cat", [0, 0, 1, 1, 2]), "its points are not pairs of x and y"),
        (shape("cat", "here"), "its points are not numbers"),
        (shape("cat", None), "its points are not pairs"),
        (shape("cat", 5, "rectangle"), "its points are not pairs"),
        (shape("cat", [[0, 0], [1, 1]], "mask", mask="***"), "its mask is not a PNG in base64"),
        (shape("cat", [[0, 0], [1, 1]], "mask", mask=None), "its mask is not a PNG: cannot identify it"),
        (shape("cat", [[0, 0], [1, 1]], "mask", mask=7), "its mask is not a PNG in base64"),
        (
            shape("cat", [[0, 0], [1, 1]], "mask", mask=png_text(np.ones((3, 2), bool))),
            r"its mask has the shape \(3, 2\), its points give \(2, 2\)",
        ),
        (shape(" ", square(0, 0, 2)), "it has no label"),
        (shape(None, square(0, 0, 2)), "it has no label"),
        ("shape", "it has no label"),
    ],
)
def test_what_is_no_labelme_shape(labelme, wrong, message):
    drawing = read_labelme(labelme(wrong, shape("dog", square(0, 0, 2))))
    with pytest.raises(DataError, match=message):
        draw(drawing, IDS)
    assert drawing.problems[0].startswith("shape 1: ")
    assert draw(replace(drawing, problems=()), IDS).sum() == 8  # the rest can be had if a person agrees


def test_many_problems_are_counted(labelme):
    drawing = read_labelme(labelme(*[shape("cat", [[0, 0], [1, 99], [1, 1]])] * 7))
    with pytest.raises(DataError, match=r"(?s)street.jpg\): 7 annotations are wrong:\n  shape 1.*\n  and 2 more"):
        draw(drawing, IDS)


def test_outlines_may_overshoot_a_little(labelme):
    assert draw(read_labelme(labelme(shape("cat", square(6, 4, 3.9)))), IDS).sum() == 4


def test_a_labelme_file_without_a_size(labelme):
    path = labelme(imageHeight=None, imageWidth=...)
    with pytest.raises(DataError, match="has no imageHeight and imageWidth"):
        read_labelme(path)
    assert read_labelme(path, (3, 4)).size == (3, 4)


def test_files_that_are_not_labelme_s(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a.json cannot be read: No such file"):
        read_labelme(path)
    for text, message in [
        ("{", "is damaged"),
        ("[1]", "is not a LabelMe file"),
        ('{"shapes": 3}', "is not a LabelMe file"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_labelme(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is damaged"):
        read_labelme(path)


# --- COCO ---


def flat(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


def annotation(number: int, category: int, segmentation: Any, image: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation} | more


@pytest.fixture
def coco(tmp_path: Path):
    """coco(*annotations, images=...) is a COCO file of two images, 7 (8x6) and 9; categories 10 cat, 20 dog."""

    def read(*annotations: Any, **changes: Any):
        content = {
            "images": [
                {"id": 7, "file_name": "train/street.jpg", "width": 8, "height": 6},
                {"id": 9, "file_name": "yard.v2.png", "width": 4, "height": 3},
            ],
            "categories": [{"id": 10, "name": "cat"}, {"id": 20, "name": "dog", "supercategory": "animal"}],
            "annotations": list(annotations),
        } | changes
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return read_coco(path)

    return read


def test_a_coco_file_is_indexed_by_stem(coco):
    file = coco(annotation(1, 10, [flat(square(0, 0, 2))]), annotation(2, 20, [flat(square(0, 0, 1))], image=9))
    assert dict(file.image_ids) == {"street": 7, "yard.v2": 9}
    assert dict(file.categories) == {10: "cat", 20: "dog"}
    assert file.file_name("street") == "train/street.jpg"
    assert [region.where for region in file.annotations_of("yard.v2").regions] == ["annotation 2"]
    assert draw(file.annotations_of("yard.v2"), IDS).tolist() == [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(DataError, match="has no image 'lane'"):
        file.annotations_of("lane")


def test_small_coco_objects_lie_over_large_ones_whatever_the_order(coco):
    """The file's own area is not asked: some programs write that of the box."""
    small, large = (
        annotation(1, 10, [flat(square(1, 1, 2))], area=99),
        annotation(2, 20, [flat(square(0, 0, 4))], area=1),
    )
    for order in ((small, large), (large, small)):
        mask = draw(coco(*order).annotations_of("street"), IDS)
        assert (mask == 1).sum() == 4
        assert (mask == 2).sum() == 12
    same = [annotation(3, 10, [flat(square(0, 0, 2))]), annotation(4, 20, [flat(square(0, 0, 2))])]
    assert (draw(coco(*same).annotations_of("street"), IDS) == 2).sum() == 4  # equal areas: the later one


def test_crowds_are_ignored_where_no_other_object_lies(coco):
    crowd = annotation(1, 10, {"counts": [6, 12, 30], "size": [6, 8]}, iscrowd=1)  # the second and third column
    drawing = coco(crowd, annotation(2, 20, [flat(square(0, 0, 4))])).annotations_of("street")
    assert draw(drawing, IDS)[[0, 0, 5, 5], [0, 1, 1, 3]].tolist() == [2, 2, 255, 0]
    assert draw(drawing, IDS, crowd="class")[[0, 0, 5, 5], [0, 1, 1, 3]].tolist() == [2, 1, 1, 0]  # 12 pixels over 16
    assert draw(drawing, {"cat": 0, "dog": 2})[5, 1] == 0  # a crowd of nothing


def test_polygons_of_one_object_are_united(coco):
    both = annotation(1, 10, [flat(square(0, 0, 3)), flat(square(1, 1, 3))])
    assert draw(coco(both).annotations_of("street"), IDS).sum() == 9 + 9 - 4
    bare = annotation(1, 10, flat(square(0, 0, 3)))  # without the list around it
    assert draw(coco(bare).annotations_of("street"), IDS).sum() == 9


def coco_text(counts: list[int]) -> str:
    """COCO's text form of run lengths, digit by digit: signed base 32, lowest first, differences from the fourth on."""
    text = ""
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        while True:
            digit, number = number % 32, number // 32
            last = number == (-1 if digit >= 16 else 0)
            text += chr(48 + digit + (0 if last else 32))
            if last:
                break
    return text


def test_a_text_of_run_lengths_worked_by_hand(coco):
    """6 is one character, 48 + 6; so is 12. 30 = 0b11110 has the bit of the sign set, so a zero digit follows:
    48 + 30 + 32 and 48."""
    assert coco_text([6, 12, 30]) == "6<n0"
    drawing = coco(annotation(1, 10, {"counts": "6<n0", "size": [6, 8]})).annotations_of("street")
    expected = np.zeros((6, 8), np.uint8)
    expected[:, 1:3] = 1
    np.testing.assert_array_equal(draw(drawing, IDS), expected)


@settings(max_examples=50)
@given(data=st.data(), text=st.booleans())
def test_run_lengths_go_down_the_columns(tmp_path_factory, data, text):
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    pixels = np.random.default_rng(data.draw(st.integers(0, 10**6))).random((height, width)) < data.draw(
        st.floats(0, 1)
    )
    counts, inside = [0], False  # the plain definition
    for column in range(width):
        for row in range(height):
            if pixels[row, column] != inside:
                counts.append(0)
                inside = not inside
            counts[-1] += 1
    path = tmp_path_factory.mktemp("runs") / "a.json"
    runs = {"counts": coco_text(counts) if text else counts, "size": [height, width]}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [annotation(1, 1, runs)],
    }
    path.write_text(json.dumps(content))
    drawing = read_coco(path).annotations_of("a")
    np.testing.assert_array_equal(draw(drawing, IDS), pixels)
    assert sum(region.area() for region in drawing.regions) == pixels.sum()


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_pycocotools_text_is_read(seed, share):
    mask_api = pytest.importorskip("pycocotools.mask")
    pixels = np.random.default_rng(seed).random((45, 60)) < share
    runs = Runs(0, 0, (45, 60), run_lengths(mask_api.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()))
    np.testing.assert_array_equal(runs.pixels(), pixels)
    assert coco_text(runs.counts.tolist()) == mask_api.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([flat(square(0, 0, 2)), [0]], "annotation 5, part 2: its points are not pairs"),
        ([flat(square(90, 0, 2))], r"annotation 5: its point \(90, 0\) lies outside the image of 8x6"),
        ([[0, 0, 1, 1, 2]], "its points are not pairs of x and y"),
        ([["a", 0, 1, 1, 2, 2]], "its points are not numbers"),
        ([], "it has no outline"),
        (None, "it has no outline"),
        ({"counts": [8, 40], "size": [8, 6]}, r"for the size \[8, 6\], the image has \[6, 8\]"),
        ({"counts": [8, 4], "size": [6, 8]}, "its run lengths cover 12 pixels, the image has 48"),
        ({"counts": [-8, 56], "size": [6, 8]}, "its run lengths hold -8, which is negative"),
        ({"counts": [8.5, 39.5], "size": [6, 8]}, "its run lengths are not whole numbers"),
        ({"counts": ["8", 40], "size": [6, 8]}, "its run lengths are not whole numbers"),
        ({"counts": None, "size": [6, 8]}, "its run lengths are not whole numbers"),
        ({"counts": [], "size": [6, 8]}, "its run lengths are not whole numbers"),
        ({"counts": "6 <", "size": [6, 8]}, "its run lengths hold the character ' '"),
        ({"counts": "6<n", "size": [6, 8]}, "its run lengths end in the middle of a number"),
        ({"counts": "o" * 40 + "0", "size": [6, 8]}, "one of its run lengths has more than 7 characters"),
    ],
)
def test_what_is_no_coco_outline(coco, segmentation, message):
    drawing = coco(annotation(5, 10, segmentation), annotation(6, 20, [flat(square(4, 4, 1))])).annotations_of("street")
    with pytest.raises(DataError, match=message):
        draw(drawing, IDS)
    assert draw(replace(drawing, problems=()), IDS)[4, 4] == 2


def test_annotations_that_belong_nowhere_are_named(coco):
    file = coco(
        annotation(1, 10, [flat(square(0, 0, 2))], image=8),
        annotation(2, 11, [flat(square(0, 0, 2))]),
        annotation(3, 10, [flat(square(0, 0, 2))], image=[7]),
        annotation(4, 10, [flat(square(0, 0, 2))]),
    )
    assert file.problems == (
        "annotation 1: its image 8 is not in the file (there: 7, 9)",
        "annotation 2: its category 11 is not in the file (there: 10 cat, 20 dog)",
        "annotation 3: its image [7] is not in the file (there: 7, 9)",
    )
    assert len(file.annotations_of("street").regions) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "is not a COCO file with masks: it has no list annotations"),
        ({"images": 1, "categories": {}}, "it has no list images, categories"),
        ({"images": [{"id": 7}]}, "entry 1 of images lacks id or file_name"),
        ({"categories": [{"id": 10, "name": "cat"}, "dog"]}, "entry 2 of categories lacks id or name"),
        ({"categories": [{"id": 10, "name": "cat"}, {"id": 10, "name": "dog"}]}, "id 10 occurs twice in categories"),
        (
            {"images": [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": "b/x.png"}]},
            "two images named 'x': a/x.jpg and b/x.png",
        ),
        ({"annotations": [{"image_id": 7, "segments_info": []}]}, "it is a panoptic COCO file"),
        ({"annotations": [3]}, "entry 1 of annotations is not an object"),
    ],
)
def test_what_is_no_coco_file(coco, changes, message):
    with pytest.raises(DataError, match=message):
        coco(**changes)


def test_a_coco_image_without_a_size(coco):
    file = coco(images=[{"id": 7, "file_name": "street.jpg", "width": 8, "height": None}])
    with pytest.raises(DataError, match="has no height and width of street"):
        file.annotations_of("street")
    assert draw(file.annotations_of("street", (6, 8)), IDS).shape == (6, 8)


def test_a_drawing_is_small_and_travels(coco):
    drawing = coco(annotation(1, 10, [flat(square(0, 0, 2))])).annotations_of("street")
    again = pickle.loads(pickle.dumps(drawing))
    assert len(pickle.dumps(drawing)) < 1000
    np.testing.assert_array_equal(draw(again, IDS), draw(drawing, IDS))
    assert str(drawing).endswith("instances.json (train/street.jpg)")


def test_areas():
    triangle = Region("cat", "shape 1", (np.array([(1000, 0), (1004, 0), (1000, 3)]),))
    assert triangle.area() == 6
    drawing = Drawing(Path("a"), "a", (2, 2), (Region("cat", "x", runs=(Runs(0, 0, (2, 2), np.array([0, 1, 2, 1])),)),))
    assert draw(drawing, IDS).tolist() == [[1, 0], [0, 1]]


# --- ids, parts and labels as programs write them ---


@pytest.mark.parametrize("image_id", [0, "0", 0.0])
@pytest.mark.parametrize("category_id", [0, "0", 0.0])
def test_ids_join_whether_they_are_numbers_or_text(coco, image_id, category_id):
    for own in (0, "0", 0.0):
        file = coco(
            annotation(1, category_id, [flat(square(0, 0, 2))], image=image_id),
            images=[{"id": own, "file_name": "street.jpg", "width": 8, "height": 6}],
            categories=[{"id": own, "name": "cat"}],
        )
        assert not file.problems
        assert file.labels_of("street") == {"cat"}
        assert draw(file.annotations_of("street"), IDS).sum() == 4


def test_ids_that_only_look_alike_stay_apart(coco):
    images = [
        {"id": key, "file_name": f"{number}.jpg", "width": 8, "height": 6} for number, key in enumerate(["07", 7])
    ]
    file = coco(annotation(1, 10, [flat(square(0, 0, 2))], image="07"), images=images)
    assert [len(file.annotations_of(stem).regions) for stem in ("0", "1")] == [1, 0]
    for wrong in (True, None, 0.5, [7], float("nan")):
        assert (
            "is not in the file (there: 07, 7)" in coco(annotation(1, 10, [], image=wrong), images=images).problems[0]
        )


def test_an_entry_that_stands_twice_word_for_word_is_one(coco):
    image = {"id": 7, "file_name": "street.jpg", "width": 8, "height": 6}
    assert set(coco(images=[image, dict(image)]).image_ids) == {"street"}
    with pytest.raises(DataError, match="id 7 occurs twice in images"):
        coco(images=[image, image | {"width": 9}])


def test_a_list_of_run_lengths_is_their_union(coco):
    parts = [{"counts": [0, 6, 42], "size": [6, 8]}, {"counts": coco_text([42, 6]), "size": [6, 8]}]
    mask = draw(coco(annotation(1, 10, [*parts, flat(square(3, 0, 2))])).annotations_of("street"), IDS)
    expected = np.zeros((6, 8), np.uint8)
    expected[:, [0, 7]] = 1
    expected[:2, 3:5] = 1
    np.testing.assert_array_equal(mask, expected)


def test_a_part_of_two_points_is_left_out_and_said_and_the_rest_is_drawn(coco):
    drawing = coco(annotation(5, 10, [flat(square(0, 0, 2)), [0, 0, 1, 1], []])).annotations_of("street")
    assert not drawing.problems
    assert drawing.not_drawn == (
        "annotation 5, part 2: it has 2 points, a polygon has at least 3",
        "annotation 5, part 3: it has 0 points, a polygon has at least 3",
    )
    assert draw(drawing, IDS).sum() == 4


def test_a_labelme_polygon_of_two_points_is_left_out_and_said(labelme):
    drawing = read_labelme(labelme(shape("cat", [[0, 0], [1, 1]]), shape("dog", [], "circle")))
    assert not drawing.problems
    assert drawing.not_drawn == (
        "shape 1, 'cat': it has 2 points, a polygon has at least 3",
        "shape 2, 'dog': it has 0 points, a circle has 2",
    )


def test_an_annotation_of_a_box_alone_is_a_problem_that_names_the_box(coco):
    drawing = coco(annotation(5, 10, [], bbox=[1, 1, 2, 2])).annotations_of("street")
    assert drawing.problems == ("annotation 5: it has no outline, only a box (bbox); its segmentation is []",)


@pytest.mark.parametrize(
    ("value", "crowd"), [(0, False), ("0", False), (None, False), (1, True), ("1", True), (True, True)]
)
def test_iscrowd_may_be_text(coco, value, crowd):
    file = coco(annotation(1, 10, [flat(square(0, 0, 2))], iscrowd=value))
    assert file.annotations_of("street").regions[0].crowd is crowd


@pytest.mark.parametrize(("label", "expected"), [(3, "3"), (3.0, "3"), (" 3 ", "3"), (0, "0")])
def test_a_label_given_as_a_number_is_its_text(labelme, label, expected):
    assert read_labelme(labelme(shape(label, square(0, 0, 2)))).regions[0].label == expected


@pytest.mark.parametrize("label", [True, [1], {"name": "cat"}])
def test_a_label_that_is_neither_text_nor_number_is_named(labelme, label):
    drawing = read_labelme(labelme(shape(label, square(0, 0, 2))))
    assert drawing.problems == (f"shape 1: its label is {label!r}, expected text",)


def test_a_labelme_kind_that_is_not_known_is_a_problem_and_not_background(labelme):
    drawing = read_labelme(labelme(shape("cat", square(0, 0, 2), "cuboid")))
    assert drawing.problems == ("shape 1: it is of the kind 'cuboid', which is not read",)


# --- what is small in the file and huge in memory ---


@pytest.mark.parametrize("side", [1e6, 10**6, 1e300, float("inf"), float("nan"), -3, 0.5, True, [6], 10**400, "wide"])
def test_a_size_that_no_image_has_is_refused_at_once(labelme, coco, side):
    message = "at most 178,956,970 pixels are read|which is impossible"
    with pytest.raises(DataError, match=message) as caught:
        read_labelme(labelme(shape("cat", square(0, 0, 2)), imageHeight=side, imageWidth=10**6))
    assert "street.json" in caught.value.message
    file = coco(images=[{"id": 7, "file_name": "street.jpg", "width": 10**6, "height": side}])
    with pytest.raises(DataError, match=message) as caught:
        file.annotations_of("street")
    assert "instances.json (street.jpg)" in caught.value.message


def test_a_size_as_text_is_read_and_one_of_0_is_none(labelme):
    assert read_labelme(labelme(imageHeight="6", imageWidth=8.0)).size == (6, 8)
    assert read_labelme(labelme(imageHeight=0, imageWidth=0), (3, 4)).size == (3, 4)


def test_two_million_characters_of_run_lengths_are_read_in_one_pass():
    lengths = run_lengths("1" * 2_000_000)
    assert len(lengths) == 2_000_000
    assert lengths[:6].tolist() == [1, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="one of its run lengths has more than 7 characters"):
        run_lengths("o" * 2_000_000 + "0")


@pytest.mark.parametrize(
    "counts", [[[1], [1, 2]], [10**30, 1], [10**18] * 20, [None], {}, 7, [True, False], ["\ud800"]]
)
def test_ragged_and_huge_run_lengths_are_problems(coco, counts):
    drawing = coco(annotation(5, 10, {"counts": counts, "size": [6, 8]})).annotations_of("street")
    assert len(drawing.problems) == 1
    assert drawing.problems[0].startswith("annotation 5: its run lengths ")


def test_a_polygon_of_many_points_is_drawn_and_one_that_crosses_every_row_many_times_is_not(labelme):
    angles = np.linspace(0, 2 * math.pi, 200_000, endpoint=False)
    ring = np.stack([50 + 40 * np.cos(angles), 50 + 40 * np.sin(angles)], axis=1)
    size = {"imageHeight": 100, "imageWidth": 100}
    drawing = read_labelme(labelme(shape("cat", ring.tolist()), **size))
    rows, columns = np.mgrid[:100, :100] + 0.5
    np.testing.assert_array_equal(draw(drawing, IDS) == 1, np.hypot(columns - 50, rows - 50) < 40)
    for far in (1, 99), (99, 1):
        zigzag = [[1, 1], list(far)] * 50_000
        drawing = read_labelme(labelme(shape("cat", zigzag), **size))
        assert drawing.problems == ("shape 1: its outline is 9,799,902 pixels long; at most 4,000,000 are drawn",)


def test_a_circle_larger_than_the_image_is_a_problem(labelme):
    for rim in ([1e9, 0], [1e308, -1e308], [float("inf"), 0]):
        drawing = read_labelme(labelme(shape("cat", [[1, 1], rim], "circle")))
        assert len(drawing.problems) == 1


def test_a_mask_that_unpacks_to_more_than_its_image_is_refused_by_its_header(labelme):
    text = png_text(np.zeros((4000, 4000), bool))
    drawing = read_labelme(labelme(shape("cat", [[0, 0], [1, 1]], "mask", mask=text)))
    assert drawing.problems == ("shape 1: its mask has 4000x4000 pixels, more than the 8x6 it may cover",)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"shapes": ' * 100_000, '{"shapes": [' + "[" * 50_000 + "]" * 50_000 + "]}"]
)
def test_lists_nested_a_hundred_thousand_deep_are_refused(tmp_path, text):
    path = tmp_path / "deep.json"
    path.write_text(text)
    for read in (read_labelme, read_coco):
        with pytest.raises(DataError, match=r"deep\.json nests lists deeper than can be read"):
            read(path)


def test_points_that_numpy_cannot_hold_are_problems(labelme, coco):
    for points in ([[10**400, 1], [2, 2], [3, 1]], [["x", 1], [2, 2], [3, 1]], [[None, 1], [2, 2], [3, 1]]):
        assert len(read_labelme(labelme(shape("cat", points))).problems) == 1
        assert len(coco(annotation(1, 10, [flat(points)])).annotations_of("street").problems) == 1
