"""Any image as 8-bit RGB, with remarks on how it was read.

User images have 16 bits or floats, transparent parts, a fourth band, several pages. The value of white is the one
that the file declares (see `_declared_bits`), else that of the setting `white`, else that of `_white`: one rule for
all images of a kind, since a guess from the values of each image would change the brightness between images.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import open_image, orientation, reason, stored_size, turned
from artifacts.masks import PNG_SIGNATURE, png_damage
from artifacts.text import amount, named

FRAMED = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")  # cameras write MPO files, whose second image is a preview
# Tags of TIFF 6.0.
_BITS, _PHOTOMETRIC, _MAX_SAMPLE, _EXTRA_SAMPLES = 258, 262, 281, 338
_SIXTEEN = ("RGB", "RGBX", "RGBA", "CMYK")  # raw modes of Pillow that can be read in both orders of bytes

REMARKS = {
    "levels": "values in a small part of the range",
    "floats": "floats",
    "clipped": "values outside the given range, cut off",
    "transparent": "transparent everywhere: transparency is ignored",
    "half-transparent": "half transparent in most places: put on white",
    "fourth-band": "a fourth band that is not declared as alpha, not used",
    "frames": "several images in one file: the first is read",
}
HINTS = {
    "levels": "set the value of white: --set dataset.white=4095 for 12 bits",
    "floats": "set the value of white: --set dataset.white=1, or 255",
    "half-transparent": "if the last band is not alpha but near infrared or another measurement, leave it out",
}


@dataclass(frozen=True)
class Header:
    """The facts in the header of an image's file.

    Attributes:
        stored: (H, W) of the pixels in the file. orientation: of EXIF, 1..8. mode, format: Pillow's.
        deep: more than 8 bits a channel. inverted: 0 is white (TIFF).
        transparent: has alpha, or a colour that means transparent.
        fourth_band: a fourth band that no tag declares as alpha. frames: images in the file.
    """

    stored: tuple[int, int]
    orientation: int
    mode: str
    format: str
    deep: bool
    inverted: bool
    transparent: bool
    fourth_band: bool
    frames: int

    @property
    def shown(self) -> tuple[int, int]:
        """(H, W) as viewers show it."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    @property
    def remarks(self) -> dict[str, str]:
        """The remarks that need no pixels, see `Reading`."""
        found = {"fourth-band": ""} if self.fourth_band else {}
        return found | ({"frames": f"{self.frames} images"} if self.frames > 1 else {})


@dataclass(frozen=True)
class Reading:
    """RGB uint8 (H, W, 3), and the remarks on it: a key of REMARKS -> what was found, or ''."""

    pixels: np.ndarray
    remarks: Mapping[str, str]


def read_header(path: Path, whole: bool = True) -> Header:
    """The header of an image's file. Raises what Pillow raises, which may be anything.

    whole: read the orientation, too; PNG files are decoded for it, since it may come after the pixels.
    """
    with open_image(path) as image:
        return _header(image, path, whole)


def read(path: Path, turn: bool = True, white: float = 0) -> Reading:
    """Any image as RGB uint8, turned by EXIF if `turn`.

    white: the value of white in images with more than 8 bits; 0: see `_white`. DataError names the file.
    """
    try:
        data = path.read_bytes()
        if data.startswith(PNG_SIGNATURE) and (damage := png_damage(data)):
            raise ValueError(damage)
        with open_image(io.BytesIO(data)) as opened:
            raw_mode, bits = _raw_mode(opened), _declared_bits(opened, data)
            header = _header(opened, io.BytesIO(data))
            side = header.orientation if turn else 1
            remarks = header.remarks
            if not all(header.stored):
                raise ValueError("it has no pixel")
            pixels = _rgb(turned(opened, side), header, File(data, raw_mode, bits, side), white, remarks)
        return Reading(pixels, remarks)
    except Exception as error:  # Pillow's parsers raise anything on damaged files
        raise unreadable(path, error) from error


def _header(image: Image.Image, file: Path | io.BytesIO, whole: bool = True) -> Header:
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS, (1,)) if tags is not None else (1,)
    stored, raw_mode = stored_size(image), _raw_mode(image)
    png = image.format == "PNG"
    if png and whole:
        image.load()  # the pixels must be whole
    fourth_band = tags is not None and image.mode == "RGBA" and _EXTRA_SAMPLES not in tags
    return Header(
        stored=stored,
        orientation=orientation(image) if whole or not png else 1,
        mode=image.mode,
        format=str(image.format),
        deep=";16" in raw_mode or image.mode.startswith("I") or image.mode == "F" or max(bits) > 8,
        inverted=tags is not None and tags.get(_PHOTOMETRIC) == 0,
        transparent=not fourth_band and (image.mode in ("RGBA", "LA", "La", "PA") or "transparency" in image.info),
        fourth_band=fourth_band,
        frames=_frames(file) if image.format in FRAMED else 1,
    )


def _frames(file: Path | io.BytesIO) -> int:
    """How many images a file holds; 1 if that is not known."""
    with contextlib.suppress(Exception), open_image(file) as image:  # a damaged second one leaves the first as it is
        return getattr(image, "n_frames", 1)
    return 1


def unreadable(path: Path, error: Exception) -> DataError:
    """The DataError of an image that is missing, damaged or of an unknown kind."""
    if not path.is_file():
        return DataError(f"there is no image {path}", "add the file, or remove it from the list")
    cure = "correct its permissions" if isinstance(error, PermissionError) else "open it in a viewer; save it again"
    return DataError(f"image {path} cannot be read: {reason(path, error)}", cure)


def remarks_in_words(remarks: Mapping[str, Mapping[str, str]], setting: str = "dataset.white") -> list[str]:
    """A sentence for each kind of remark: how many images, which ones, what was found. remarks: by image name."""
    sentences = []
    for kind, words in REMARKS.items():
        if some := [name for name in sorted(remarks) if kind in remarks[name]]:
            shown = named([f"{name}{_in_brackets(remarks[name][kind])}" for name in some])
            hint = HINTS.get(kind, "").replace("dataset.white", setting)
            sentences.append(f"{amount(len(some), 'image')} ({words}): {shown}" + (f"; {hint}" if hint else ""))
    return sentences


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


# ------------------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class File:
    """The bytes of an image's file, how its pixels lie in them, and how they are turned."""

    data: bytes
    raw_mode: str
    bits: int  # that it declares, see `_declared_bits`
    orientation: int


def _rgb(image: Image.Image, header: Header, file: File, white: float, remarks: dict[str, str]) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a loaded image; adds to `remarks`."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image), white, file.bits, remarks, alpha=False)
        grey = 255 - grey if header.inverted else grey  # which Pillow does for 8 bits alone
        return np.repeat(grey[:, :, None], 3, axis=2)
    if header.deep and file.raw_mode.split(";")[0] in _SIXTEEN:
        values = np.asarray(image).astype(np.uint16) << 8 | _lower_bytes(file)  # (H, W, 3 or 4)
        channels = _eight_bits(values, white, file.bits, remarks, alpha=image.mode == "RGBA")
        image = Image.frombytes(image.mode, image.size, channels.tobytes())
    elif header.deep and file.raw_mode in tuple(image.mode):  # "R": Pillow takes the planes for planes of 8 bits
        raise ValueError("its 16-bit channels are stored as planes, which Pillow misreads: save it interleaved")
    if not header.transparent:
        return np.array(image.convert("RGB"))
    if file.raw_mode.startswith("RGBa") and not np.asarray(image.convert("RGBA"))[..., 3].any():
        # colours that are multiplied by alpha, which would all be 0
        image = _read_as(file, file.raw_mode.replace("RGBa", "RGBA"))
    return on_white(image, remarks)


def on_white(image: Image.Image, remarks: dict[str, str]) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an image with transparent parts; its colours, if all of it is. Adds to `remarks`."""
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    alpha = np.asarray(rgba)[..., 3]
    if not alpha.any():
        remarks["transparent"] = ""
        return np.array(image.convert("RGB"))
    if (share := float(((alpha > 0) & (alpha < 255)).mean())) > 0.5:
        remarks["half-transparent"] = f"{100 * share:.0f} %"
    return np.array(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def _eight_bits(values: np.ndarray, white: float, bits: int, remarks: dict[str, str], alpha: bool) -> np.ndarray:
    """uint8 of the same shape, of values of more than 8 bits; `alpha`: the last channel is. Adds to `remarks`.

    ValueError for values that cannot be brightness.
    """
    colours = values[..., :-1] if alpha else values
    low, high = float(colours.min()), float(colours.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has values that are not numbers, or infinite")
    declared = 2**bits - 1 if bits and high < 2**bits and not _fills_sixteen(colours, bits) else 0
    if not (white or declared) and (low < 0 or high > 65535):
        raise ValueError(f"it has values of {low:g} to {high:g}, outside 0..65535, and the value of white is not known")
    top = white or declared or _white(values.dtype, bits, high)
    eight = _scaled(colours, top)
    if not (white or declared):
        if values.dtype.kind == "f":
            remarks["floats"] = f"read as 0..{top:g}"
        if high < top / 4:
            remarks["levels"] = f"{low:g}..{high:g} of 0..{top:g}, {len(np.unique(eight))} grey levels"
    elif low < 0 or high > top:
        remarks["clipped"] = f"{low:g}..{high:g} of 0..{top:g}"
    if not alpha:
        return eight
    opaque = top if values[..., -1].max() <= top else 65535
    return np.concatenate([eight, _scaled(values[..., -1:], opaque)], axis=-1)


def _scaled(values: np.ndarray, white: float) -> np.ndarray:
    """uint8: the upper 8 bits where `white` is 2^n - 1; else by proportion."""
    if white in (2**n - 1 for n in range(8, 17)):
        return (np.clip(values, 0, white).astype(np.uint16) >> (int(white).bit_length() - 8)).astype(np.uint8)
    return np.rint(np.clip(values.astype(np.float64) * (255 / white), 0, 255)).astype(np.uint8)


def _white(kind: np.dtype, bits: int, high: float) -> float:
    """The value of white if neither the file nor the settings give it.

    16 bits: 65535. 32 bits: 255, or 65535 where that does not hold the values. Floats: 1, 255 or 65535, the first that
    holds the values.
    """
    if kind.kind == "f" and high <= 1:
        return 1
    return 255 if high <= 255 and kind.itemsize == 4 and not bits else 65535


def _declared_bits(image: Image.Image, data: bytes) -> int:
    """The bits of a channel that the file declares, 9..16; 0 if it declares none.

    PNG: the chunk sBIT. TIFF: BitsPerSample, or a MaxSampleValue of 2^n - 1 (others are statistics). PGM: Pillow
    stretches its values to 16 bits.
    """
    bits = 0
    if image.format == "PPM":
        bits = 16
    elif data.startswith(PNG_SIGNATURE):
        bits = _significant_bits(data)
    elif image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        most, stored = tags.get(_MAX_SAMPLE), tags.get(_BITS)
        most = max(most) if isinstance(most, tuple) else most
        if isinstance(stored, tuple) and stored and max(stored) < 16:
            bits = max(stored)
        elif isinstance(most, int) and most & (most + 1) == 0:
            bits = most.bit_length()
    return bits if 9 <= bits <= 16 else 0


def _significant_bits(data: bytes) -> int:
    """The largest entry of the chunk sBIT, which lies before the pixels; 0 without one."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"sBIT":
            return max(data[position + 8 : position + 8 + min(length, 4)], default=0)
        if kind == b"IDAT":
            return 0
        position += 12 + length
    return 0


def _fills_sixteen(values: np.ndarray, bits: int) -> bool:
    """Whether values of fewer bits are in the upper bits of 16, as PNG requires; those of a dark image are small."""
    return bool(values.any()) and not (values.astype(np.int64) & (2 ** (16 - bits) - 1)).any()


def _lower_bytes(file: File) -> np.ndarray:
    """The lower bytes, uint8 (H, W, 3 or 4), of 16-bit colours; Pillow keeps the upper bytes only."""
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    swapped = file.raw_mode[:-1] + other[file.raw_mode[-1]]
    return np.asarray(_read_as(file, swapped))


def _read_as(file: File, raw_mode: str) -> Image.Image:
    """The image of a file whose pixels are stored differently from what its header declares."""
    with open_image(io.BytesIO(file.data)) as opened:
        tiles = []
        for tile in getattr(opened, "tile", []):
            args = (raw_mode, *tile[3][1:]) if isinstance(tile[3], tuple) else raw_mode
            tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
        opened.tile = tiles  # type: ignore[attr-defined]  # where the pixels lie: of images of files alone
        return turned(opened, file.orientation)


def _raw_mode(image: Image.Image) -> str:
    """How the pixels are stored in the file, as Pillow's raw mode; empty if its decoder has none."""
    tiles = getattr(image, "tile", None)  # [(decoder, box, offset, raw mode or (raw mode, ...))]
    first = tiles[0][3] if tiles else ""
    return str(first[0] if isinstance(first, tuple) and first else first)
