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
from stages.data.pictures import ORIENTATION, read_picture, reason

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
    as_stored: bool = False  # it was not applied, since the mask fits the stored pixels only


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
            if photograph and opened.format == "PNG":
                opened.load()  # EXIF may stand behind the pixels
            orientation = _orientation(opened) if photograph else 1
            itself = opened.format == "TIFF" and orientation > 1  # Pillow turns TIFF files when it reads their pixels
            if itself:
                opened.load()  # early versions say the other size before
            read, mode = (opened.height, opened.width), opened.mode
            transparent = mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    other = read[::-1] if orientation >= 5 else read  # the size turned, or for TIFF not turned
    stored, shown = (other, read) if itself else (read, other)
    turn = orientation > 1 and (exif == "apply" or (exif == "auto" and mask_shape in (None, shown)))
    ambiguous = turn and mask_shape == stored == shown
    as_stored = orientation > 1 and exif == "auto" and not turn
    if not photograph or not (turn != itself or transparent or mode not in (*PLAIN_MODES, "P")):
        size = read_image(path).shape[:2] if decode else read
        return Picture(size, bytes_of_file, turned=turn, ambiguous=ambiguous, as_stored=as_stored)
    pixels = read_picture(path, turn=turn)
    if itself and not turn:
        pixels = _turned_back(pixels, orientation)
    copy = _as_png(pixels)
    return Picture(pixels.shape[:2], bytes_of_file, copy, turned=turn, ambiguous=ambiguous, as_stored=as_stored)


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.is_file():
        return DataError(f"there is no image {path}", "put it there, or take its id from the list")
    cure = "correct its permissions" if isinstance(error, PermissionError) else "copy or extract the file again"
    return DataError(f"image {path} cannot be read: {reason(path, error)}", cure)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 where there is none, or a damaged one: the pixels do not depend on it."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever Pillow's parser trips over
        return 1
    return int(value) if value in range(2, 9) else 1


def _turned_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H, W, 3) as they were stored, of those turned by their EXIF orientation (TIFF 6.0, tag 274)."""
    if orientation in (5, 7):
        pixels = pixels.swapaxes(0, 1)
    quarters = {3: 2, 6: 1, 7: 2, 8: 3}.get(orientation, 0)  # against the clock
    pixels = np.rot90(pixels, quarters)
    return np.ascontiguousarray({2: pixels[:, ::-1], 4: pixels[::-1]}.get(orientation, pixels))


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
