"""YOLO's text files: polygons against scikit-image, the names of the classes, lines that are no masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.draw import polygon as skimage_polygon

from artifacts.errors import DataError
from stages.data.annotations.drawing import draw
from stages.data.annotations.formats import is_yolo
from stages.data.annotations.yolo import read_yolo, read_yolo_names

SIZE = (12, 20)
NAMES = ("cat", "dog")
IDS = {"background": 0, "cat": 1, "dog": 2}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_shares_of_the_image_and_small_ones_lie_on_top(tmp_path, seed):
    rng = np.random.default_rng(seed)
    large = np.array([(0.02, 0.03), (0.98, 0.02), (0.97, 0.96), (0.04, 0.97)])
    small = rng.uniform(0.2, 0.8, (3, 2))
    lines = [f"{number} {' '.join(map(repr, points.ravel().tolist()))}" for number, points in ((1, small), (0, large))]
    expected = np.zeros(SIZE, np.uint8)
    for value, points in ((1, large), (2, small)):
        expected[skimage_polygon(points[:, 1] * SIZE[0] - 0.5, points[:, 0] * SIZE[1] - 0.5, SIZE)] = value
    drawing = read_yolo(write(tmp_path, "\ufeff" + "\n\n".join(lines) + "\r\n"), SIZE, NAMES)
    np.testing.assert_array_equal(draw(drawing, IDS), expected)


def test_an_empty_file_is_an_image_without_objects(tmp_path):
    drawing = read_yolo(write(tmp_path, "\n"), SIZE, NAMES)
    assert (drawing.regions, drawing.problems) == ((), ())
    assert (draw(drawing, IDS) == 0).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "it is a box, which is not a mask"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.9", "no pairs of x and y .*confidence"),
        ("2 0.1 0.1 0.2 0.1 0.2 0.2", "its class is 2, there are 2: cat, dog"),
        ("99999999999999 0.1 0.1 0.2 0.1 0.2 0.2", "its class is 999999999, there are 2"),
        ("cat 0.1 0.1 0.2 0.1 0.2 0.2", "begins with 'cat', expected the number of a class"),
        ("0 0.1 0.1 1.9 0.1 0.2 0.2", r"its point \(38, 1.2\) lies outside the image of 20x12"),
        ("0 0.1 0.1 x 0.1 0.2 0.2", "points are not numbers"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "not finite"),
    ],
)
def test_lines_that_are_no_masks_are_named(tmp_path, line, message):
    drawing = read_yolo(write(tmp_path, f"1 0.1 0.1 0.5 0.1 0.5 0.5\n{line}\n"), SIZE, NAMES)
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        draw(drawing, IDS)


def test_a_line_of_two_points_is_a_box_by_its_length(tmp_path):
    assert "box" in read_yolo(write(tmp_path, "0 0.1 0.1 0.5 0.5"), SIZE, NAMES).problems[0]


def test_what_is_no_text_is_damaged(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"0 0.1 \xff")
    with pytest.raises(DataError, match="is damaged"):
        read_yolo(path, SIZE, NAMES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ndog\n\n"),
        ("data.yaml", "train: ../train\nnc: 2\nnames: [cat, dog]\n"),
        ("data.yaml", "path: x\nnames:\n  1: dog\n  0: cat\n"),
        ("obj.names", "cat\ndog"),
    ],
)
@pytest.mark.parametrize("folder", [".", "labels", "labels/train"])
def test_names_are_found_in_the_folder_and_above_it(tmp_path, name, text, folder):
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert read_yolo_names(tmp_path / folder) == NAMES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.txt", "", "the names of the classes .* are not known"),
        ("data.yaml", "names: {0: cat, 2: dog}", "not numbered 0, 1, 2"),
        ("data.yaml", "nc: 2", "not numbered 0, 1, 2"),
        ("classes.txt", "background\ncat\n", "begins with background, so it may be a class table"),
    ],
)
def test_names_that_are_not_known(tmp_path, name, text, message):
    (tmp_path / "labels").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_yolo_names(tmp_path / "labels")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0.5 0.5 0.1 0.1", True),
        ("\n12 0.1 .2 1e-3 1 0 1\n", True),
        ("0 " + "0.123456 " * 1000, True),
        ("IMG_1.jpg cat dog a b", False),
        ("0.5 0.5 0.5 0.1 0.1", False),
        ("1 2 3", False),
        ("", False),
    ],
)
def test_files_are_yolo_s_by_their_first_line(text, expected):
    assert is_yolo(text.encode()) == expected
