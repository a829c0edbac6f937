"""Image files as Pillow reads them: opened, turned and refused in the same way by all code that reads one.

    with open_image(path) as image:
        height, width = stored_size(image)
        pixels = np.array(turned(image, orientation(image)).convert("RGB"))

What Pillow does depends on the format and on its version: TIFF files are turned when their pixels are loaded (width and
height are exchanged before that, or only then), PNG files may hold their EXIF behind the pixels. Here all are treated
alike. Pillow may raise any error on damaged files, so readers catch `Exception` and report `reason`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
RARE = (
    *(".jpe", ".jfif", ".mpo", ".apng", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".qoi"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".avif", ".heic", ".heif", ".hif"),
)
SUFFIXES = COMMON + RARE  # of image files, as far as the installed Pillow reads them
FORMATS = {  # suffix -> Pillow's names of its content; cameras write MPO, a JPEG followed by a second one
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".jpe": ("JPEG", "MPO"),
    ".jfif": ("JPEG", "MPO"),
    ".gif": ("GIF",),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}
ORIENTATION = 0x0112  # EXIF tag, 1..8; 5..8 exchange width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise it writes to the terminal
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd tags, large images; unreadable ones are errors anyway
_WHOLE = {3: "H", 4: "I", 8: "h", 9: "i"}  # types of EXIF for whole numbers
_HEIF = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"}  # brands of ISO/IEC 23008-12


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """`Image.open`, with the plugins for HEIC and AVIF where they are installed and needed."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not load_plugins():
            raise
        return Image.open(file)


@cache
def load_plugins() -> bool:
    """Whether there is a plugin that Pillow did not know before."""
    found = False
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found = True
    with contextlib.suppress(ImportError):
        import pillow_avif  # noqa: F401  (registers itself)

        found = True
    return found


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8 of an opened image; 1 where it is missing or is not such a number.

    Never raises, and needs no other tag of the block. PNG files are decoded for it.
    """
    try:
        if image.format == "PNG":
            image.load()  # the EXIF may stand behind the pixels
        value = _from_exif(image)
        value = _from_xmp(image) if value is None else value
    except Exception:  # a damaged block or damaged pixels: reading the pixels reports it
        return 1
    return value if value in _TURNS else 1


def _from_exif(image: Image.Image) -> int | None:
    """The orientation in the first directory of the EXIF block or of a TIFF file; 0 if it is not a whole number."""
    if hasattr(image, "tag_v2") and (file := getattr(image, "fp", None)) is not None:
        place = file.tell()
        file.seek(0)
        value = _in_directory(file)
        file.seek(place)
        return value
    block = image.info.get("exif")
    if block is None and (profile := image.info.get("Raw profile type exif")):  # of PNG, in hexadecimal digits
        block = bytes.fromhex("".join(profile.split("\n")[3:]))
    return None if block is None else _in_directory(io.BytesIO(re.sub(rb"^(Exif\0\0)+", b"", block)))


def _in_directory(file: IO[bytes], wanted: int = ORIENTATION) -> int | None:
    """A tag of the first directory of a TIFF structure (TIFF 6.0, section 2; BigTIFF has 43); 0 without a number."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    (version,) = struct.unpack_from(order + "H", head, 2)
    place, number, entry = ("8xQ", "Q", "HHQ8s") if version == 43 else ("4xI", "H", "HHI4s")
    file.seek(struct.unpack_from(order + place, head)[0])
    (count,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    for _ in range(min(count, 65535)):
        tag, kind, values, value = struct.unpack(order + entry, file.read(struct.calcsize(order + entry)))
        if tag == wanted:
            return int(struct.unpack_from(order + _WHOLE[kind], value)[0]) if kind in _WHOLE and values == 1 else 0
    return None


def _from_xmp(image: Image.Image) -> int | None:
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = found if isinstance(found, str) else found.decode("latin-1")
    match = re.search(r"""tiff:Orientation(?:=["']|>)([0-9])""", text)
    return int(match[1]) if match else None


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of the pixels as they lie in the file, of an opened image that was not loaded."""
    tags = getattr(image, "tag_v2", None)  # of a TIFF file, where `size` may be that of the turned pixels
    return (image.height, image.width) if tags is None else (tags[257], tags[256])


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels of an opened image, loaded and turned by an orientation; 1 leaves them as they are stored."""
    if hasattr(image, "tag_v2"):  # TIFF: Pillow would turn the pixels by the orientation that it finds there
        with contextlib.suppress(Exception):  # the first call reads the tags; those that it could not read are absent
            image.getexif()
        exif = image.getexif()
        for tag in list(exif):
            del exif[tag]
    image.load()
    # A copy, since a TIFF file that was not turned still has the size that it would have had.
    return image.transpose(_TURNS[orientation]) if orientation != 1 else image.copy()


def reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read as an image. Pillow's own message names it by an address in memory."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not path.stat().st_size:
        return "it is empty (0 bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that are read"
    if isinstance(error, MemoryError):
        return "there is too little memory for its pixels"
    if isinstance(error, UnidentifiedImageError):
        needed = _package_for(path)
        unknown = _tiff_in_words(path) or "cannot identify it: it is not an image, or its format is unknown"
        return f"it needs the package {needed} (pip install {needed}), or to be saved as JPEG" if needed else unknown
    words = str(error) if isinstance(error, (OSError, SyntaxError, ValueError)) else ""
    return words or f"it is damaged ({type(error).__name__}: {error})"


def _package_for(path: Path) -> str:
    """The package that reads a HEIC or AVIF file, found by its first bytes; empty for other files."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        return ""
    return "pillow-heif" if head[8:12] in _HEIF else "pillow-avif-plugin" if head[8:11] == b"avi" else ""


def _tiff_in_words(path: Path) -> str:
    """The content of a TIFF file that Pillow cannot read, as its directory describes it; empty for other files."""
    try:
        with open(path, "rb") as file:
            bands = _in_directory(file, 277) or 1
            file.seek(0)
            bits = _in_directory(file, 258)
    except Exception:  # damaged, or not a TIFF file
        return ""
    held = f"{bands} bands" if bands > 1 else f"{bits} bits a pixel" if bits else "an unknown kind of pixels"
    return f"cannot identify it: a TIFF file with {held} that Pillow does not read; save it as RGB or grey"
