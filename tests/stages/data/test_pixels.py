"""Images of more than 8 bits, with alpha, further bands or several pages: what becomes of them, and what is said."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from artifacts.errors import DataError
from stages.data.pixels import read, read_header, remarks_in_words

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def tiff(path: Path, values: np.ndarray, **how: object) -> Path:
    tifffile.imwrite(path, values, **how)
    return path


def png(path: Path, values: np.ndarray, significant: int = 0) -> Path:
    """A PNG of 16 bits, uint16 (H, W) or (H, W, 3), with a chunk sBIT where `significant` is given."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = (*values.shape, 1)[:3]
    head = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    said = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + said + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


# ------------------------------------------------------------------------------------------------- tones


def test_floats_of_0_to_1_became_two_grey_levels(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    reading = read(tiff(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(reading.pixels, grey(np.arange(256).reshape(16, 16)))
    assert reading.remarks == {"floats": "read as 0..1"}


@pytest.mark.parametrize(("top", "divisor"), [(255, 1), (65535, 256)])
def test_floats_of_0_to_255_and_to_65535_stay_what_they_were(tmp_path, top, divisor):
    values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    expected = grey(np.floor(values / divisor))
    np.testing.assert_array_equal(read(tiff(tmp_path / "a.tif", values)).pixels, expected)


def test_floats_a_little_above_1_are_remarked_on_and_the_setting_reads_them(tmp_path):
    values = np.linspace(0, 1.25, 256, dtype=np.float32).reshape(16, 16)
    path = tiff(tmp_path / "a.tif", values)
    assert read(path).remarks["levels"] == "0..1.25 of 0..255, 2 grey levels"
    said = read(path, white=1.25)
    np.testing.assert_array_equal(said.pixels, grey(np.arange(256).reshape(16, 16)))
    assert said.remarks == {}
    assert read(path, white=1).remarks == {"clipped": "0..1.25 of 0..1"}
    assert read(path, white=1).pixels.max() == 255


@pytest.mark.parametrize("values", [[[0.0, np.nan]], [[0.0, np.inf]], [[-1.0, 1.0]], [[0.0, 70000.0]]])
def test_floats_that_are_no_brightness_are_refused(tmp_path, values):
    with pytest.raises(DataError, match=r"a\.tif cannot be read: it has values"):
        read(tiff(tmp_path / "a.tif", np.array(values, np.float32)))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_10_and_12_bits_in_files_of_16_became_a_few_grey_levels_without_a_word(tmp_path, kind, bits):
    values = RAMP[: 2**bits // 64]
    path = png(tmp_path / "a.png", values) if kind == "png" else tiff(tmp_path / "a.tif", values)
    assert read(path).remarks == {"levels": f"0..{2**bits - 1} of 0..65535, {2**bits // 256} grey levels"}
    said = read(path, white=2**bits - 1)
    np.testing.assert_array_equal(said.pixels, grey(values // 2 ** (bits - 8)))
    assert said.remarks == {}


def test_the_range_that_a_file_declares_is_its_range(tmp_path):
    expected = grey(RAMP // 16)
    for path in (
        png(tmp_path / "a.png", RAMP, significant=12),
        tiff(tmp_path / "most.tif", RAMP, extratags=[(281, "H", 1, 4095, True)]),
        _packed(tmp_path / "packed.tif"),
    ):
        reading = read(path)
        np.testing.assert_array_equal(reading.pixels, expected)
        assert reading.remarks == {}


def _packed(path: Path) -> Path:
    """RAMP as a TIFF file whose pixels have 12 bits."""
    digits = "".join(f"{value:03x}" for value in RAMP.ravel())
    tags = [
        (256, 64),
        (257, 64),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 134),
        (277, 1),
        (278, 64),
        (279, len(digits) // 2),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + b"\0\0\0\0"
    path.write_bytes(head.ljust(134, b"\0") + bytes.fromhex(digits))
    return path


def test_fewer_bits_that_lie_in_the_upper_ones_are_full_range(tmp_path):
    """As PNG asks for, whatever its chunk sBIT says of their number."""
    np.testing.assert_array_equal(read(png(tmp_path / "a.png", RAMP * 16, significant=12)).pixels, grey(RAMP // 16))
    dark = RAMP[:2] * 16  # no value above 2047
    np.testing.assert_array_equal(read(png(tmp_path / "b.png", dark, significant=12)).pixels, grey(dark // 256))


def test_a_largest_value_that_is_a_statistic_declares_no_range(tmp_path):
    values = np.arange(60000, dtype=np.uint16).reshape(200, 300)
    path = tiff(tmp_path / "a.tif", values, extratags=[(281, "H", 1, 59999, True)])
    np.testing.assert_array_equal(read(path).pixels, grey(values // 256))


@pytest.mark.parametrize("kind", ["png", "little", "big", "deflated"])
def test_colours_of_16_bits_are_read_by_the_same_rules(tmp_path, kind):
    full = np.random.default_rng(0).integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    few = full // 16

    def write(name: str, values: np.ndarray) -> Path:
        how = {"big": {"byteorder": ">"}, "deflated": {"compression": "zlib"}}.get(kind, {})
        if kind == "png":
            return png(tmp_path / f"{name}.png", values)
        return tiff(tmp_path / f"{name}.tif", values, photometric="rgb", **how)

    assert read_header(write("full", full)).deep
    np.testing.assert_array_equal(read(write("full", full)).pixels, full // 256)
    assert read(write("full", full)).remarks == {}
    reading = read(write("few", few))
    np.testing.assert_array_equal(reading.pixels, few // 256)
    assert list(reading.remarks) == ["levels"]
    np.testing.assert_array_equal(read(write("few", few), white=4095).pixels, few // 16)


def test_16_bits_with_alpha_lie_on_white(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 9, 4)).astype(np.uint16)
    values[..., 3] = 65535
    values[:4, :, 3] = 0
    path = tiff(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    expected = values[..., :3] // 256
    expected[:4] = 255
    np.testing.assert_array_equal(read(path).pixels, expected)


def test_16_bits_whose_white_is_0_came_as_negatives(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 9)).astype(np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read(path).pixels, grey(255 - values // 256))


def test_planes_of_16_bits_were_read_as_planes_of_8(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (3, 8, 9)).astype(np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match=r"a\.tif cannot be read: its 16-bit channels are stored as planes"):
        read(path)
    path = tiff(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate", compression="zlib")
    np.testing.assert_array_equal(read(path).pixels, np.moveaxis(values, 0, -1) // 256)


@pytest.mark.parametrize(
    ("values", "held"),
    [(np.zeros((8, 9), np.float64), "64 bits a pixel"), (np.zeros((8, 9, 3), np.float32), "3 bands")],
)
def test_tiff_files_that_pillow_does_not_read_say_what_they_hold(tmp_path, values, held):
    with pytest.raises(DataError, match=rf"a\.tif cannot be read: cannot identify it: a TIFF file with {held}"):
        read(tiff(tmp_path / "a.tif", values))


def test_the_range_of_pgm_files_is_their_largest_value(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 64 64 4095\n" + RAMP.astype(">u2").tobytes())
    reading = read(path)
    np.testing.assert_allclose(reading.pixels, grey(RAMP // 16), atol=1)
    assert reading.remarks == {}
    dark = RAMP[:4]
    path.write_bytes(b"P5 64 4 65535\n" + dark.astype(">u2").tobytes())
    assert read(path).pixels.max() == 0  # no value above 255 of 65535


# ------------------------------------------------------------------------------------------------- alpha and bands

COLOURS = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("how", ["png", "tif", "multiplied", "grey", "palette", "webp"])
def test_alpha_of_0_everywhere_made_an_image_white(tmp_path, how):
    rgba = np.dstack([COLOURS, np.zeros((6, 9), np.uint8)])
    expected, path = COLOURS, tmp_path / f"a.{how if how in ('tif', 'webp') else 'png'}"
    if how == "grey":
        Image.fromarray(rgba[..., 2:], "LA").save(path)
        expected = grey(COLOURS[..., 2])
    elif how == "palette":
        image = Image.fromarray(COLOURS[..., 0] % 4)
        image.putpalette([9, 8, 7, 60, 50, 40, 1, 2, 3, 99, 98, 97])
        image.save(path, transparency=bytes(4))
        expected = np.asarray(image.convert("RGB"))
    elif how == "multiplied":
        path = tiff(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["assocalpha"])
    elif how == "webp":
        Image.fromarray(rgba).save(path, lossless=True, exact=True)
    else:
        Image.fromarray(rgba).save(path)
    reading = read(path)
    np.testing.assert_array_equal(reading.pixels, expected)
    assert list(reading.remarks) == ["transparent"]


def test_alpha_of_0_in_places_is_white_there(tmp_path):
    rgba = np.dstack([COLOURS, np.full((6, 9), 255, np.uint8)])
    rgba[:2, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = COLOURS.copy()
    expected[:2] = 255
    assert read(tmp_path / "a.png").remarks == {}
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, expected)


@pytest.mark.parametrize("extra", ["unspecified", None])
def test_a_fourth_band_that_is_not_declared_as_alpha_is_not_alpha(tmp_path, extra):
    bands = np.random.default_rng(2).integers(0, 256, (6, 9, 4), np.uint8)
    path = tmp_path / "a.tif"
    if extra:
        tiff(path, bands, photometric="rgb", extrasamples=[extra])
    else:
        buffer = io.BytesIO()
        Image.fromarray(bands).save(buffer, format="TIFF")
        data = bytearray(buffer.getvalue())
        place = data.index(struct.pack("<HHI", 338, 3, 1))
        data[place : place + 2] = struct.pack("<H", 65000)  # a tag of no meaning
        path.write_bytes(bytes(data))
    reading = read(path)
    np.testing.assert_array_equal(reading.pixels, bands[..., :3])
    assert ("fourth-band" in reading.remarks) == (extra is None)


def test_a_measurement_in_the_place_of_alpha_is_remarked_on(tmp_path):
    bands = np.random.default_rng(2).integers(1, 255, (6, 9, 4), np.uint8)
    assert read(tiff(tmp_path / "a.tif", bands, photometric="rgb", extrasamples=["unassalpha"])).remarks == {
        "half-transparent": "100 %"
    }


# ------------------------------------------------------------------------------------------------- other kinds


def test_of_several_pages_and_frames_the_first_is_read_and_the_others_are_spoken_of(tmp_path):
    frames = [Image.fromarray(np.full((6, 9), value, np.uint8)) for value in (40, 90, 200)]
    for name in ("a.tif", "a.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        reading = read(tmp_path / name)
        np.testing.assert_array_equal(reading.pixels, np.full((6, 9, 3), 40))
        assert reading.remarks == {"frames": "3 images"}


@pytest.mark.parametrize("name", ["a.gif", "a.ppm", "a.jp2", "a.jfif", "a.tga", "a.pbm"])
def test_further_formats_of_pillow_are_read(tmp_path, name):
    image = Image.fromarray(COLOURS).convert("1" if name == "a.pbm" else "RGB")
    image.save(tmp_path / name, format="JPEG" if name == "a.jfif" else None)
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(read(tmp_path / name).pixels, np.asarray(opened.convert("RGB")))


def test_an_image_without_pixels_or_with_too_many_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "a.pgm").write_bytes(b"P5 0 4 255\n")
    with pytest.raises(DataError, match=r"a\.pgm cannot be read"):
        read(tmp_path / "a.pgm")
    Image.fromarray(COLOURS).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"b\.png cannot be read: it has more than 20 pixels, the most that are read"):
        read(tmp_path / "b.png")


def test_remarks_are_counted_and_name_images():
    found = {f"{n}.tif": {"levels": f"0..{n} of 0..65535"} for n in range(7)}
    (sentence,) = remarks_in_words(found, "white")
    assert sentence.startswith("7 images (values in a small part of the range): 0.tif (0..0 of 0..65535), 1.tif")
    assert "and 2 more" in sentence
    assert "--set white=4095" in sentence
