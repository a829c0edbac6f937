"""Image-level labels from XML, text files and masks."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.errors import DataError
from stages.data.annotations.image_labels import label_source, read_label_file, read_label_table, read_xml, tags_of_mask
from stages.data.config import VOC_CLASS_NAMES
from stages.data.lists.id_lists import Names


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
    [
        ("<annotation><object>", "is damaged"),
        ("<a><object><name>unicorn</name></object></a>", "'unicorn' is not a class"),
    ],
)
def test_xml_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_xml(path, VOC_CLASS_NAMES)
    with pytest.raises(DataError, match="is missing"):
        read_xml(tmp_path / "b.xml", VOC_CLASS_NAMES)


def test_headings_of_another_language_are_named_as_such(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("Datei;Klasse\na.jpg;cat\nb.jpg;dog\n")
    with pytest.raises(DataError, match=r"line 1.*'Klasse' is not a class") as caught:
        read_label_table(path, ["cat", "dog"], Names(["a", "b"]))
    assert "where line 1 names the columns, write `file,label` there" in str(caught.value.hint)
    path.write_text("a.jpg;kitten\nb.jpg;dog\n")
    with pytest.raises(DataError) as caught:
        read_label_table(path, ["cat", "dog"], Names(["a", "b"]))
    assert "line 1" not in str(caught.value.hint)


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
        ("a cat\nb unicorn\n", r"line 2: 'unicorn' is not a class"),
        ("a background\n", "'background' is not a class"),
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


# ------------------------------------------------------------------------------------------------- marks and names

IMAGES = ("a", "b", "photo", "photo 1", "red,green", "IMG (1)", "image")


def table(tmp_path, text, known=(), uncertain="refuse"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return read_label_table(path, known, Names(IMAGES), uncertain)


def refusal(tmp_path, text, known=(), uncertain="refuse"):
    with pytest.raises(DataError) as caught:
        table(tmp_path, text, known, uncertain)
    return f"{caught.value.message} | {caught.value.hint}"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize(
    ("yes", "no"),
    [("yes", "no"), ("Y", "n"), ("TRUE", "False"), ("t", "F"), ("x", "-"), ("1.0", "0.0"), ("1", "0"), ("+", "-")],
)
def test_words_for_yes_and_no_are_marks_and_no_classes(tmp_path, separator, yes, no):
    rows = [["file", "cat", "dog"], ["a.png", yes, no], ["photo 1", no, no], ["b", yes, yes]]
    found = table(tmp_path, "\n".join(separator.join(row) for row in rows))
    assert found.class_names == ("cat", "dog")
    assert found.labels == {"a": {"cat"}, "photo 1": set(), "b": {"cat", "dog"}}
    assert found.notes == ()


@pytest.mark.parametrize("odd", ["0.93", "2", "maybe", "cat", "1e9", "0,5"])
def test_one_odd_cell_does_not_turn_a_table_of_marks_into_one_of_names(tmp_path, odd):
    said = refusal(tmp_path, f'file,cat,dog\na,1,0\nb,"{odd}",1\n')
    assert f"labels.csv, line 3, column 'cat': '{odd}' is not a mark" in said
    assert ("threshold" in said) == (odd in ("0.93", "0,5"))


def test_every_odd_cell_is_named_up_to_five(tmp_path):
    said = refusal(tmp_path, "file,cat,dog\na,0.1,0.9\nb,0.2,0.8\nphoto,0.3,0.7\n")
    assert said.count("is not a mark") == 5
    assert "and 1 more" in said


@pytest.mark.parametrize("mark", ["-1", "-1.0", "?", "u", "uncertain", "nan", "NaN", "N/A", "null"])
def test_uncertain_labels_are_what_the_setting_says(tmp_path, mark):
    text = f"file,cat,dog\na,1,0\nb,{mark},1\n"
    said = refusal(tmp_path, text)
    assert f"line 3, column 'cat': '{mark}' is uncertain" in said
    assert "--set dataset.uncertain_labels=absent" in said
    for meant, labels in (("absent", {"dog"}), ("present", {"cat", "dog"})):
        found = table(tmp_path, text, uncertain=meant)
        assert found.labels == {"a": {"cat"}, "b": labels}
        assert f"read as {meant}: 1 uncertain label" in found.notes[0]


def test_an_empty_cell_among_marks_is_absent_and_said(tmp_path):
    found = table(tmp_path, "file,cat,dog\na,1,0\nb,,1\n")
    assert found.labels == {"a": {"cat"}, "b": {"dog"}}
    assert "read as absent labels: 1 empty cell" in found.notes[0]
    assert table(tmp_path, "file,cat,dog\na,x,\nb,,x\n").notes == ()  # where absence is never written otherwise


def test_rows_of_one_image_are_put_together_and_counted(tmp_path):
    found = table(tmp_path, "image_id,label\na.png,cat\na,dog\nb,\na.jpg,cat\n")
    assert found.labels == {"a": {"cat", "dog"}, "b": set()}
    assert "2 rows name an image of an earlier row; their labels are joined: a" in found.notes[0]
    found = table(tmp_path, "image,cat,dog\na,1,0\na,0,1\nb,0,0\n")
    assert found.labels == {"a": {"cat", "dog"}, "b": set()}
    assert "present in one row and absent in another, read as present: a (cat, dog)" in found.notes[-1]


def test_marks_without_a_column_a_class_are_no_classes(tmp_path):
    assert "line 1, cell 2: 'yes' is not the name of a class" in refusal(tmp_path, "a.png,yes,no\nb.png,no,yes\n")
    assert "line 2, column 'label': 'true' is not the name of a class" in refusal(
        tmp_path, "file,label\na,true\nb,cat\n"
    )
    assert "column 'label': 'none' is not the name" in refusal(tmp_path, "file,label\na,none\nb,cat\n")
    assert "has numbers for labels: 0, 1" in refusal(tmp_path, "file,label\na,0\nb,1\n")
    assert "'0.5' is not the name of a class" in refusal(tmp_path, "a,cat\nb,0.5\n")
    assert "'-' is not the name of a class" in refusal(tmp_path, "a.png - cat\n")
    assert "'cat', 'dog' are not classes" in refusal(tmp_path, "file,cat,dog\na,ja,nein\n")


@pytest.mark.parametrize(
    ("header", "row", "wrong"),
    [
        ("file,cat,dog,width,height", "a,1,0,640,480", "'width', 'height'"),
        ("file,cat,split", "a,1,train", "'split'"),
        ("file,url,cat", "a,http://x,1", "'url'"),
        ("filename,width,height,class,xmin", "a,640,480,cat,3", "'width', 'height', 'xmin'"),
    ],
)
def test_columns_of_other_things_are_refused_by_name(tmp_path, header, row, wrong):
    assert f"the columns {wrong} are not classes" in refusal(tmp_path, f"{header}\n{row}\n")


def test_columns_and_cells_are_classes_of_the_table_where_there_is_one(tmp_path):
    known = ("background", "cat", "dog", "red car")
    said = refusal(tmp_path, "file,Cat,dog\na,1,0\n", known)
    assert "the columns 'Cat' are not classes" in said
    assert "did you mean cat for Cat" in said
    assert "'is_train'" in refusal(tmp_path, "file,cat,is_train\na,1,0\n", known)
    said = refusal(tmp_path, "file,labels\na,cat;cow\nb,Dog\n", known)
    assert "line 2, column 'labels': 'cow' is not a class" in said
    assert "line 3, column 'labels': 'Dog' is not a class" in said
    assert table(tmp_path, "file,first,second\na,cat,dog\nb,,red car\n", known).labels["b"] == {"red car"}
    assert table(tmp_path, "photo 1 red car cat\nb\n", known).labels == {"photo 1": {"red car", "cat"}, "b": set()}
    assert table(tmp_path, "file,red car\na,1\nb,0\n", known).labels == {"a": {"red car"}, "b": set()}


@pytest.mark.parametrize("cells", ["a,Cat\nb,cat", "a,red car\nb,redcar", "a,red car\nb,Red Car"])
def test_classes_that_differ_in_case_or_spaces_alone_are_refused(tmp_path, cells):
    assert "differ only in case or spaces" in refusal(tmp_path, f"file,label\n{cells}\n")


@pytest.mark.parametrize(
    "text",
    [
        ",file,cat,dog\n0,a.png,1,0\n1,photo 1.png,0,1\n",
        "Unnamed: 0,file,label\n0,a.png,cat\n1,photo 1.png,dog\n",
        "id,filename,cat,dog\n17,a.png,1,0\n18,photo 1.png,0,1\n",
    ],
)
def test_a_column_that_numbers_the_rows_is_no_class_and_said(tmp_path, text):
    found = table(tmp_path, text)
    assert found.labels == {"a": {"cat"}, "photo 1": {"dog"}}
    assert "column 1 numbers the rows and is not used" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "label,filename\ncat,a.png\ndog,photo 1.png\n",
        "cat,dog,file\n1,0,a.png\n0,1,photo 1.png\n",
        "sep=;\nfile;cat;dog\na;1;0\nphoto 1;0;1\n",
        "file,cat,dog,\na,1,0,\nphoto 1,0,1,\n,,,\n",
        "a,\"['cat']\"\nphoto 1,\"['dog']\"\n",
        "'a' cat\n'photo 1' dog\n",
        "\ufefffile|label\r\na.PNG|cat\r\nphotos/photo 1.tif|dog\r\n",
    ],
)
def test_tables_of_further_programs(tmp_path, text):
    assert table(tmp_path, text).labels == {"a": {"cat"}, "photo 1": {"dog"}}


def test_ids_with_what_parts_the_cells_are_read_where_they_are_known(tmp_path):
    expected = {"red,green": {"cat"}, "IMG (1)": {"dog"}, "photo": {"cat"}, "photo 1": {"dog"}}
    for line in ("{}.jpg,{}", "{}.jpg;{}", "{} {}", '"{}",{}', "{}\t{}"):
        text = "".join(line.format(i, *names) + "\n" for i, names in expected.items())
        assert table(tmp_path, text).labels == expected, line


def test_an_image_may_have_the_name_of_a_column(tmp_path):
    assert table(tmp_path, "image,cat\na,dog\n").labels == {"image": {"cat"}, "a": {"dog"}}
    found = table(tmp_path, "image,cat,dog\na,1,0\nimage,0,1\n")
    assert found.labels == {"a": {"cat"}, "image": {"dog"}}
    assert "the first line is read as the header, although there is an image 'image'" in found.notes[0]


def test_names_of_several_words_are_taken_apart_only_where_that_is_said(tmp_path):
    found = table(tmp_path, "a,red car\nb,red\n")
    assert found.class_names == ("car", "red")
    assert "cells of several words are split, such as 'red car'" in found.notes[0]
    assert table(tmp_path, "image,label\na,red car\nb,cat\n").class_names == ("cat", "red car")
    assert table(tmp_path, "a,red car;cat\nb,cat\n").class_names == ("cat", "red car")


def test_a_label_file_has_ids_with_spaces_commas_and_several_rows(tmp_path):
    path, notes = tmp_path / "tags.txt", []
    names = Names(["photo", "photo 1", "b"])
    for text in ("photo 1 cat\nphoto dog\nb\nphoto 1 dog\n", "photo 1,cat\nphoto,dog\nb,\nphoto 1,dog\n"):
        path.write_text(text)
        source = label_source(path, VOC_CLASS_NAMES, names, notes.append)
        assert source(["b"]) == source([]) == {"photo 1": {"cat", "dog"}, "photo": {"dog"}, "b": set()}
    assert len(notes) == 2
    assert "1 row names an image of an earlier row" in notes[0]
    path.write_text("photo 1 0 14\nphoto 19\n")
    assert read_label_file(path, VOC_CLASS_NAMES, names) == {"photo 1": {"aeroplane", "person"}, "photo": {"tvmonitor"}}
    path.write_text("b traffic light car\n")
    assert read_label_file(path, ("background", "car", "traffic light"), names) == {"b": {"car", "traffic light"}}
    path.write_text("file,cat,dog\nphoto 1,1,-1\n")
    with pytest.raises(DataError, match="line 2, column 'dog': '-1' is uncertain"):
        read_label_file(path, VOC_CLASS_NAMES, names)
