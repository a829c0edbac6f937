"""Class tables in all their dialects, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import DataError
from stages.data.annotations.class_table import ClassTable, read_class_table

RED, GREEN, CREAM = 0x800000, 0x008000, 0xE0E0C0


def code(red: int, green: int, blue: int) -> int:
    return red * 65536 + green * 256 + blue


@pytest.fixture
def table(tmp_path: Path):
    def read(text: str | bytes, name: str = "classes.txt") -> ClassTable:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_class_table(path)

    return read


NAMES = ("background", "aeroplane", "traffic light")
COLOURS = {0: 0, RED: 1, GREEN: 2}


@pytest.mark.parametrize(
    "text",
    [
        "background 0 0 0\naeroplane 128 0 0\ntraffic light 0 128 0",
        "background,0,0,0\naeroplane,128,0,0\ntraffic light,0,128,0\n",
        "background;0;0;0\naeroplane;128;0;0\ntraffic light;0;128;0\n",
        "background\t0\t0\t0\naeroplane\t128\t0\t0\ntraffic light\t0\t128\t0\n",
        "background: 0 0 0\naeroplane: (128, 0, 0)\ntraffic light [0,128,0]\n",
        'background #000000\naeroplane,#800000\n"traffic light"; #008000\n',
        "0 0 0 background\n128 0 0\t\taeroplane\n0 128 0 traffic light\n",  # CamVid's label_colors.txt
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\naeroplane:128,0,0:wing:fly\ntraffic light:0,128,0::\n",
        "name,r,g,b\nbackground,0,0,0\naeroplane,128,0,0\ntraffic light,0,128,0",  # class_dict.csv
        "name, r, g, b\nbackground, 0, 0, 0\naeroplane, 128, 0, 0\ntraffic light, 0, 128, 0\n",
        'r,g,b,"name",remark\n0,0,0,background,x\n128,0,0,aeroplane,\n0,128,0,"traffic light",7\n',
        "name;color\nbackground;#000000\naeroplane;(128, 0, 0)\ntraffic light;0 128 0\n",
        "name r g b\nbackground 0 0 0\naeroplane 128 0 0\ntraffic light 0 128 0\n",
        "aeroplane 128 0 0\nbg 0 0 0\ntraffic light 0 128 0\n",  # colours say what is background, not the order
        "\ufeff# two\r\n#\r\n\r\nBackground 0 0 0\r\naeroplane 128 0 0\r\n  traffic   light 0 128 0  \r\n",
    ],
)
def test_dialects_with_colours(table, text):
    found = table(text)
    assert tuple(" ".join(name.split()) for name in found.names) == NAMES
    assert found.colours == COLOURS
    assert (found.values, found.ignored, found.notes) == (None, (), ())


@pytest.mark.parametrize(
    "text",
    [
        "background\naeroplane\ntraffic light",
        "__background__\naeroplane\ntraffic light\n",
        "__ignore__\n_background_\naeroplane\ntraffic light\n",  # LabelMe's labels.txt
        "background:::\naeroplane:::\ntraffic light:::\n",  # CVAT without colours
        '"background"\n"aeroplane"\n"traffic light"\n',
    ],
)
def test_dialects_of_names(table, text):
    found = table(text)
    assert found.names == NAMES
    assert (found.colours, found.values) == (None, None)
    assert found.ids == {"background": 0, "aeroplane": 1, "traffic light": 2} | dict.fromkeys(found.ignored, 255)


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("0 road\n1 pavement\n", ("road", "pavement"), {0: 0, 1: 1, 255: 255}),
        ("7 road\n11: building\n8,pavement\n", ("road", "pavement", "building"), {7: 0, 8: 1, 11: 2, 255: 255}),
        ("1 pet\n2 background\n3 __ignore__\n", ("background", "pet"), {1: 1, 2: 0, 3: 255, 255: 255}),
        ("0 background\n255 object\n", ("background", "object"), {0: 0, 255: 1}),
        ("id,name\n0,background\n4,cat\n", ("background", "cat"), {0: 0, 4: 1, 255: 255}),
        ("name id\nbackground 0\ncat 4\n", ("background", "cat"), {0: 0, 4: 1, 255: 255}),
    ],
)
def test_ids_in_the_lines(table, text, names, values):
    found = table(text)
    assert (found.names, found.values) == (names, values)


@pytest.mark.parametrize(
    "text",
    [
        '["background", "cat", "dog"]',
        "- background\n- cat\n- dog\n",
        "# of a detector\npath: /data\nnames: [background, cat, dog]\nnc: 3\n",
        "names:\n  - background\n  - cat\n  - dog\n",
    ],
)
def test_documents_of_names(table, text):
    suffix = "classes.yaml" if text.startswith("-") else "classes.txt"
    found = table(text, suffix)
    assert (found.names, found.values, found.colours) == (("background", "cat", "dog"), None, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"0": "background", "4": "cat"}',
        '{"background": 0, "cat": 4}',
        "{'background': 0, 'cat': 4}",  # as Python prints it
        "names:\n  0: background\n  4: cat\n",
        '{"categories": [{"id": 0, "name": "background"}, {"supercategory": "pet", "id": 4, "name": "cat"}]}',
        '[{"id": "0", "title": "background"}, {"id": "4", "title": "cat"}]',
        '{"0": {"name": "background"}, "4": {"name": "cat"}}',
        "Pixel Value, Class\n0, background\n4, cat\n",  # Roboflow's _classes.csv
        "pixel_value;name\n0;background\n4;cat\n",
        "Class ID,Class Name\n0,background\n4,cat\n",
        "class,grayscale\nbackground,0\ncat,4\n",
        "Idx,Ratio,Train,Val,Stuff,Name\n0,0.1,40,4,1,background\n4,0.1,40,4,1,cat\n",
    ],
)
def test_documents_and_headers_of_ids(table, text):
    found = table(text)
    assert (found.names, found.values, found.colours) == (("background", "cat"), {0: 0, 4: 1, 255: 255}, None)
    assert found.listed == {0, 4}


@pytest.mark.parametrize(
    "text",
    [
        '{"background": [0, 0, 0], "cat": [128, 0, 0]}',
        '{"background": "#000000", "cat": "#800000"}',
        '[{"name": "background", "color": [0, 0, 0]}, {"name": "cat", "color": [128, 0, 0], "isthing": 1}]',
        '{"classes": [{"title": "background", "color": "#000000"}, {"title": "cat", "color": "#800000"}]}',
        '[{"name": "background", "r": 0, "g": 0, "b": 0}, {"name": "cat", "r": 128, "g": 0, "b": 0}]',
    ],
)
def test_documents_of_colours(table, text):
    found = table(text)
    assert (found.names, found.values, found.colours) == (("background", "cat"), None, {0: 0, RED: 1})


def test_which_values_a_table_has_itself(table):
    assert table("background\ncat\n").listed == {0, 1}
    assert table("background\ncat\n255 void\n").listed == {0, 1, 255}
    assert table("0 background\n9 cat\n").listed == {0, 9}
    assert table("background 0 0 0\ncat 128 0 0\n").listed == set()
    assert table("0 background 0 0 0\n9 cat 128 0 0\n").listed == {0, 9}


def test_ids_and_colours_together(table):
    for text in ("1 cat 128 0 0\n0 background 0 0 0\n", "1 128 0 0 cat\n0 0 0 0 background\n"):
        found = table(text)
        assert (found.names, found.colours) == (("background", "cat"), {0: 0, RED: 1})
        assert found.values == {0: 0, 1: 1, 255: 255}


def test_names_may_end_in_a_number(table):
    assert table("background\nclass 1\nclass 2\n").names == ("background", "class 1", "class 2")
    assert table("background 0 0 0\nclass 1 128 0 0\nclass 2 (0, 128, 0)\n").names[1:] == ("class 1", "class 2")
    assert table("background\n4-wheeler\n1st\n7\n#hash\n").names[1:] == ("4-wheeler", "1st", "7", "#hash")


def test_names_that_are_numbers_need_a_header(table):
    found = table("r g b name\n0 0 0 background\n116 113 206 3060\n202 142 21 left arm\n")
    assert found.names == ("background", "3060", "left arm")
    assert found.colours == {0: 0, code(116, 113, 206): 1, code(202, 142, 21): 2}


def test_what_is_ignored_and_what_only_sounds_like_it(table):
    found = table("background 0 0 0\n__ignore__ 224 224 192\n__ignore__ 1 1 1\ncat 128 0 0\n")
    assert found.colours == {0: 0, CREAM: 255, 0x010101: 255, RED: 1}
    assert (found.ids["__ignore__"], found.notes) == (255, ())
    assert table("background\ncat\n255 void\n").ids == {"background": 0, "cat": 1, "void": 255}
    assert table("background\ncat\nignore 255\n").ids == {"background": 0, "cat": 1, "ignore": 255}
    found = table("background 0 0 0\n255 Void 224 224 192\ncat 128 0 0\n")
    assert (found.colours[CREAM], found.notes) == (255, ())

    found = table("background 0 0 0\nunlabelled 255 255 255\ncat 128 0 0\n")
    assert found.colours == {0: 0, 0xFFFFFF: 255, RED: 1}
    assert found.notes == ("'unlabelled' with the colour (255, 255, 255) is ignored; the name `__ignore__` pins it",)
    found = table("background 0 0 0\ncat 128 0 0\nVoid 64 0 0\n")
    assert found.names == ("background", "cat", "Void")
    assert found.notes == ("'Void' is a class like the others; with the name `__ignore__` its pixels would be ignored",)
    assert table("0 background\n255 object\n").notes == ("the value 255 is the class 'object', so no pixel is ignored",)
    assert table("background 0 0 0\nRust 255 255 255\n").notes == ()


def test_a_table_without_background_says_so(table):
    found = table("64 128 64\tAnimal\n192 0 128\tArchway\n")
    assert found.names == ("Animal", "Archway")
    assert "has no background: every pixel has one of its classes, or 255" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only\n#\n", "is empty"),
        ("background\ncat\ncat\n", r"line 3: the name cat is already in line 2"),
        ("background\nbg\n", r"line 2: the name background is already in line 1"),
        ("a 1 2 3\nb 1 2 3\n", r"line 2: the colour \(1, 2, 3\) is already in line 1"),
        ("a 1 2 3\n__ignore__ 1 2 3\n", r"line 2: the colour \(1, 2, 3\) is already in line 1"),
        ("0 a\n0 b\n", r"line 2: the id 0 is already in line 1"),
        ("background 0 0 0\ncat 256 0 0\n", r"line 2: 'cat' has the number 256, expected 0..255"),
        ("background 0 0 0\ncat -1 0 0\n", r"line 2: '-1' is not a whole number of 0..255"),
        ("0 background\n300 cat\n", r"line 2: 'cat' has the number 300"),
        ("name,r,g,b\nbackground,0,0,x\n", r"line 2: 'x' is not a whole number"),
        ("name,r,g,b\nbackground,0,0,\n", r"line 2: '0 0' is not a colour"),
        ("name,r,g,b\nbackground,0,0\n", r"line 2: 3 fields, the first line names 4"),
        ("name,color\nbackground,black\n", r"line 2: 'black' is not a colour"),
        ("name,color\nbackground,#000000\ncat,#80000\n", r"line 3: '#80000' is not a colour"),
        ("background 0 0 0\ncat\n", r"line 2: 'cat' has no colour, other lines have"),
        ("background #000000\ncat #80000011\n", r"line 2: 'cat #80000011' has no colour"),
        ("cat\nbackground 0 0 0\n", r"line 1: 'cat' has no colour, other lines have"),
        ("background\n3 wheeler\n", r"line 1: 'background' has no id, other lines have"),
        ("cat\ndog\n", r"line 1: the first class is 'cat', expected background"),
        ("cat\nbackground\n", r"line 1: the first class is 'cat', expected background"),
        ("__ignore__\n", "has no class that is not ignored"),
        ("background,0,0\n", r"line 1: 'background,0,0' has numbers that are neither an id nor a colour"),
        ("background,0,0,0,255\n", r"line 1: .* has numbers that are neither"),
        ("1 2 background\n", r"line 1: .* has numbers that are neither"),
        ("1 2 3 background 4 5 6\n", r"line 1: .* has numbers that are neither"),
        ("0 0 0 background\n116 113 206 3060\n", r"line 2: '116 113 206 3060' has no name, or one that is a number"),
        ("background:0,0::\n", r"line 1: '0,0' is not a colour"),
        (":0,0,0::\n", "line 1: there is no name"),
        (",0,0,0\n", "line 1: there is no name"),
        ("".join(f"{i % 256} {i // 256} 7 n{i}\n" for i in range(256)), "has 256 classes; a mask holds 255"),
        (b"b\xe4r\n", "not UTF-8 text"),
        ("background\nc\x00at\n", r"line 2: 'c\\x00at' cannot be a class name: it has control characters"),
        ("background\n\x1b[31mcat\n", r"line 2: '\\x1b\[31mcat' cannot be a class name"),
        ("background\nc\u202eat\n", r"line 2: 'c\\u202eat' cannot be a class name"),
        ('["background", "\\ud800"]', r"entry 2: '\\ud800' cannot be a class name"),
        ("background\n" + "x" * 201 + "\n", r"line 2: 'x+\.\.\. cannot be a class name: it has 201 characters"),
        ("background\n" + "x" * 3000 + "\n", r"line 2: it has 3,000 characters, at most 2,000"),
        ("".join(f"c{i}\n" for i in range(300)), "has 300 classes; a mask holds 255"),
        ("background 0 0 0 255\ncat 64 0 0 255\n", "has colours of four numbers, R G B A"),
        ("item {\n  id: 1\n  name: 'cat'\n}\n", "is a label map in protobuf text"),
        ("{}", "holds no list of classes"),
        ("[1, 2]", "entry 1: it is not a class"),
        ('[{"id": 1}]', "entry 1: it is not a class"),
        ('[{"name": "cat", "color": [1, 2]}]', "entry 1: it is not a class"),
        ('[{"name": "cat", "color": "red"}]', "entry 1: it is not a class"),
        ('{"0": "cat", "0": "dog"}', "a key occurs twice"),
        ('{"cat": [0, 0, 300]}', "entry 1: 'cat' has the number 300"),
        ('{"cat": true}', "entry 1: it is not a class"),
        ('["background", "cat", "cat"]', r"entry 3: the name cat is already in entry 2"),
        ('["background", "cat"', "not YAML"),
        ("[" * 100000, "not YAML"),
        ("names: [" + "a, " * 400000 + "]", r"has 1,200,009 characters, and is not JSON"),
    ],
)
def test_what_is_no_class_table(table, text, message):
    with pytest.raises(DataError, match=message):
        table(text)


def test_a_table_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"classes.txt cannot be read: No such file"):
        read_class_table(tmp_path / "classes.txt")
