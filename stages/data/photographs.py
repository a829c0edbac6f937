"""One picture of a data set: its size, and an RGB copy of it where it cannot serve as it lies on disk.

Data sets are read pixel by pixel as they are stored (artifacts.dataset.read_image): masks are drawn on stored pixels,
and the published sets need no more. People's own pictures do: 16 bits a channel, transparent parts, cameras that
note in EXIF how they were held. Those become 8-bit RGB copies, once, when the data set is prepared.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import read_image
from artifacts.errors import DataError
from stages.data.pictures import ORIENTATION, read_picture

PLAIN_MODES = ("RGB", "L", "CMYK", "YCbCr")  # what read_image turns into RGB without loss of anything that shows


@dataclass(frozen=True)
class Picture:
    """What is known of a picture. `copy` holds the bytes of its RGB copy (PNG) until they are written."""

    size: tuple[int, int]  # (H, W) as it will be read
    file_bytes: int
    copy: bytes | None = None
    copied: bool = False
    turned: bool = False  # the EXIF orientation was applied
    ambiguous: bool = False  # and the mask fits either way


def look_at(path: Path, mask_shape: tuple[int, ...] | None, photograph: bool, exif: str, decode: bool) -> Picture:
    """The picture at `path`.

    Args:
        mask_shape: (H, W) of its mask, where it has one.
        photograph: make an RGB copy where it is needed, see `RawDataset.photographs`.
        exif: "apply", "ignore", or "auto": apply it unless the mask has the size of the stored pixels only.
        decode: read every pixel, not only the header. A DataError names the file.
    """
    try:
        bytes_of_file = path.stat().st_size
        with Image.open(path) as opened:
            stored, mode = (opened.height, opened.width), opened.mode
            orientation = opened.getexif().get(ORIENTATION, 1) if photograph else 1
            transparent = mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if not path.is_file():
            raise DataError(f"there is no image {path}", "put it there, or take its id from the list") from None
        raise DataError(f"image {path} cannot be read: {error}", "copy or extract the file again") from None
    shown = stored[::-1] if orientation >= 5 else stored
    turn = orientation in range(2, 9) and (exif == "apply" or (exif == "auto" and mask_shape in (None, shown)))
    if not photograph or not (turn or transparent or mode not in (*PLAIN_MODES, "P")):
        size = read_image(path).shape[:2] if decode else stored
        return Picture(size, bytes_of_file)
    pixels = read_picture(path, turn=turn)
    return Picture(
        pixels.shape[:2], bytes_of_file, _as_png(pixels), turned=turn, ambiguous=turn and mask_shape == stored == shown
    )


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
