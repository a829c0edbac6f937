"""Image files opened, turned and refused: the orientation by itself, and reasons that name what to do."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artifacts.dataset import read_image
from artifacts.errors import DataError
from artifacts.image_files import open_image, orientation, stored_size, turned

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)


def saved(kind: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=kind, **options)
    return buffer


def block(kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    head = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    return head + struct.pack(order + "HHHI", 1, 0x0112, kind, count) + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_an_orientation_is_a_short_or_a_long(order, value):
    for kind, letter in ((3, "H"), (4, "I")):
        exif = b"Exif\0\0" + block(kind, 1, struct.pack(order + letter, value), order)
        for saved_as in ("JPEG", "PNG", "WEBP"):
            with open_image(saved(saved_as, exif=exif)) as image:
                assert orientation(image) == value


@pytest.mark.parametrize(
    "exif",
    [
        block(2, 2, b"6"),
        block(7, 1, b"\6"),
        block(3, 2, b"\6\0\6"),
        block(11, 1, struct.pack("<f", 6)),
        b"II*\0",
        b"",
        b"junk",
    ],
)
def test_what_is_no_whole_number_is_no_orientation(exif):
    with open_image(saved("JPEG", exif=b"Exif\0\0" + exif)) as image:
        assert orientation(image) == 1
        np.testing.assert_array_equal(np.asarray(turned(image, orientation(image))), np.asarray(image))


@pytest.mark.parametrize(("value", "expected"), [("6", 6), ("9", 1), ("0", 1), ("x", 1)])
def test_the_orientation_of_xmp_counts_where_exif_has_none(value, expected):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta tiff:Orientation="{value}"/>')
    with open_image(saved("PNG", pnginfo=info)) as image:
        assert orientation(image) == expected


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("value", [1, 6])
def test_a_tiff_file_comes_as_it_is_stored_and_is_turned_once(bigtiff, value):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS, photometric="rgb", bigtiff=bigtiff, extratags=[(0x0112, "H", 1, value, True)])
    for wanted in (1, value):
        with open_image(io.BytesIO(buffer.getvalue())) as image:
            assert orientation(image) == value
            assert stored_size(image) == (3, 5)
            pixels = np.asarray(turned(image, wanted))
        np.testing.assert_array_equal(pixels, PIXELS if wanted == 1 else np.rot90(PIXELS, -1))


def test_a_file_that_needs_a_package_says_which(tmp_path: Path):
    path = tmp_path / "a.jpg"  # as telephones name them
    for brand, package in ((b"heic", "pillow-heif"), (b"mif1", "pillow-heif")):
        path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
        with pytest.raises(DataError, match=rf"a\.jpg cannot be read: it needs the package {package}"):
            read_image(path)
