"""EXIF blocks as no camera writes them, in JPEG, PNG, WebP and TIFF files, through the readers of images.

An image has its size whatever its EXIF says, and its pixels lie as one of the eight orientations has them: as the tag
says it where it is a whole number of 1 to 8, whatever else is broken; as they are stored where it is anything else.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import read_image
from artifacts.errors import DataError
from stages.data.images import ImageFolder
from stages.data.photographs import look_at

H, W = 3, 5
PIXELS = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of TIFF types
ORIENTATION, EXIF_IFD, GPS_IFD, INTEROP, MAKER_NOTE = 0x0112, 0x8769, 0x8825, 0xA005, 0x927C
Entry = tuple[int, int, int, bytes]  # tag, type, count, 4 bytes: the value or its place


def fuzz(rng: random.Random, folder: Path) -> str:
    suffix = rng.choice(("jpg", "png", "webp", "tif"))
    kind = rng.choice(("valid", "valid", "odd", "odd", "broken beside", "broken beside", "mutated", "truncated"))
    order = rng.choice("<>")
    value = rng.randint(1, 8)
    orientation = (ORIENTATION, rng.choice((3, 3, 3, 4)), 1, b"")
    orientation = (*orientation[:3], _packed(order, orientation[1], value))
    if kind == "odd":
        orientation, value = _odd(rng, order), 1
    others = [_broken(rng, order) for _ in range(rng.randint(1, 4))] if kind != "valid" else []
    entries = sorted([orientation, *others], key=lambda entry: entry[0])
    data = _tiff(order, entries) if suffix == "tif" else _with_block(suffix, _block(order, entries), rng)
    if kind == "mutated":
        data = _mutated(rng, data)
    elif kind == "truncated":
        data = data[: rng.randrange(len(data))]
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(path, value if kind in ("valid", "odd", "broken beside") else None)


def _read(path: Path, orientation: int | None) -> str:
    """Reads an image in all ways; `orientation`: the one it must have, None: any."""
    images = ImageFolder(path.parent)
    readers = (images.image, images.size, lambda _: look_at(path, None, True, "auto", True))
    refusals = [message for reader in readers if (message := refusal(reader))]
    assert all(str(path) in message for message in refusals)
    if refusals:
        # Both who read the pixels refuse the file, and only for what is broken: a tag is enough in TIFF.
        assert len(refusals) >= 2
        assert orientation is None or path.suffix == ".tif", refusals
        return "refused"
    pixels = images.image("a")
    assert images.size("a") == pixels.shape[:2]
    for exif in ("apply", "ignore", "auto"):
        image = look_at(path, None, True, exif, True)
        kept = read_image(path) if image.copy is None else np.asarray(Image.open(io.BytesIO(image.copy)))
        assert image.size == kept.shape[:2]
        if exif != "ignore":
            np.testing.assert_array_equal(kept, pixels)
    if orientation is None:
        return "read"
    with Image.open(io.BytesIO(_plain(path.suffix[1:]))) as plain:
        stored = np.asarray(plain.convert("RGB"))
    np.testing.assert_array_equal(pixels, shown(stored, orientation))
    return f"read as {orientation}"


def refusal(reader: Callable[[str], object]) -> str:
    try:
        reader("a")
    except DataError as error:
        return error.message
    return ""


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Where each stored pixel lies as viewers show it (TIFF 6.0, tag 274)."""
    height, width = stored.shape[:2]
    turned = np.zeros((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            back_y, back_x = height - 1 - y, width - 1 - x
            places = [
                (y, x),
                (y, back_x),
                (back_y, back_x),
                (back_y, x),
                (x, y),
                (x, back_y),
                (back_x, back_y),
                (back_x, y),
            ]
            turned[places[orientation - 1]] = stored[y, x]
    return turned


# ------------------------------------------------------------------------------------------------- blocks


def _packed(order: str, kind: int, value: int) -> bytes:
    return struct.pack(order + {3: "H", 4: "I"}[kind], value).ljust(4, b"\0")


def _odd(rng: random.Random, order: str) -> Entry:
    """An orientation that is not a whole number of 1 to 8."""
    kind, count, value = rng.choice(
        (
            (2, 2, b"6\0\0\0"),  # text
            (7, 1, b"\6\0\0\0"),  # bytes
            (1, 1, b"\6\0\0\0"),
            (3, 2, struct.pack(order + "HH", 6, 6)),
            (3, 1, struct.pack(order + "HH", rng.choice((0, 9, 10, 255, 256, 65535)), 0)),
            (4, 1, struct.pack(order + "I", rng.choice((0, 9, 65536, 2**32 - 1)))),
            (9, 1, struct.pack(order + "i", rng.randint(-9, 0))),
            (11, 1, struct.pack(order + "f", rng.choice((6.0, 6.5, float("nan"), float("inf"))))),
            (5, 1, struct.pack(order + "I", 0)),  # a rational, somewhere
            (12, 1, struct.pack(order + "I", 8)),
            (rng.choice((0, 14, 99, 65535)), 1, b"\6\0\0\0"),
            (3, 0, b"\6\0\0\0"),
            (3, rng.choice((9, 60_000, 2**31)), struct.pack(order + "I", rng.choice((0, 8, 9999, 2**32 - 1)))),
        )
    )
    return ORIENTATION, kind, count, value


def _broken(rng: random.Random, order: str) -> Entry:
    """A tag beside the orientation, of any kind, that leads anywhere. None that says how a TIFF file's pixels lie."""
    tags = (
        0x010E,
        0x010F,
        0x0131,
        0x0132,
        0x02BC,
        0x8298,
        EXIF_IFD,
        GPS_IFD,
        INTEROP,
        MAKER_NOTE,
        0x9286,
        0xC4A5,
        0xFFFF,
    )
    count = rng.choice((0, 1, 2, 4, 5, 100, 2**16, 2**32 - 1))
    place = rng.choice((0, 1, 4, 8, 20, 10_000, 2**31, 2**32 - 1, rng.getrandbits(32)))
    return rng.choice(tags), rng.choice((*SIZES, 0, 77)), count, struct.pack(order + "I", place)


def _directory(order: str, entries: list[Entry]) -> bytes:
    packed = b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return struct.pack(order + "H", len(entries)) + packed + b"\0\0\0\0"


def _head(order: str) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)


def _block(order: str, entries: list[Entry]) -> bytes:
    return _head(order) + _directory(order, entries)


def _tiff(order: str, entries: list[Entry]) -> bytes:
    """A TIFF file of PIXELS with further tags."""

    def short(tag: int, *values: int) -> Entry:
        return tag, 3, len(values), struct.pack(f"{order}{len(values)}H", *values).ljust(4, b"\0")

    def long(tag: int, value: int) -> Entry:
        return tag, 4, 1, struct.pack(order + "I", value)

    said = {entry[0]: entry for entry in entries}
    count = len(said) + 9
    bits = 8 + 2 + 12 * count + 4
    own = [short(256, W), short(257, H), (258, 3, 3, struct.pack(order + "I", bits)), short(259, 1), short(262, 2)]
    own += [long(273, bits + 6), short(277, 3), short(278, H), long(279, PIXELS.size)]
    directory = _directory(order, sorted([*own, *said.values()], key=lambda entry: entry[0]))
    return _head(order) + directory + struct.pack(order + "HHH", 8, 8, 8) + PIXELS.tobytes()


# ------------------------------------------------------------------------------------------------- files


def _plain(suffix: str) -> bytes:
    buffer = io.BytesIO()
    how = {"jpg": {"format": "JPEG", "quality": 95}, "webp": {"format": "WEBP", "lossless": True}}
    Image.fromarray(PIXELS).save(buffer, **how.get(suffix, {"format": "PNG"}))
    return buffer.getvalue()


def _with_block(suffix: str, block: bytes, rng: random.Random) -> bytes:
    """A file of PIXELS with an EXIF block."""
    plain = _plain(suffix)
    if suffix == "jpg":
        body = b"Exif\0\0" + block
        return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    if suffix == "png":
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        place = rng.choice((33, len(plain) - 12))  # behind IHDR, or behind the pixels
        return plain[:place] + chunk + plain[place:]
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="WEBP", lossless=True, exif=block)
    return buffer.getvalue()


def _mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 6, 255, rng.randrange(256)))
    return bytes(changed)
