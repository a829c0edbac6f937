"""Index masks: PNG files of mode P whose pixel value is the class id.

Value 0 is background, 1..num_classes-1 are the objects, 255 is "ignore" (void border, unknown). The palette
is only for viewers. Reading a mask through `convert("L")` would replace ids by the grey values of the palette without
an error, so `read_mask` reads the indices as stored and raises an error for everything that is not an index mask.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.errors import DataError

IGNORE = 255
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_COPY_AGAIN = "copy or extract the file again from its source"
_WHAT_IT_IS = {
    "RGB": "a colour image, not an index mask",
    "RGBA": "a colour image with transparency, not an index mask",
    "LA": "a grey image with transparency, not an index mask",
    "1": "a black-and-white image, not an index mask",
}


@lru_cache(maxsize=1)
def voc_palette() -> bytes:
    """Return PASCAL VOC's colour map as 768 bytes: R, G, B of index 0..255 (VOC devkit, VOClabelcolormap.m).

    The bits of the index are distributed over the three channels in turn; low bits of the index are high bits of the
    colour. Index 255, ignore, gets the cream of VOC's borders, (224, 224, 192).
    """
    palette = bytearray(768)
    for index in range(256):
        for bit in range(8):
            palette[3 * index + bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return bytes(palette)


def write_mask(path: Path | str, mask: np.ndarray, palette: bytes | None = None) -> None:
    """Write an index mask as an 8-bit PNG of mode P. Equal masks give equal bytes.

    mask: uint8 (H, W), class ids with 255 for ignore. palette: 768 bytes, default VOC's.
    The bytes are written in one go; inside an artifact wrap the call in `writer.item(...)` so that a kill
    cannot leave half a file. Raises ValueError for a wrong dtype or shape.
    """
    Path(path).write_bytes(encode_mask(mask, palette))


def encode_mask(mask: np.ndarray, palette: bytes | None = None) -> bytes:
    """Return the bytes that `write_mask` writes."""
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask is uint8 (H, W) with at least one pixel, got {mask.dtype} {mask.shape}")
    palette = voc_palette() if palette is None else palette
    if len(palette) != 768:
        raise ValueError(f"a palette has 256 x 3 = 768 bytes, got {len(palette)}")
    image = Image.fromarray(np.ascontiguousarray(mask))  # mode L ...
    image.putpalette(palette)  # ... and P from here on; the full palette keeps it at 8 bits a pixel
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)  # level 9 takes ten times as long for a fifth fewer bytes
    return buffer.getvalue()


def read_mask(
    path: Path | str,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    allow_ignore: bool = True,
) -> np.ndarray:
    """Read an index mask as uint8 (H, W).

    num_classes: refuse values >= num_classes (255 excepted if `allow_ignore`); None: any value passes.
    size: the expected (W, H), that of the image, in Pillow's order.
    Raises DataError, with the file's name, for: a missing, unreadable, empty, truncated or damaged file, a
    format other than PNG, a mode other than P or L (8 bits), a different size, values outside the classes.
    """
    path = Path(path)
    mode, bits, mask = read_png(path, "mask", ("P", "L"), size)
    if mask is None:
        what = _WHAT_IT_IS.get(mode, "16-bit or other values, not an index mask")
        raise DataError(
            f"mask {path} has mode {mode}: {what} (expected mode P or L, pixel value = class id)",
            "write the class ids as an indexed PNG; colours have to be mapped back to ids first",
        )
    if mode == "L" and bits < 8:  # Pillow stretches their values to 0..255, so ids would be lost
        raise DataError(
            f"mask {path} is a grey PNG of less than 8 bits a pixel; its values would be rescaled on reading",
            "write the class ids as an 8-bit indexed PNG (mode P)",
        )
    if num_classes is not None:
        _check_values(path, mask, num_classes, allow_ignore)
    return mask


def read_png(
    path: Path, what: str, modes: Collection[str], size: tuple[int, int] | None = None
) -> tuple[str, int, np.ndarray | None]:
    """Mode, bits of a channel and values, uint8 (H, W), of a PNG; no values if its mode is not one of `modes`.

    what: the name of the file in messages, "mask". size: the expected (W, H), compared before anything is decoded.
    Raises DataError for a file that is missing, unreadable, empty, not a PNG, damaged, or of a different size.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f"{what} {path} is missing", "add the file, or remove its id from the list") from None
    except PermissionError:
        raise DataError(f"{what} {path} cannot be read: permission denied", "correct its permissions") from None
    if not data:
        raise DataError(f"{what} {path} is empty (0 bytes)", _COPY_AGAIN)
    if not data.startswith(PNG_SIGNATURE):
        raise DataError(
            f"{what} {path} is not a PNG file", "masks are indexed PNG files: lossy formats change the class ids"
        )
    if damage := png_damage(data):
        raise DataError(f"{what} {path} is damaged: {damage}", _COPY_AGAIN)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            mode, found = image.mode, image.size
            fits = mode in modes and size in (None, found)
            values = np.array(image, dtype=np.uint8) if fits else None
    except Exception as error:  # Pillow raises errors of any type for forged bytes
        raise DataError(f"{what} {path} is damaged: {error}", _COPY_AGAIN) from error
    if mode in modes and values is None and size is not None:
        raise DataError(
            f"{what} {path} is {found[0]}x{found[1]} (width x height), expected {size[0]}x{size[1]}, "
            "the size of its image",
            f"a {what} has the size of its image; resize masks with nearest neighbour only",
        )
    return mode, data[24], values


def png_damage(data: bytes) -> str | None:
    """Return what is wrong with the bytes of a PNG, or None: its chunks and their CRC-32 are checked.

    Pillow skips the checksums of the pixel data, and accepts a file without its end if it has all pixels.
    """
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        (expected,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != expected:
            return f"wrong checksum in the chunk {kind.decode('latin-1')!r} at byte {position}"
        if kind == b"IEND":
            return None
        position = end
    return f"truncated after {len(data)} bytes"


def _check_values(path: Path, mask: np.ndarray, num_classes: int, allow_ignore: bool) -> None:
    outside = mask >= num_classes
    if allow_ignore:
        outside &= mask != IGNORE
    if not outside.any():
        return
    values, counts = np.unique(mask[outside], return_counts=True)
    found = ", ".join(f"{value} ({count} px)" for value, count in zip(values[:5], counts[:5], strict=True))
    more = f" and {len(values) - 5} more values" if len(values) > 5 else ""
    ignore = " and 255 for ignore" if allow_ignore else ""
    raise DataError(
        f"mask {path} has values outside the classes: {found}{more}; expected 0..{num_classes - 1}{ignore}",
        "correct the number of classes, or map the mask's ids to those of the data set",
    )
