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
from stages.data.annotations.class_table import ClassTable, read_class_table
from stages.data.annotations.colour_masks import read_colours, read_values, remarks_on_colours, renumber, to_indices
from tests.fuzz.palettes import indexed_png, indexed_tiff, short_gif

RED, GREEN, CREAM = 0x800000, 0x008000, 0xE0E0C0


def code(red: int, green: int, blue: int) -> int:
    return red * 65536 + green * 256 + blue


def save(path: Path, pixels: Any, mode: str | None = None, **how: Any) -> Path:
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(path, **how)
    return path


# --- colours of a file ---


@settings(max_examples=30)
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
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette(voc_palette())
    image.save(tmp_path / "p.png", transparency=1)
    assert read_colours(tmp_path / "p.png").tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("a.jpg", {}, r"a.jpg is compressed with loss \(JPEG\): neighbouring colours are blurred"),
        ("a.png", {"format": "JPEG"}, r"a.png is compressed with loss \(JPEG\)"),  # a wrong suffix
        ("a.tif", {"compression": "jpeg"}, r"compressed with loss \(JPEG\)"),
        ("a.webp", {}, r"compressed with loss \(WEBP\)"),
        ("a.tga", {}, "is a TGA file, expected PNG, BMP, TIFF, GIF"),
        ("a.tif", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, "holds 2 images"),
    ],
)
def test_formats_that_keep_no_colours(tmp_path, name, how, message):
    with pytest.raises(DataError, match=message):
        read_colours(save(tmp_path / name, np.zeros((8, 8, 3)), **how))


VOID = np.array([[0, 1, 2, 255], [255, 0, 0, 1]], np.uint8)
THREE = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


def short_bmp(path: Path, values: np.ndarray, colours: list[tuple[int, ...]]) -> Path:
    image = Image.fromarray(values)
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)
    return path


def filled_up_png(path: Path, values: np.ndarray, colours: list[tuple[int, int, int]]) -> Path:
    """As much published code writes masks: `palette + [0] * (768 - len(palette))`."""
    return indexed_png(path, values, colours + [(0, 0, 0)] * (256 - len(colours)))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (indexed_png, "a.png"),
        (filled_up_png, "a.png"),
        (short_gif, "a.gif"),
        (short_bmp, "a.bmp"),
        (indexed_tiff, "a.tif"),
    ],
)
def test_values_beyond_the_colour_table_are_refused_and_not_black(tmp_path, write, name):
    path = write(tmp_path / name, VOID, THREE)
    with Image.open(path) as image:
        assert image.convert("RGB").getpixel((3, 0)) == (0, 0, 0)  # the trap
    with pytest.raises(DataError, match=r"a\.\w+ has a palette of \d colours, .* beyond it: 255 \(2 px\)") as caught:
        read_colours(path)
    assert "mask_format=ids" in (caught.value.hint or "")
    if name != "a.gif":
        assert read_values(path).tolist() == VOID.tolist()  # as ids, nothing is wrong with them


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_beyond_the_colour_table_of_few_bits(tmp_path, bits):
    last = 2**bits - 1
    path = indexed_png(tmp_path / "a.png", np.array([[0, last]]), [(7, 7, 7)] * last, bits)
    with pytest.raises(DataError, match=rf"palette of {last} colours, .* {last} \(1 px\)"):
        read_colours(path)


def test_black_behind_the_last_colour_is_a_colour_where_no_other_is_black(tmp_path):
    white_first = [(255, 255, 255), (128, 0, 0), (0, 0, 0)]
    values = np.array([[0, 1, 2]], np.uint8)
    for path in (
        indexed_tiff(tmp_path / "a.tif", values, white_first),
        short_gif(tmp_path / "a.gif", values, white_first),
    ):
        assert read_colours(path).tolist() == [[0xFFFFFF, RED, 0]]


def test_a_colour_map_of_8_bits_in_a_tiff_is_not_black(tmp_path):
    """Colour maps have 16 bits a channel, of which Pillow takes the upper 8; some programs write 8."""
    for scale in (257, 256, 1):
        path = indexed_tiff(tmp_path / "a.tif", np.array([[0, 1, 2]]), THREE, scale)
        assert read_colours(path).tolist() == [[0, RED, GREEN]]


def test_two_used_values_of_one_colour_are_remarked_on(tmp_path):
    colours = [(0, 0, 0), (128, 0, 0), (128, 0, 0), (0, 0, 0)]
    path = indexed_png(tmp_path / "a.png", np.array([[0, 1, 2, 0]]), colours)
    (remark,) = remarks_on_colours(path)
    assert f"{path}: the values 1, 2 have one colour, (128, 0, 0), and become one class" in remark
    assert remarks_on_colours(indexed_png(path, np.array([[0, 1, 1]]), colours)) == []
    assert remarks_on_colours(save(path, np.zeros((2, 2, 3)))) == []
    path.write_bytes(b"no image")
    assert remarks_on_colours(path) == []


def test_painted_pixels_that_are_transparent_are_remarked_on(tmp_path):
    pixels = [[[128, 0, 0, 255], [0, 128, 0, 0], [255, 255, 255, 0], [0, 0, 0, 0]]]
    (remark,) = remarks_on_colours(save(tmp_path / "a.png", pixels))
    assert "a.png: 1 painted pixels are transparent, and read as unpainted (black)" in remark
    path = indexed_png(tmp_path / "p.png", np.array([[0, 1, 1]]), THREE, alpha=b"\xff\x00")
    assert read_colours(path).tolist() == [[0, 0, 0]]
    assert "2 painted pixels are transparent" in remarks_on_colours(path)[0]


def test_a_painted_mask_that_is_transparent_everywhere_is_refused(tmp_path):
    pixels = [[[128, 0, 0, 0], [0, 128, 0, 0]]]
    with pytest.raises(DataError, match=r"a.png is painted, and transparent everywhere"):
        read_colours(save(tmp_path / "a.png", pixels))
    assert read_colours(save(tmp_path / "a.png", np.zeros((1, 2, 4)))).tolist() == [[0, 0]]


# --- values of a file ---


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_three_equal_channels_are_ids_in_every_format(tmp_path, mode, suffix):
    values = np.array([[0, 1, 128], [255, 7, 0]], np.uint8)
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(voc_palette())
    elif suffix == ".bmp" and mode in ("LA", "RGBA"):
        pytest.skip("no such file")
    (image.convert(mode) if mode not in ("L", "P") else image).save(path)
    assert read_values(path).tolist() == values.tolist()


def test_gif_files_are_no_index_masks_since_writing_numbers_their_colours_anew(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8))
    image.putpalette(voc_palette())
    image.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as written:
        assert np.asarray(written).tolist() != [[0, 1, 128, 255]]  # the trap
    with pytest.raises(DataError, match=r"a.gif is a GIF file, whose values are not ids"):
        read_values(tmp_path / "a.gif")
    assert read_colours(tmp_path / "a.gif").tolist() == [[0, RED, code(0, 32, 0), CREAM]]


@pytest.mark.parametrize(
    ("pixels", "name", "message"),
    [
        (np.array([[0, 300, 300]], np.uint16), "a.png", r"values outside 0..255: 300 \(2 px\)"),
        (np.array([[0, 65535]], np.uint16), "a.tif", r"values outside 0..255: 65535 \(1 px\)"),
        (np.array([[0, -1]], np.int32), "a.tif", r"values outside 0..255: -1 \(1 px\)"),
        (np.array([[0, 0.5, 2]], np.float32), "a.tif", "1 pixels that are not whole numbers, such as 0.5"),
        (np.array([[0, np.nan, np.inf]], np.float32), "a.tif", "2 pixels that are not whole numbers, such as nan"),
        (np.array([[[1, 1, 2]]], np.uint8), "a.png", "has mode RGB: a colour image, expected class ids"),
        (np.array([[[1, 1, 1, 0]]], np.uint8), "a.png", "has 1 transparent pixels"),
        (np.array([[[1, 1, 1, 9], [0, 0, 0, 0]]], np.uint8), "a.tif", "has 1 transparent pixels"),
        (np.array([[True, False]]), "a.png", "has mode 1: a black-and-white image"),
        (np.array([[True, False]]), "a.bmp", "has mode 1: a black-and-white image"),
        (np.array([[True, False]]), "a.tif", "has mode 1: a black-and-white image"),
    ],
)
def test_values_that_are_no_ids_are_refused(tmp_path, pixels, name, message):
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        read_values(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_ids_kept_in_more_than_8_bits_are_read(tmp_path, kind):
    values = np.array([[0, 1, 200, 255]], kind)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = read_values(tmp_path / "a.tif")
    assert (found.dtype, found.tolist()) == (np.uint8, [[0, 1, 200, 255]])


def test_grey_whose_values_pillow_changes_is_refused_for_ids(tmp_path):
    """TIFF files in which 0 is white, and those of 4 bits a pixel: 1 would be read as 254, and as 17."""

    def grey_tiff(name: str, bits: int, photometric: int) -> Path:
        tags = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
        tags += [(273, 4, 1, 8 + 2 + 12 * 8 + 4), (278, 3, 1, 1), (279, 4, 1, 2 * bits // 8)]
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        pixels = b"\x01\x02" if bits == 8 else b"\x12"
        (tmp_path / name).write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels)
        return tmp_path / name

    assert read_values(grey_tiff("a.tif", 8, 1)).tolist() == [[1, 2]]
    for path in (grey_tiff("b.tif", 8, 0), grey_tiff("c.tif", 4, 1)):
        with Image.open(path) as image:
            assert np.asarray(image).tolist() != [[1, 2]]  # the trap
        with pytest.raises(DataError, match=r"less than 8 bits a pixel, or inverted"):
            read_values(path)


def test_a_bmp_of_os2_is_read(tmp_path):
    """Its header is shorter, and has the bits a pixel in another place."""
    palette = b"".join(bytes([value, value, value]) for value in range(256))
    pixels = bytes([0, 1, 255, 0])
    header = b"BM" + struct.pack("<IHHI", 26 + 768 + 4, 0, 0, 26 + 768) + struct.pack("<IHHHH", 12, 3, 1, 1, 8)
    (tmp_path / "a.bmp").write_bytes(header + palette + pixels)
    assert read_values(tmp_path / "a.bmp").tolist() == [[0, 1, 255]]


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
    path.write_text("no image")
    with pytest.raises(DataError, match="is damaged: cannot identify"):
        read_colours(path)


# --- colours to ids ---

TABLE = ClassTable(("background", "aeroplane", "bicycle"), {0: 0, RED: 1, GREEN: 2, CREAM: 255})


def test_unknown_colours_are_named_with_their_pixels():
    codes = np.array([[0, RED, code(127, 0, 0)], [CREAM, code(127, 0, 0), code(10, 200, 250)]], np.uint32)
    with pytest.raises(DataError) as caught:
        to_indices(codes, TABLE, Path("a.png"))
    assert caught.value.message == (
        "the mask a.png has colours that are not a class: (127, 0, 0) 2 px, nearest aeroplane (128, 0, 0); "
        "(10, 200, 250) 1 px"
    )
    assert "smoothed edges" in caught.value.hint
    with pytest.raises(DataError) as caught:
        to_indices(np.array([[code(10, 200, 250)]], np.uint32), TABLE, Path("a.png"))
    assert "add them to the class table" in caught.value.hint
    with pytest.raises(DataError, match=r"\(0, 0, 1\) 9 px, nearest background \(0, 0, 0\); .* and 4 more\n"):
        to_indices(np.repeat(np.arange(10), 9).reshape(9, 10).astype(np.uint32), TABLE, Path("a.png"))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 255))
def test_the_lookup_is_that_of_a_dictionary(seed, count):
    random = np.random.default_rng(seed)
    codes = random.choice(2**24, count, replace=False)
    colours = {int(value): index if index < count // 2 else 255 for index, value in enumerate(codes)}
    image = random.choice(codes, (5, 7)).astype(np.uint32)
    mask = to_indices(image, ClassTable(("x",) * 255, colours), Path("a.png"))
    assert mask.tolist() == [[colours[int(value)] for value in row] for row in image]


def test_ids_are_renumbered():
    table = ClassTable(("background", "pet"), values={2: 0, 1: 1, 3: 255, 255: 255})
    assert renumber(np.array([[1, 2, 3, 255]], np.uint8), table, Path("a.png")).tolist() == [[1, 0, 255, 255]]
    with pytest.raises(DataError, match=r"values that are not a class: 0 \(2 px\), 4 \(1 px\); .* has 1..3, 255\n"):
        renumber(np.array([[0, 0, 4, 1]], np.uint8), table, Path("a.png"))
    plain = ClassTable(("background", "pet"))
    assert renumber(np.array([[0, 1, 255]], np.uint8), plain, Path("a.png")).tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"2 \(1 px\); the table has 0..1, 255"):
        renumber(np.array([[2]], np.uint8), plain, Path("a.png"))


# --- tables and masks together ---

NAME = st.from_regex(r"[a-z][a-z-]{0,7}( [a-z]{1,5})?", fullmatch=True).filter(
    lambda name: name not in ("bg", "name", "id", "ignore", "ignored", "void", "unknown", "undefined")
)


@settings(max_examples=60)
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
