"""One image of a data set: its size, and an RGB copy if it cannot be used as it is on disk.

Data sets are read pixel by pixel as they are stored (artifacts.dataset.read_image): masks are drawn on stored pixels,
and published data sets need no more. User images do: they have 16 bits a channel, transparent parts, or the camera's
orientation in EXIF. Those become 8-bit RGB copies, once, when the data set is prepared.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import read_image
from artifacts.errors import DataError
from artifacts.image_files import reason
from stages.data.pixels import read, read_header

PLAIN_MODES = ("RGB", "L", "CMYK", "YCbCr")  # modes that read_image converts to RGB without visible loss


@dataclass(frozen=True)
class ImageFile:
    """The facts on an image. `copy` holds the bytes of its RGB copy (PNG), if it needs one."""

    size: tuple[int, int]  # (H, W) as it will be read
    file_bytes: int
    copy: bytes | None = None
    turned: bool = False  # the EXIF orientation was applied
    ambiguous: bool = False  # and the mask fits with and without it
    as_stored: bool = False  # it was not applied, because the mask fits the stored pixels only
    remarks: Mapping[str, str] = field(default_factory=dict)  # see `stages.data.pixels.Reading`


def look_at(
    path: Path, mask_shape: tuple[int, ...] | None, photograph: bool, exif: str, decode: bool, white: float = 0
) -> ImageFile:
    """The image at `path`.

    Args:
        mask_shape: (H, W) of its mask, if it has one.
        photograph: make an RGB copy if it is needed, see `RawDataset.photographs`.
        exif: "apply", "ignore", or "auto": apply it unless the mask has the size of the stored pixels only.
        decode: read every pixel, not only the header. A DataError names the file.
        white: value of white in images with more than 8 bits, see `stages.data.pixels.read`.
    """
    try:
        bytes_of_file = path.stat().st_size
        header = read_header(path, whole=photograph)
    except Exception as error:  # Pillow's parsers raise anything on damaged files
        raise _unreadable(path, error) from None
    stored, shown = header.stored, header.shown
    side = header.orientation if photograph else 1
    itself = header.format == "TIFF"  # read_image turns TIFF files
    turn = side > 1 and (exif == "apply" or (exif == "auto" and mask_shape in (None, shown)))
    ambiguous = turn and mask_shape == stored == shown
    as_stored = side > 1 and exif == "auto" and not turn
    known = ImageFile(shown if itself else stored, bytes_of_file, turned=turn, ambiguous=ambiguous, as_stored=as_stored)
    plain = header.mode in (*PLAIN_MODES, "P") and not header.deep and not header.transparent
    if not photograph or (plain and turn == (itself and side > 1)):
        size = read_image(path).shape[:2] if decode else known.size
        return replace(known, size=size, remarks=header.remarks if photograph else {})
    reading = read(path, turn, white)
    return replace(known, size=reading.pixels.shape[:2], copy=_as_png(reading.pixels), remarks=reading.remarks)


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.is_file():
        return DataError(f"there is no image {path}", "add the file, or remove its id from the list")
    cure = "correct its permissions" if isinstance(error, PermissionError) else "copy or extract the file again"
    return DataError(f"image {path} cannot be read: {reason(path, error)}", cure)


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
