"""CVAT's XML by hand, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.draw import ellipse as skimage_ellipse
from skimage.draw import polygon as skimage_polygon

from artifacts.errors import DataError
from stages.data.annotations.annotation_places import format_of
from stages.data.annotations.cvat import CvatFile, read_cvat
from stages.data.annotations.drawing import draw

IDS = {"cat": 1, "dog": 2}


@pytest.fixture
def cvat(tmp_path: Path):
    """cvat(shapes) is a file of one image street.jpg, 8x6 (width x height), and a second one without shapes."""

    def read(shapes: str, size: str = 'width="8" height="6"', before: str = "") -> CvatFile:
        path = tmp_path / "annotations.xml"
        path.write_text(
            f'<?xml version="1.0" encoding="utf-8"?>{before}<annotations><version>1.1</version><meta><project><labels>'
            "<label><name>dog</name><color>#ff0000</color></label><label><name>cat</name></label></labels></project>"
            f'</meta><image id="0" name="sub/street.jpg" {size}>{shapes}</image>'
            '<image id="1" name="yard.png" width="4" height="3"></image></annotations>'
        )
        return read_cvat(path)

    return read


def test_every_cvat_shape_with_an_area_is_drawn(cvat):
    file = cvat(
        '<polygon label="cat" points="0,0;3,0;3,2;0,2" group_id="4"><attribute name="a">b</attribute></polygon>'
        '<box label="dog" xtl="4" ytl="0" xbr="6" ybr="1" occluded="1"/>'
        '<mask label="dog" rle="1, 2, 2, 1" left="1" top="3" width="3" height="2"/>'
    )
    assert file.labels == ("dog", "cat")
    assert file.undrawn == ("yard",)
    assert draw(file.drawings["street"], IDS).tolist() == [
        [1, 1, 1, 0, 2, 2, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 2, 2, 0, 0, 0, 0],  # run lengths go along the rows
        [0, 0, 0, 2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_higher_z_order_lies_on_top_and_else_the_later_shape(cvat):
    upper = '<box label="cat" xtl="0" ytl="0" xbr="2" ybr="2" z_order="1"/>'
    lower = '<box label="dog" xtl="1" ytl="0" xbr="3" ybr="2" z_order="0"/>'
    for shapes in (upper + lower, lower + upper):
        assert draw(cvat(shapes).drawings["street"], IDS)[0].tolist() == [1, 1, 2, 0, 0, 0, 0, 0]
    later = cvat(upper + lower.replace('z_order="0"', 'z_order="1"'))
    assert draw(later.drawings["street"], IDS)[0].tolist() == [1, 2, 2, 0, 0, 0, 0, 0]


def test_masks_and_polygons_of_several_labels_overlap_by_z_order(cvat):
    mask = '<mask label="cat" rle="0,4" left="1" top="0" width="2" height="2" z_order="{}"/>'
    polygon = '<polygon label="dog" points="2,0;4,0;4,2;2,2" z_order="{}"/>'
    for shapes in (mask.format(2) + polygon.format(1), polygon.format(1) + mask.format(2)):
        assert draw(cvat(shapes).drawings["street"], IDS)[1].tolist() == [0, 1, 1, 2, 0, 0, 0, 0]
    assert draw(cvat(mask.format(1) + polygon.format(1)).drawings["street"], IDS)[1].tolist()[:4] == [0, 1, 2, 2]


def test_shapes_marked_as_outside_are_told_and_not_drawn(cvat):
    drawing = cvat(
        '<box label="cat" xtl="0" ytl="0" xbr="2" ybr="2" outside="0"/>'
        '<box label="dog" xtl="0" ytl="0" xbr="2" ybr="2" outside="1"/>'
    ).drawings["street"]
    assert [region.label for region in drawing.regions] == ["cat"]
    assert drawing.not_drawn == ("box 2, 'dog': it is marked as outside of the image",)


def test_turned_boxes_and_ellipses_turn_clockwise(cvat):
    """scikit-image turns counter-clockwise with rows downwards."""
    size = 'width="60" height="50"'
    shapes = '<ellipse label="cat" cx="30.25" cy="25.25" rx="20" ry="8" rotation="30"/>'
    expected = np.zeros((50, 60), bool)
    expected[skimage_ellipse(24.75, 29.75, 8, 20, expected.shape, rotation=-np.radians(30))] = True
    np.testing.assert_array_equal(draw(cvat(shapes, size).drawings["street"], IDS) == 1, expected)
    shapes = '<box label="cat" xtl="10.25" ytl="20.25" xbr="50.25" ybr="30.25" rotation="90"/>'
    expected = np.zeros((50, 60), bool)
    expected[skimage_polygon([4.75, 4.75, 44.75, 44.75], [24.75, 34.75, 34.75, 24.75], expected.shape)] = True
    np.testing.assert_array_equal(draw(cvat(shapes, size).drawings["street"], IDS) == 1, expected)


def test_lines_points_and_tags_are_told_and_not_drawn(cvat):
    drawing = cvat(
        '<polyline label="cat" points="0,0;1,1"/><points label="dog" points="0,0"/><tag label="cat"/>'
        '<polygon label="cat" points="0,0;1,1"/>'
    ).drawings["street"]
    assert drawing.not_drawn == (
        "polyline 1, 'cat': it is a polyline and has no area",
        "points 2, 'dog': it is a points and has no area",
        "tag 3, 'cat': it is a tag and has no area",
        "polygon 4, 'cat': it has 2 points, a polygon has at least 3",
    )
    assert not drawing.problems


def test_an_image_tagged_background_was_looked_at_and_shows_nothing(cvat):
    drawing = cvat('<tag label="background"/>').drawings["street"]
    assert (drawing.regions, drawing.not_drawn) == ((), ())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon points="0,0;1,1;2,0"/>', "it has no label"),
        ('<polygon label="cat" points="0,0;1;2,0"/>', "its points are not pairs of x and y"),
        ('<polygon label="cat" points="0,a;1,1;2,0"/>', "its points are not numbers"),
        ('<polygon label="cat" points="0,nan;1,1;2,0"/>', "a point of it is not finite"),
        ('<polygon label="cat" points="0,0;100,1;2,0"/>', "lies outside the image of 8x6"),
        ('<box label="cat" xtl="0" ytl="0" xbr="2"/>', "its ybr is missing, expected a number"),
        ('<box label="cat" xtl="0" ytl="0" xbr="2" ybr="inf"/>', "its ybr is not finite"),
        ('<ellipse label="cat" cx="1" cy="1" rx="1e9" ry="1"/>', "its radius 1e+09 is larger than the image"),
        (
            '<mask label="cat" rle="1,1" left="0" top="0" width="3" height="2"/>',
            "its run lengths cover 2 pixels, its box has 6",
        ),
        ('<mask label="cat" rle="-1,7" left="0" top="0" width="3" height="2"/>', "hold -1, which is negative"),
        ('<mask label="cat" rle="1;7" left="0" top="0" width="3" height="2"/>', "are not whole numbers"),
        ('<mask label="cat" rle="1" left="0" top="0" width="1e9" height="1e9"/>', "lies outside the image of 8x6"),
        ('<blob label="cat"/>', "it is of a kind that is not read"),
    ],
)
def test_what_is_no_cvat_shape(cvat, shape, message):
    drawing = cvat(shape).drawings["street"]
    assert len(drawing.problems) == 1
    assert message in drawing.problems[0]


def test_a_cvat_image_of_a_size_that_no_image_has(cvat):
    for size in ('width="1000000" height="1000000"', 'width="inf" height="6"', 'width="-8" height="6"'):
        with pytest.raises(DataError, match=r"annotations\.xml \(sub/street\.jpg\) has the size"):
            cvat('<tag label="cat"/>', size)


def test_entities_are_refused_before_any_is_expanded(cvat):
    laughs = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(DataError, match=r"annotations\.xml is refused: it declares a document type"):
        cvat('<tag label="&i;"/>', before=laughs + "]>")
    with pytest.raises(DataError, match="it declares a document type"):
        cvat("", before='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>')


def test_xml_in_utf_16_is_read(cvat, tmp_path):
    path = cvat('<tag label="cat"/>').path
    path.write_text(path.read_text().replace('encoding="utf-8"', 'encoding="utf-16"'), encoding="utf-16")
    assert list(read_cvat(path).drawings) == ["street"]
    assert format_of(path) == "cvat"


def test_two_cvat_images_of_one_name(cvat):
    with pytest.raises(DataError, match="two images named 'street'"):
        cvat('</image><image id="3" name="other/street.png" width="8" height="6">')
