"""Image-level labels from XML, text files and masks."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.errors import DataError
from stages.data.config import VOC_CLASS_NAMES
from stages.data.labels import read_label_file, read_label_table, read_xml, tags_of_mask


def test_xml_counts_difficult_objects_but_no_body_parts(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><object><name>cat</name><difficult>1</difficult></object>"
        "<object><name>person</name><part><name>head</name></part></object>"
        "<object><name>cat</name></object></annotation>"
    )
    assert read_xml(path, VOC_CLASS_NAMES) == {"cat", "person"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("<annotation><object>", "is damaged"), ("<a><object><name>unicorn</name></object></a>", "'unicorn' is no class")],
)
def test_xml_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_xml(path, VOC_CLASS_NAMES)
    with pytest.raises(DataError, match="is missing"):
        read_xml(tmp_path / "b.xml", VOC_CLASS_NAMES)


def test_label_file_with_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("2007_000063 chair dog\n2007_000064.jpg\n/JPEGImages/x.jpg cat\n")
    assert read_label_file(path, VOC_CLASS_NAMES) == {
        "2007_000063": {"chair", "dog"},
        "2007_000064": set(),
        "x": {"cat"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 0 14\nb 19\n", {"a": {"aeroplane", "person"}, "b": {"tvmonitor"}}),
        ("a 1 15\nb 20\n", {"a": {"aeroplane", "person"}, "b": {"tvmonitor"}}),
    ],
)
def test_label_file_with_numbers_from_0_or_from_1(tmp_path, text, expected):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    assert read_label_file(path, VOC_CLASS_NAMES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 3\nb 4\n", r"class numbers 3..4 may count from 0 or from 1"),
        ("a 0\nb 20\n", r"class numbers 0..20, expected 0..19 or 1..20"),
        ("a 21\n", "expected 0..19 or 1..20"),
        ("a cat\nb unicorn\n", r"line 2: 'unicorn' is no class"),
        ("a cat\na dog\n", "line 2: id a has labels already"),
        ("a background\n", "'background' is no class"),
    ],
)
def test_label_file_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_file(path, VOC_CLASS_NAMES)


def test_tags_of_a_mask():
    assert tags_of_mask(np.array([[0, 255, 7], [3, 7, 0]], np.uint8)) == (3, 7)
    assert tags_of_mask(np.array([[0, 255], [255, 255]], np.uint8)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,cat,dog\nb.jpg,\nc.jpg,cat",
        "a.jpg,cat dog\nb.jpg\nc.jpg,cat\n",
        "a cat dog\nb\nc cat\n",
        "image,labels\na.jpg,cat;dog\nb.jpg,\nc.jpg,cat\n",
        "filename;labels\r\na.jpg;cat|dog\r\nb.jpg;\r\nc.jpg;cat\r\n",
        "image,cat,dog\na.jpg,1,1\nb.jpg,0,0\nc.jpg,1,0\n",
        "\ufeffimage\tcat\tdog\nphotos/a.jpg\t1\t1\nphotos/b.jpg\t\t\nphotos/c.jpg\t1\t\n",
    ],
)
def test_label_tables_of_every_kind(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = read_label_table(path)
    assert table.labels == {"a": {"cat", "dog"}, "b": set(), "c": {"cat"}}
    assert table.class_names == ("cat", "dog")


def test_names_of_several_words(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("a,traffic light\nb,car\n")
    assert read_label_table(path, known=["traffic light", "car"]).class_names == ("car", "traffic light")
    path.write_text("a,traffic light,car\nb,car\n")
    assert read_label_table(path).class_names == ("car", "traffic light")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,cat\na.png,dog\n", "line 2: id a has labels already"),
        ("image,cat,dog\na,1\n", "line 2: 2 cells, expected 3"),
        ("image,cat,cat\na,1,0\n", "expected distinct class names"),
        ("a,1\nb,2\n", "has numbers for labels: 1, 2"),
        ("", "is empty"),
    ],
)
def test_label_tables_that_cannot_be_meant(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_table(path)
