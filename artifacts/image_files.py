"""Image files as Pillow reads them: opened, turned and refused in one way by everybody who reads one.

    with open_image(path) as image:
        height, width = stored_size(image)
        pixels = np.array(turned(image, orientation(image)).convert("RGB"))

What Pillow does depends on the format and on its version: TIFF files are turned when their pixels are loaded (their
size is exchanged before, or only then), PNG files may hold their EXIF behind the pixels. Here all are alike. Pillow
may raise anything on damaged files, so that readers catch `Exception` and say `reason`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
RARE = (".jpe", ".jfif", ".mpo", ".apng", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k")
RARE += (".jpx", ".jpf", ".j2c", ".jpc", ".tga", ".qoi", ".avif", ".heic", ".heif", ".hif")
SUFFIXES = COMMON + RARE  # of image files, as far as the installed Pillow reads them
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
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd tags and large pictures; what cannot be read is an error
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
    """The EXIF orientation 1..8 of an opened image; 1 where there is none, or one that is no such number.

    Never raises. PNG files are decoded for it.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever Pillow's parser trips over: the pixels do not depend on it
        return 1
    return value if type(value) is int and value in _TURNS else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of the pixels as they lie in the file, of an opened image that was not loaded."""
    tags = getattr(image, "tag_v2", None)  # of TIFF, where `size` may be that of the turned pixels
    return (image.height, image.width) if tags is None else (tags[257], tags[256])


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels of an opened image, loaded and turned by an orientation; 1 leaves them as they are stored."""
    if hasattr(image, "tag_v2"):  # TIFF: Pillow would turn by what it finds there
        with contextlib.suppress(Exception):  # the first call reads them; what it could not read is not there
            image.getexif()
        exif = image.getexif()
        for tag in list(exif):
            del exif[tag]
    image.load()
    # A copy, since a TIFF file that was not turned still has the size that it would have had.
    return image.transpose(_TURNS[orientation]) if orientation != 1 else image.copy()


def reason(path: Path, error: Exception) -> str:
    """Why a file that is there cannot be read as an image, without Pillow's words for it: an address in memory."""
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
        return f"it needs the package {needed}" if needed else "cannot identify it: no picture, or of an unknown format"
    words = str(error) if isinstance(error, (OSError, SyntaxError, ValueError)) else ""
    return words or f"it is damaged ({type(error).__name__}: {error})"


def _package_for(path: Path) -> str:
    """The package that reads a file of HEIC or AVIF, by its first bytes; empty for other files."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        return ""
    return "pillow-heif" if head[8:12] in _HEIF else "pillow-avif-plugin" if head[8:11] == b"avi" else ""
