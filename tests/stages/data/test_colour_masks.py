"""Painted masks: the colours of a file, class tables in all their dialects, and guesses about unknown masks."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artifacts.errors import DataError
from artifacts.masks import colourise, voc_palette, write_mask
from stages.data.colour_masks import (
    ClassTable,
    guess_palette,
    read_class_table,
    read_colours,
    renumber,
    to_indices,
)
from stages.data.config import VOC_CLASS_NAMES

RED, GREEN, CREAM = 0x800000, 0x008000, 0xE0E0C0


def code(red: int, green: int, blue: int) -> int:
    return red * 65536 + green * 256 + blue


def save(path: Path, pixels: Any, mode: str | None = None, **how: Any) -> Path:
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    (picture.convert(mode) if mode else picture).save(path, **how)
    return path


# --- colours of a file ---


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 6),
    width=st.integers(1, 9),
    kind=st.sampled_from(["a.png", "a.bmp", "a.tif", "rgba.png", "rgba.tif"]),
)
def test_every_pixel_keeps_its_colour(tmp_path_factory, seed, height, width, kind):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path = tmp_path_factory.mktemp("mask") / kind
    opaque = np.full((height, width, 1), 255, np.uint8)
    save(path, np.concatenate([pixels, opaque], axis=2) if kind.startswith("rgba") else pixels)
    codes = read_colours(path)
    assert codes.dtype == np.uint32
    assert codes.tolist() == [[code(*map(int, pixel)) for pixel in row] for row in pixels]


def test_palettes_greys_and_black_and_white_are_looked_up(tmp_path):
    write_mask(tmp_path / "p.png", np.array([[0, 1, 255]], np.uint8))
    assert read_colours(tmp_path / "p.png").tolist() == [[0, RED, CREAM]]
    save(tmp_path / "l.png", [[0, 7, 255]])
    assert read_colours(tmp_path / "l.png").tolist() == [[0, code(7, 7, 7), 0xFFFFFF]]
    save(tmp_path / "1.png", [[0, 255]], mode="1")
    assert read_colours(tmp_path / "1.png").tolist() == [[0, 0xFFFFFF]]


def test_what_is_fully_transparent_is_unpainted(tmp_path):
    pixels = [[[128, 0, 0, 255], [0, 128, 0, 0], [0, 128, 0, 255]]]
    assert read_colours(save(tmp_path / "a.png", pixels)).tolist() == [[RED, 0, GREEN]]
    pixels[0][1][3] = 120
    with pytest.raises(DataError, match=r"a.png has 1 half transparent pixels"):
        read_colours(save(tmp_path / "a.png", pixels))
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette(voc_palette())
    picture.save(tmp_path / "p.png", transparency=1)
    assert read_colours(tmp_path / "p.png").tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("a.jpg", {}, r"a.jpg is compressed with loss \(JPEG\): colours bleed"),
        ("a.png", {"format": "JPEG"}, r"a.png is compressed with loss \(JPEG\)"),  # a wrong suffix
        ("a.tif", {"compression": "jpeg"}, r"compressed with loss \(JPEG\)"),
        ("a.webp", {}, r"compressed with loss \(WEBP\)"),
        ("a.gif", {}, "is a GIF file, expected PNG, BMP, TIFF"),
        ("a.tif", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, "holds 2 pictures"),
    ],
)
def test_formats_that_keep_no_colours(tmp_path, name, how, message):
    with pytest.raises(DataError, match=message):
        read_colours(save(tmp_path / name, np.zeros((8, 8, 3)), **how))


def sixteen_bit_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 + 2 * 6))) + chunk(b"IEND", b"")


def test_files_that_are_no_masks(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=r"a.png cannot be read: No such file"):
        read_colours(path)
    path.write_bytes(sixteen_bit_png())
    with pytest.raises(DataError, match="has more than 8 bits a channel"):
        read_colours(path)
    Image.new("I;16", (2, 2)).save(path)
    with pytest.raises(DataError, match="has more than 8 bits a channel"):
        read_colours(path)
    Image.new("CMYK", (2, 2)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"has no RGB colours \(mode CMYK\)"):
        read_colours(tmp_path / "a.tif")
    save(path, np.zeros((30, 30, 3)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged: truncated"):
        read_colours(path)
    path.write_text("no picture")
    with pytest.raises(DataError, match="is damaged: cannot identify"):
        read_colours(path)


# --- class tables ---


@pytest.fixture
def table(tmp_path: Path):
    def read(text: str | bytes) -> ClassTable:
        path = tmp_path / "classes.txt"
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
        ("background\ncat\ncat\n", r"line 3: the name cat stood already in line 2"),
        ("background\nbg\n", r"line 2: the name background stood already in line 1"),
        ("a 1 2 3\nb 1 2 3\n", r"line 2: the colour \(1, 2, 3\) stood already in line 1"),
        ("a 1 2 3\n__ignore__ 1 2 3\n", r"line 2: the colour \(1, 2, 3\) stood already in line 1"),
        ("0 a\n0 b\n", r"line 2: the id 0 stood already in line 1"),
        ("background 0 0 0\ncat 256 0 0\n", r"line 2: 'cat' has the number 256, expected 0..255"),
        ("background 0 0 0\ncat -1 0 0\n", r"line 2: '-1' is no whole number of 0..255"),
        ("0 background\n300 cat\n", r"line 2: 'cat' has the number 300"),
        ("name,r,g,b\nbackground,0,0,x\n", r"line 2: 'x' is no whole number"),
        ("name,r,g,b\nbackground,0,0,\n", r"line 2: '0 0' is no colour"),
        ("name,r,g,b\nbackground,0,0\n", r"line 2: 3 fields, the first line names 4"),
        ("name,color\nbackground,black\n", r"line 2: 'black' is no colour"),
        ("name,color\nbackground,#000000\ncat,#80000\n", r"line 3: '#80000' is no colour"),
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
        ("background:0,0::\n", r"line 1: '0,0' is no colour"),
        (":0,0,0::\n", "line 1: there is no name"),
        (",0,0,0\n", "line 1: there is no name"),
        ("".join(f"{i % 256} {i // 256} 7 n{i}\n" for i in range(256)), "has 256 classes; a mask holds 255"),
        (b"b\xe4r\n", "no UTF-8 text"),
    ],
)
def test_what_is_no_class_table(table, text, message):
    with pytest.raises(DataError, match=message):
        table(text)


def test_a_table_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"classes.txt cannot be read: No such file"):
        read_class_table(tmp_path / "classes.txt")


NAME = st.from_regex(r"[a-z][a-z-]{0,7}( [a-z]{1,5})?", fullmatch=True).filter(
    lambda name: name not in ("bg", "name", "id", "ignore", "ignored", "void", "unknown", "undefined")
)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    form=st.sampled_from(["{0} {1} {2} {3}", "{0},{1},{2},{3}", "{1} {2} {3}\t{0}", "{0}:{1},{2},{3}::"]),
)
def test_a_table_and_a_mask_come_back(tmp_path_factory, data, form):
    """Names and colours drawn at random, written in a dialect, read; a mask painted and mapped by a plain loop."""
    names = data.draw(st.lists(NAME, min_size=1, max_size=6, unique=True))
    channel = st.integers(0, 255)
    colours = data.draw(
        st.lists(st.tuples(channel, channel, channel), min_size=len(names), max_size=len(names), unique=True)
    )
    folder = tmp_path_factory.mktemp("table")
    lines = [form.format(name, *colour) for name, colour in zip(names, colours, strict=True)]
    (folder / "classes.txt").write_text("\n".join(lines))
    table = read_class_table(folder / "classes.txt")
    assert table.names == tuple(names)
    drawn = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=6, max_size=6))
    save(folder / "a.png", [[colours[index] for index in drawn[:3]], [colours[index] for index in drawn[3:]]])
    mask = to_indices(read_colours(folder / "a.png"), table, folder / "a.png")
    assert mask.dtype == np.uint8
    assert mask.tolist() == [drawn[:3], drawn[3:]]


# --- colours to ids ---

TABLE = ClassTable(("background", "aeroplane", "bicycle"), {0: 0, RED: 1, GREEN: 2, CREAM: 255})


def test_unknown_colours_are_named_with_their_pixels():
    codes = np.array([[0, RED, code(127, 0, 0)], [CREAM, code(127, 0, 0), code(10, 200, 250)]], np.uint32)
    with pytest.raises(DataError) as caught:
        to_indices(codes, TABLE, Path("a.png"))
    assert caught.value.message == (
        "the mask a.png has colours that are no class: (127, 0, 0) 2 px, nearest aeroplane (128, 0, 0); "
        "(10, 200, 250) 1 px"
    )
    assert "smoothed edges" in caught.value.hint
    with pytest.raises(DataError) as caught:
        to_indices(np.array([[code(10, 200, 250)]], np.uint32), TABLE, Path("a.png"))
    assert "add them to the class table" in caught.value.hint
    with pytest.raises(DataError, match=r"\(0, 0, 1\) 9 px, nearest background \(0, 0, 0\); .* and 4 more\n"):
        to_indices(np.repeat(np.arange(10), 9).reshape(9, 10).astype(np.uint32), TABLE, Path("a.png"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 255))
def test_the_lookup_is_that_of_a_dictionary(seed, count):
    random = np.random.default_rng(seed)
    codes = random.choice(2**24, count, replace=False)
    colours = {int(value): index if index < count // 2 else 255 for index, value in enumerate(codes)}
    picture = random.choice(codes, (5, 7)).astype(np.uint32)
    mask = to_indices(picture, ClassTable(("x",) * 255, colours), Path("a.png"))
    assert mask.tolist() == [[colours[int(value)] for value in row] for row in picture]


def test_ids_are_renumbered():
    table = ClassTable(("background", "pet"), values={2: 0, 1: 1, 3: 255, 255: 255})
    assert renumber(np.array([[1, 2, 3, 255]], np.uint8), table, Path("a.png")).tolist() == [[1, 0, 255, 255]]
    with pytest.raises(DataError, match=r"values that are no class: 0 \(2 px\), 4 \(1 px\); .* has 1..3, 255\n"):
        renumber(np.array([[0, 0, 4, 1]], np.uint8), table, Path("a.png"))
    plain = ClassTable(("background", "pet"))
    assert renumber(np.array([[0, 1, 255]], np.uint8), plain, Path("a.png")).tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"2 \(1 px\); the table has 0..1, 255"):
        renumber(np.array([[2]], np.uint8), plain, Path("a.png"))


# --- guesses ---


def read_back(guess: Any, folder: Path) -> ClassTable:
    (folder / "guess.txt").write_text(guess.table)
    return read_class_table(folder / "guess.txt")


def blocks(values: list[int], side: int = 8) -> np.ndarray:
    """Index mask with a square of every value."""
    return np.repeat(np.repeat(np.array([values], np.uint8), side, axis=0), side, axis=1)


def test_index_masks_are_ids(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([0, 3, 255])), save(tmp_path / "b.png", blocks([0, 1]))])
    assert guess.kind == "ids"
    assert (
        guess.description
        == "2 of 2 masks looked at (2 of mode L): values 0..1, 3, 255, taken for class ids and ignore (255)"
    )
    assert read_back(guess, tmp_path).names == ("background", "class_1", "class_2", "class_3")
    assert guess.pin == "mask_format: ids; class_table: a file with these lines, names corrected"


def test_voc_index_masks_get_voc_names_with_a_warning(tmp_path):
    write_mask(tmp_path / "a.png", blocks([0, 5, 20, 255]))
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "ids"
    assert "no proof that the classes are" in guess.description
    assert read_back(guess, tmp_path).names == VOC_CLASS_NAMES
    write_mask(tmp_path / "a.png", blocks([0, 21]))
    assert read_back(guess_palette([tmp_path / "a.png"]), tmp_path).names[-1] == "class_21"


def test_index_masks_without_0(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([1, 2, 3]))])
    assert "0 does not occur" in guess.description
    assert read_back(guess, tmp_path).values == {1: 0, 2: 1, 3: 2, 255: 255}


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_black_and_white_is_an_object_and_not_ignore(tmp_path, mode):
    picture = Image.fromarray(blocks([0, 255]))
    if mode == "P":
        picture.putpalette([value for index in range(256) for value in (index, index, index)])
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png")
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "binary"
    assert "White (255) is taken for the object, not for ignore" in guess.description
    mask = to_indices(read_colours(tmp_path / "a.png"), read_back(guess, tmp_path), tmp_path / "a.png")
    assert mask.tolist() == blocks([0, 1]).tolist()


def test_smoothed_black_and_white_is_told(tmp_path):
    big = Image.new("L", (200, 200))
    big.paste(255, (43, 51, 150, 160))
    small = np.array(big.resize((97, 97), Image.Resampling.BICUBIC).rotate(7, Image.Resampling.BICUBIC))
    assert len(np.unique(small)) > 22
    guess = guess_palette([save(tmp_path / "a.png", small)])
    assert guess.kind == "binary"
    assert "smoothed edges" in guess.description


def test_ids_with_ignore_and_few_objects_are_not_black_and_white(tmp_path):
    mask = blocks([0, 255], side=40)
    mask[0, :20] = np.arange(1, 21)
    assert guess_palette([save(tmp_path / "a.png", mask)]).kind == "ids"
    mask[0] = 200  # one more shade is no smoothed edge
    assert guess_palette([save(tmp_path / "a.png", mask)]).kind == "colours"
    write_mask(tmp_path / "p.png", blocks([0, 255]))  # 255 is cream here
    assert guess_palette([tmp_path / "p.png"]).kind == "ids"


def test_grey_shades_are_no_ids(tmp_path):
    guess = guess_palette([save(tmp_path / "a.png", blocks([0, 85, 170, 255]))])
    assert guess.kind == "colours"
    assert "look like shades, not like ids" in guess.description
    assert read_back(guess, tmp_path).colours == {0: 0, 0x555555: 1, 0xAAAAAA: 2, 0xFFFFFF: 3}


def test_voc_masks_turned_into_grey_are_recognised(tmp_path):
    write_mask(tmp_path / "p.png", blocks([0, 8, 15, 255]))
    Image.open(tmp_path / "p.png").convert("L").save(tmp_path / "a.png")
    guess = guess_palette([tmp_path / "a.png"])
    assert guess.kind == "colours"
    assert "VOC's colours turned into grey" in guess.description


def test_palettes_that_differ_between_files(tmp_path):
    """A program that shrinks PNG files numbers the colours of each file anew."""
    for name, order in (("a.png", [0x000000, RED, GREEN]), ("b.png", [0x000000, GREEN, RED])):
        picture = Image.fromarray(blocks([0, 1, 2]))
        picture.putpalette([channel for c in order for channel in (c >> 16, c >> 8 & 255, c & 255)])
        picture.save(tmp_path / name)
    guess = guess_palette([tmp_path / "a.png", tmp_path / "b.png"])
    assert guess.kind == "colours"
    assert "a value has other colours in other masks" in guess.description


def test_voc_colours_get_voc_names_and_ignore(tmp_path):
    mask = blocks([0, 5, 20, 255])
    guess = guess_palette([save(tmp_path / "a.png", colourise(mask))])
    assert guess.kind == "colours"
    assert "4 colours; all of them VOC's" in guess.description
    table = read_back(guess, tmp_path)
    assert table.names == VOC_CLASS_NAMES
    assert to_indices(read_colours(tmp_path / "a.png"), table, tmp_path / "a.png").tolist() == mask.tolist()


def test_other_colours_are_listed_by_frequency(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1:, :] = (1, 2, 3)
    pixels[0, 0] = (250, 0, 9)
    guess = guess_palette([save(tmp_path / "a.png", pixels)])
    assert (guess.kind, guess.table) == ("colours", "background 0 0 0\nclass_1 1 2 3\nclass_2 250 0 9\n")
    assert guess.description == "1 of 1 masks looked at (1 of mode RGB): 3 colours"
    guess = guess_palette([save(tmp_path / "a.png", pixels[1:])])
    assert "black does not occur" in guess.description


def test_smoothed_colours_and_photographs(tmp_path):
    random = np.random.default_rng(0)
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, 50:] = (10, 200, 0)
    pixels[:3] = random.integers(0, 256, (3, 100, 3))
    guess = guess_palette([save(tmp_path / "a.png", pixels)])
    assert guess.table == "background 0 0 0\nclass_1 10 200 0\n"
    assert "2 colours, and 300 rare ones on 3.00% of the pixels" in guess.description
    paths = [save(tmp_path / f"{i}.png", random.integers(0, 256, (200, 200, 3))) for i in range(2)]
    guess = guess_palette(paths)
    assert guess.table == ""
    assert "1 of 2 masks" in guess.description  # one was enough
    assert "photographs, no masks" in guess.description
    assert guess.pin == "mask_format: colours"


def test_many_masks_are_sampled_evenly(tmp_path):
    path = save(tmp_path / "a.png", blocks([0, 1]))
    assert guess_palette([path] * 120).description.startswith("50 of 120 masks")
    with pytest.raises(DataError, match="there is no mask"):
        guess_palette([])
    with pytest.raises(DataError, match="compressed with loss"):
        guess_palette([save(tmp_path / "a.jpg", blocks([0, 1]))])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), grey=st.booleans())
def test_the_guessed_table_reads_the_masks_it_was_guessed_from(tmp_path_factory, seed, count, grey):
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (count, 1 if grey else 3), np.uint8)
    pixels = colours[random.integers(0, count, (6, 6))]
    folder = tmp_path_factory.mktemp("guess")
    path = save(folder / "a.png", pixels[..., 0] if grey else pixels)
    guess = guess_palette([path])
    table = read_back(guess, folder)
    if guess.kind == "ids":
        found = renumber(pixels[..., 0], table, path)
    else:
        found = to_indices(read_colours(path), table, path)
    # equal pixels have equal ids, different ones different ids
    pairs = {
        (tuple(pixel), int(index)) for pixel, index in zip(pixels.reshape(36, -1).tolist(), found.ravel(), strict=True)
    }
    assert len(pairs) == len({pixel for pixel, _ in pairs}) == len({index for _, index in pairs})


def test_real_voc_masks(real_data, tmp_path):
    masks = sorted((real_data / "data/voc-animals/SegmentationClass").glob("*.png"))
    if not masks:
        pytest.skip("no real masks")
    guess = guess_palette(masks)
    assert guess.kind == "ids"
    assert read_back(guess, tmp_path).names == VOC_CLASS_NAMES
    ids = np.array(Image.open(masks[0]))
    painted = save(tmp_path / "a.png", colourise(ids))
    table = read_back(guess_palette([painted]), tmp_path)
    np.testing.assert_array_equal(to_indices(read_colours(painted), table, painted), ids)
