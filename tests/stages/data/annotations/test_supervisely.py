"""Supervisely's JSON by hand, and what is no such file."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import DataError
from stages.data.annotations.drawing import Drawing, draw
from stages.data.annotations.supervisely import is_undrawn, read_classes, read_supervisely

IDS = {"cat": 1, "dog": 2}


def packed(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()


def outline(*points: list[float], holes: Any = ()) -> dict[str, Any]:
    return {"geometryType": "polygon", "points": {"exterior": list(points), "interior": list(holes)}}


def bitmap(data: Any, left: Any = 0, top: Any = 0) -> dict[str, Any]:
    return {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}


@pytest.fixture
def supervisely(tmp_path: Path):
    """supervisely(*objects) is the drawing of an image of 8x6 (width x height); objects of no class are cats."""

    def read(*objects: Any, **changes: Any) -> Drawing:
        path = tmp_path / "ds" / "ann" / "street.jpg.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = [{"classTitle": "cat"} | one if isinstance(one, dict) else one for one in objects]
        content = {"description": "", "tags": [], "size": {"height": 6, "width": 8}, "objects": named} | changes
        path.write_text(json.dumps(content))
        return read_supervisely(path)

    return read


def test_whole_numbers_are_pixels_and_an_outline_covers_those_it_runs_through(supervisely):
    drawing = supervisely(
        outline([1, 0], [5, 0], [5, 4], [1, 4], holes=[[[2, 1], [4, 1], [4, 3], [2, 3]]]),
        {"geometryType": "rectangle", "classTitle": "dog", "points": {"exterior": [[6, 5], [7, 4]], "interior": []}},
    )
    assert drawing.image == "street.jpg"
    assert draw(drawing, IDS).tolist() == [
        [0, 1, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 2, 2],
        [0, 0, 0, 0, 0, 0, 2, 2],
    ]


def test_numbers_with_a_fraction_are_those_of_the_labelling_tool(supervisely):
    drawing = supervisely(outline([1.0, 0.25], [5.0, 0.25], [5.0, 4.0], [1.0, 4.0]))
    expected = np.zeros((6, 8), np.uint8)
    expected[:4, 1:5] = 1
    np.testing.assert_array_equal(draw(drawing, IDS), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_a_bitmap_lies_at_its_origin_whatever_its_png_holds(supervisely, mode):
    blob = np.array([[1, 0, 1], [1, 1, 0]], np.uint8)
    options: dict[str, Any] = {}
    if mode == "RGBA":  # the alpha channel says it
        image = Image.fromarray(np.stack([np.full_like(blob, 9)] * 3 + [blob * 255], axis=-1))
    elif mode == "P":  # as Supervisely's SDK writes: index 0 is transparent
        image, options = Image.fromarray(blob, "P"), {"transparency": 0}
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = Image.fromarray(blob * 255).convert(mode)
    mask = draw(supervisely(bitmap(packed(image, **options), 4, 1)), IDS)
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 4:7] = blob
    np.testing.assert_array_equal(mask, expected)


def test_later_objects_lie_over_earlier_ones_and_lines_are_told(supervisely):
    drawing = supervisely(
        outline([0, 0], [3, 0], [3, 3], [0, 3]),
        outline([2, 2], [5, 2], [5, 5], [2, 5]) | {"classTitle": "dog"},
        {"geometryType": "line", "points": {"exterior": [[0, 0], [1, 1]], "interior": []}},
        outline([0, 0], [1, 1]),
    )
    assert draw(drawing, IDS)[2].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    assert drawing.not_drawn == (
        "object 3, 'cat': it is a line and has no area",
        "object 4, 'cat': it has 2 points, a polygon has at least 3",
    )


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("cat", "it has no class"),
        ({"classTitle": 3}, "it has no class"),
        (outline([0, 0], [100, 1], [2, 2]), "lies outside the image of 8x6"),
        (outline([0, 0], ["x", 1], [2, 2]), "its points are not numbers"),
        ({"geometryType": "polygon", "points": [[0, 0], [1, 1]]}, "its points are not pairs"),
        (outline([0, 0], [5, 1], [2, 2], holes=[[[0, None]]]), "a point of it is not finite"),
        ({"geometryType": "rectangle", "points": {"exterior": [[0, 0]]}}, "it has 1 points, a rectangle has 2"),
        ({"geometryType": "alpha_mask"}, "it is of the kind 'alpha_mask', which is not read"),
        (bitmap("***"), "its bitmap is not a PNG packed in zlib and base64"),
        (bitmap(7), "its bitmap is not a PNG packed in zlib and base64"),
        (bitmap(base64.b64encode(zlib.compress(b"GIF89a")).decode()), "its mask is not a PNG"),
        (bitmap(packed(Image.new("1", (3, 2))), "a", 0), "its points are not numbers"),
        (bitmap(packed(Image.new("1", (3, 2))), 90, 0), "lies outside the image"),
        ({"geometryType": "bitmap", "bitmap": 7}, "it has no bitmap"),
    ],
)
def test_what_is_no_supervisely_object(supervisely, one, message):
    drawing = supervisely(one)
    assert len(drawing.problems) == 1
    assert message in drawing.problems[0]


def test_a_bitmap_that_unpacks_to_gigabytes_is_refused_after_as_much_as_its_image_may_have(supervisely):
    bomb = base64.b64encode(zlib.compress(bytes(100_000_000))).decode()
    assert "its bitmap unpacks to more than 65,920 bytes" in supervisely(bitmap(bomb)).problems[0]
    large = packed(Image.new("1", (5000, 5000)))
    assert "its mask has 5000x5000 pixels, more than the 8x6 it may cover" in supervisely(bitmap(large)).problems[0]


def test_a_supervisely_image_of_a_size_that_no_image_has(supervisely):
    for side in (1e6, float("inf"), -1):
        with pytest.raises(DataError, match=r"street\.jpg\.json has the size"):
            supervisely(size={"height": side, "width": 10**6})
    with pytest.raises(DataError, match="has no size of its image"):
        supervisely(size=None)


def test_classes_are_those_of_the_project_in_its_order(supervisely, tmp_path):
    path = supervisely().path
    assert read_classes(path.parent) == ()
    classes = [{"title": "dog", "shape": "any"}, {"title": "cat", "shape": "polygon"}]
    (tmp_path / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    assert read_classes(path.parent) == ("dog", "cat")


def test_an_image_without_objects_counts_as_not_annotated_unless_it_is_tagged(supervisely):
    assert is_undrawn(supervisely().path)
    assert not is_undrawn(supervisely(tags=[{"name": "background"}]).path)
    assert not is_undrawn(supervisely(outline([0, 0], [1, 1])).path)
