from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from artifacts.errors import DataError
from artifacts.masks import encode_mask, read_mask, voc_palette, write_mask

# colours of the VOC 2012 development kit's documentation: background, aeroplane, bicycle, ..., tv/monitor
VOC_COLOURS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


@pytest.fixture
def mask() -> np.ndarray:
    image = np.kron(np.random.default_rng(0).integers(0, 21, (5, 7)), np.ones((6, 6))).astype(np.uint8)
    image[0] = 255
    return image  # (30, 42)


def png_of(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def refusal(path: Path, *arguments, **named) -> str:
    with pytest.raises(DataError) as caught:
        read_mask(path, *arguments, **named)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=17), elements=st.integers(0, 255))


@given(masks)
def test_any_mask_comes_back_as_it_was(tmp_path_factory, any_mask):
    path = tmp_path_factory.getbasetemp() / "any.png"
    write_mask(path, any_mask)
    np.testing.assert_array_equal(read_mask(path), any_mask)
    with Image.open(path) as image:  # the independent reader
        assert image.mode == "P"
        assert bytes(image.getpalette()) == voc_palette()
        np.testing.assert_array_equal(np.asarray(image), any_mask)


def test_voc_palette_has_vocs_colours():
    palette = voc_palette()
    assert len(palette) == 768
    for index, colour in VOC_COLOURS.items():
        assert tuple(palette[3 * index : 3 * index + 3]) == colour


def test_equal_masks_give_equal_bytes(mask):
    assert encode_mask(mask) == encode_mask(np.asfortranarray(mask.copy()))


def test_own_palette(tmp_path, mask):
    palette = bytes(reversed(range(256))) * 3
    write_mask(tmp_path / "m.png", mask, palette)
    with Image.open(tmp_path / "m.png") as image:
        assert bytes(image.getpalette()) == palette
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.int64), np.zeros((4, 4), bool), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_write_refuses_what_is_no_mask(tmp_path, wrong):
    with pytest.raises(ValueError, match="uint8"):
        write_mask(tmp_path / "m.png", wrong)
    assert not (tmp_path / "m.png").exists()


def test_grey_8_bit_masks_are_read_by_value(tmp_path, mask):
    path = png_of(tmp_path / "grey.png", mask)
    np.testing.assert_array_equal(read_mask(path, 21), mask)


def test_palette_is_not_turned_into_grey_values(tmp_path, mask):
    """Pillow's convert("L") would read class 1, dark red, as 38."""
    write_mask(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as image:
        assert not np.array_equal(np.asarray(image.convert("L")), mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indexed_masks_of_few_bits_are_read_by_index(tmp_path, bits):
    mask = np.arange(2**bits, dtype=np.uint8)[None].repeat(3, axis=0)
    image = Image.fromarray(mask)
    image.putpalette(voc_palette())
    image.save(tmp_path / "m.png", bits=bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of few bits a pixel, put together by hand from the PNG specification."""
    height, width = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    digits = ["".join(f"{value:0{bits}b}" for value in row).ljust(-(-width * bits // 8) * 8, "0") for row in values]
    rows = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in digits)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_are_refused_since_pillow_stretches_them(tmp_path, bits):
    path = tmp_path / "m.png"
    values = np.array([[0, 1, 2, 3, 1]])
    path.write_bytes(grey_png(values, bits))
    with Image.open(path) as image:
        assert np.asarray(image).tolist() != values.tolist()  # the trap
    assert "less than 8 bits" in refusal(path)


def test_colour_image_is_refused_by_name(tmp_path, mask):
    path = png_of(tmp_path / "m.png", np.repeat(mask[:, :, None], 3, axis=2))
    assert "has mode RGB: a colour image, not an index mask" in refusal(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "1", "I;16"])
def test_other_modes_are_refused_by_name(tmp_path, mode):
    path = png_of(tmp_path / "m.png", np.zeros((4, 4), np.uint8), mode)
    assert f"has mode {mode}" in refusal(path)


def test_jpeg_under_a_png_name_is_refused(tmp_path, mask):
    path = png_of(tmp_path / "m.png", mask, format="JPEG")
    assert "is not a PNG file" in refusal(path)


def test_size_is_width_height_and_both_are_named(tmp_path, mask):
    path = tmp_path / "m.png"
    write_mask(path, mask)
    assert read_mask(path, size=(42, 30)).shape == (30, 42)
    assert "is 42x30 (width x height), expected 30x42" in refusal(path, size=(30, 42))


def test_values_outside_the_classes_are_named_with_their_counts(tmp_path):
    mask = np.array([[0, 1, 2, 5], [5, 5, 9, 255]], np.uint8)
    path = tmp_path / "m.png"
    write_mask(path, mask)
    assert "5 (3 px), 9 (1 px); expected 0..2 and 255 for ignore" in refusal(path, 3)
    np.testing.assert_array_equal(read_mask(path, 10), mask)
    message = refusal(path, 10, allow_ignore=False)
    assert "255 (1 px); expected 0..9" in message
    assert "for ignore" not in message


def test_many_wrong_values_are_not_all_listed(tmp_path):
    path = tmp_path / "m.png"
    write_mask(path, np.arange(20, dtype=np.uint8)[None])
    assert "7 (1 px) and 12 more values" in refusal(path, 3)


def test_missing_mask_is_named(tmp_path):
    assert "is missing" in refusal(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    assert "is missing" in refusal(tmp_path / "folder.png")


def test_an_empty_mask_is_to_be_copied_again(tmp_path):
    """Its cure is that of a damaged file; that of a JPEG would say nothing here."""
    path = tmp_path / "m.png"
    path.touch()
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)") as caught:
        read_mask(path)
    assert "copy or extract the file again" in caught.value.hint
    assert "lossy" not in caught.value.hint


def test_a_mask_without_permission_is_named_with_the_cure(nobodys_folder, mask):
    path = nobodys_folder / "m.png"
    write_mask(path, mask)
    path.chmod(0)
    assert "cannot be read: permission denied" in refusal(path)


def test_cut_at_any_byte_is_refused(tmp_path, mask):
    data = encode_mask(mask)
    path = tmp_path / "m.png"
    for length in [*range(0, len(data), 7), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        message = refusal(path)
        assert "damaged" in message or "is empty" in message or "is not a PNG" in message


def test_one_flipped_bit_anywhere_is_refused(tmp_path, mask):
    """Pillow alone reads many of these without an error: it skips the checksums of the pixel data."""
    data = encode_mask(mask)
    path = tmp_path / "m.png"
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        refusal(path)


def test_text_after_the_end_of_the_png_does_no_harm(tmp_path, mask):
    path = tmp_path / "m.png"
    path.write_bytes(encode_mask(mask) + b"appended by some tool")
    np.testing.assert_array_equal(read_mask(path), mask)


@pytest.mark.real
def test_masks_of_a_real_voc_devkit():
    if "SEMISEG_TEST_DATA" not in os.environ:
        pytest.skip("SEMISEG_TEST_DATA names no folder with real data")
    found = sorted(Path(os.environ["SEMISEG_TEST_DATA"]).glob("data/voc-*/**/Segmentation*/*.png"))[:50]
    if not found:
        pytest.skip("no VOC masks below SEMISEG_TEST_DATA")
    for path in found:
        mask = read_mask(path, 21)
        buffer = io.BytesIO(encode_mask(mask))
        with Image.open(path) as original, Image.open(buffer) as again:
            np.testing.assert_array_equal(np.asarray(original), np.asarray(again))
