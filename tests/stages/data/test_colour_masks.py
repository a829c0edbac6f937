"""Painted masks: the colours of a file, and the class ids that a table gives to colours and values."""

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
from artifacts.masks import voc_palette, write_mask
from stages.data.class_table import ClassTable, read_class_table
from stages.data.colour_masks import read_colours, renumber, to_indices

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
        ("a.tga", {}, "is a TGA file, expected PNG, BMP, TIFF, GIF"),
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


# --- tables and masks together ---

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
