"""Masks painted in colours, or numbered differently from the class ids, read with a class table.

table = read_class_table(Path("labelmap.txt"))
mask = to_indices(read_colours(path), table, path)     # uint8 (H, W): class ids, 255 for ignore
mask = renumber(read_values(path), table, path)        # of an index mask whose values may not be the class ids
"""

from __future__ import annotations

import contextlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import reason
from artifacts.masks import IGNORE, PNG_SIGNATURE, png_damage, read_mask
from artifacts.text import SHOWN, named
from stages.data.annotations.class_table import BLACK, WHITE, ClassTable, colour_name

FORMATS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
MANY = 64  # unknown colours of a mask, from which they are no forgotten lines of a class table
NEAR = 24  # steps of a channel up to which an unknown colour is compared with a known one
_LOSSY = ("jpeg", "mpo", "jpeg2000", "webp", "avif")
_STRETCHED = ("ppm", "ppm_plain")  # Pillow's decoders of PGM and PPM files whose largest value is not 255, or in text
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")  # grey of more than 8 bits: ids may be kept so, colours are not
_GREY_IN_FEW_BITS = "semiseg_grey_in_few_bits"  # key of `Image.info`
_AS_8_BIT = "export the masks as PNG with 8 bits a channel"
_EXPORT = "export the masks without transparency and without smoothed edges (anti-aliasing)"


# ------------------------------------------------------------------------------------------------- opening a file


def open_mask(path: Path) -> Image.Image:
    """The loaded image of a mask file; DataError unless its format and mode keep colours or ids."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the mask {path} cannot be read: {error.strerror}", "correct its path") from None
    if data.startswith(PNG_SIGNATURE) and (damage := png_damage(data)):
        raise _damaged(path, damage)
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse_lossy(path, image)
            _refuse_kind(path, image, data)
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise _damaged(path, reason(path, error)) from None


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"the mask {path} is damaged: {reason}", "copy or export the file again")


def _refuse_lossy(path: Path, image: Image.Image) -> None:
    compression = str(image.info.get("compression", ""))  # of TIFF
    lossy = next((name for name in ("jpeg", "webp") if name in compression), str(image.format).lower())
    if lossy in _LOSSY:
        raise DataError(
            f"the mask {path} is compressed with loss ({lossy.upper()}): neighbouring colours are blurred, so that "
            "classes cannot be distinguished",
            "export the masks as PNG from the program that drew them; saving these files as PNG does not help",
        )
    if image.format not in FORMATS:
        raise DataError(f"the mask {path} is a {image.format} file, expected {', '.join(FORMATS)}", "save it as PNG")


def _refuse_kind(path: Path, image: Image.Image, data: bytes) -> None:
    tiles = getattr(image, "tile", None)  # [(decoder, box, offset, raw mode)] before the pixels are loaded
    if image.format == "PPM" and tiles and tiles[0][0] in _STRETCHED and tiles[0][3][-1] != 255 and image.mode != "1":
        words = f"says that {tiles[0][3][-1]} is white: its values would be stretched to 0..255"
        raise DataError(f"the mask {path} {words}", "save it as PNG")
    raw_mode = str(tiles[0][3]) if tiles else ""
    if image.mode not in (*MODES, *_DEEP):
        raise DataError(f"the mask {path} has no RGB colours (mode {image.mode})", _AS_8_BIT)
    if image.mode not in _DEEP and ";16" in raw_mode:  # Pillow reads the upper 8 bits alone
        raise DataError(f"the mask {path} has more than 8 bits a channel", _AS_8_BIT)
    if image.format == "BMP":
        bits = data[24 if data[14] == 12 else 28]  # the header of OS/2 has 12 bytes
        if bits != {"1": 1, "L": 8}.get(image.mode, bits):
            # Pillow (13.0) takes a palette of black and white for 1 bit a pixel, and one of greys for 8: other pixels.
            raise DataError(f"the mask {path} is a BMP file of {bits} bits in black and white alone", "save it as PNG")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"the mask {path} holds {pages} images", "export each mask as a file of its own")
    image.info[_GREY_IN_FEW_BITS] = bool(re.search(r"\bL;[24I]", raw_mode))


# ------------------------------------------------------------------------------------------------- colours of a file


def read_colours(path: Path) -> np.ndarray:
    """The colours of a mask as codes R << 16 | G << 8 | B, uint32 (H, W); palettes are looked up.

    Fully transparent pixels are unpainted and count as black. Raises DataError for a file that is missing or damaged,
    for lossy formats, half transparent pixels, values beyond the palette and more than 8 bits a channel.
    """
    return codes_of(path, open_mask(path))


def codes_of(path: Path, image: Image.Image) -> np.ndarray:
    """The colours of an opened mask, uint32 (H, W), see `read_colours`."""
    codes, alpha = _codes_and_alpha(path, image)
    if alpha is None:
        return codes
    if half := int(((alpha > 0) & (alpha < 255)).sum()):
        raise DataError(f"the mask {path} has {half} half transparent pixels, whose class is not certain", _EXPORT)
    if not alpha.any() and len(np.unique(codes)) > 1:
        raise DataError(f"the mask {path} is painted, and transparent everywhere", _EXPORT)
    return np.where(alpha == 0, np.uint32(BLACK), codes)


def _codes_and_alpha(path: Path, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours as they are stored, uint32 (H, W), those of transparent pixels too; alpha, uint8 (H, W), or None."""
    if image.mode in _DEEP:
        raise DataError(f"the mask {path} has more than 8 bits a channel", _AS_8_BIT)
    if image.mode in ("P", "PA"):
        values, palette, alpha = _values_and_alpha(image), palette_of(image), _alpha_of_values(image)
        if (beyond := values[0] >= len(palette)).any():
            raise _beyond(path, values[0][beyond], len(palette))
        return palette[values[0]], values[1] if alpha is None else alpha[values[0]]
    transparent = image.mode in ("LA", "RGBA") or "transparency" in image.info
    channels = np.asarray(image.convert("RGBA" if transparent else "RGB")).astype(np.uint32)  # (H, W, 3 or 4)
    codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    return codes, channels[..., 3] if transparent else None


def _values_and_alpha(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Of mode P and PA: the indices, uint8 (H, W), and the alpha channel, where there is one."""
    pixels = np.asarray(image)
    return (pixels[..., 0], pixels[..., 1]) if image.mode == "PA" else (pixels, None)


def palette_of(image: Image.Image) -> np.ndarray:
    """The codes of the file's colour table, uint32 (colours,), without the black that fills it up at its end.

    A TIFF file has all 256 colours, a GIF file a power of two, and some programs write 256 into every file.
    """
    assert image.palette is not None
    table = np.frombuffer(bytes(image.palette.palette), np.uint8)
    channels = table.reshape(-1, len(image.palette.mode))[:, :3].astype(np.uint32)
    if image.format == "TIFF":  # 16 bits a channel, of which Pillow takes the upper 8; some programs write 8
        words = np.array(getattr(image, "tag_v2", {}).get(320, ()), np.uint32)
        if words.size and 0 < words.max() < 256:
            channels = words.reshape(3, -1).T
    codes = channels[:, 0] << 16 | channels[:, 1] << 8 | channels[:, 2]
    last, black = np.flatnonzero(codes)[-1:], np.flatnonzero(codes == BLACK)[:1]
    end = int(max([0, *(last + 1), *(black + 1)]))
    filled_up = len(codes) - end >= (1 if image.format in ("TIFF", "GIF") else 2)
    return codes[:end] if filled_up else codes


def _alpha_of_values(image: Image.Image) -> np.ndarray | None:
    """The alpha of the palette's 256 values, uint8; None where the file says nothing of it."""
    said = image.info.get("transparency")
    if said is None:
        return None
    alpha = np.full(256, 255, np.uint8)
    if isinstance(said, bytes):
        alpha[: len(said)] = np.frombuffer(said[:256], np.uint8)
    else:
        alpha[int(said)] = 0
    return alpha


def _beyond(path: Path, values: np.ndarray, colours: int) -> DataError:
    return DataError(
        f"the mask {path} has a palette of {colours} colours, and pixels of values beyond it: {_counts(values)}",
        "export the masks with their whole palette; if the values themselves are the class ids, say "
        "--set dataset.mask_format=ids",
    )


def _counts(values: np.ndarray) -> str:
    """The values that occur, with their pixels: 21 (3 px), 255 (12 px)."""
    found, counts = np.unique(values, return_counts=True)
    return named([f"{value} ({count} px)" for value, count in zip(found.tolist(), counts.tolist(), strict=True)])


def remarks_on_colours(path: Path) -> list[str]:
    """Remarks on a painted mask that can be read, but perhaps not as it was meant: values of equal colour, which become
    one class, and painted pixels that are transparent. Decodes only masks with a palette or an alpha channel.
    """
    with (
        contextlib.suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
        Image.open(path) as header,
    ):
        if header.mode in ("1", "L", "RGB") and "transparency" not in header.info:
            return []
    try:
        image = open_mask(path)
        codes, alpha = _codes_and_alpha(path, image)
    except DataError:  # reported when the mask is read
        return []
    remarks = []
    if image.mode in ("P", "PA"):
        palette, used = palette_of(image), np.unique(_values_and_alpha(image)[0])
        for code in sorted({code for code, count in Counter(palette[used].tolist()).items() if count > 1}):
            same = ", ".join(map(str, used[palette[used] == code].tolist()))
            remarks.append(
                f"the mask {path}: the values {same} have one colour, {colour_name(code)}, and become one class "
                "(--set dataset.mask_format=ids, if the values are the class ids)"
            )
    hidden = 0 if alpha is None else int(((alpha == 0) & ~np.isin(codes, (BLACK, WHITE))).sum())
    if hidden:
        remarks.append(f"the mask {path}: {hidden} painted pixels are transparent, and read as unpainted (black)")
    return remarks


# ------------------------------------------------------------------------------------------------- values of a file


def read_values(path: Path) -> np.ndarray:
    """The values of an index mask, uint8 (H, W): indices of a palette, grey, or three equal channels.

    Raises DataError, with the file's name, for colours, values that are not whole numbers of 0..255, and a file that
    cannot be read.
    """
    head = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(26)
    index_png = len(head) < 26 or (head[24] <= 8 and head[25] in (0, 3))  # bit depth, colour type
    if path.suffix.lower() == ".png" and (index_png or not head.startswith(PNG_SIGNATURE)):
        return read_mask(path)
    return values_of(path, open_mask(path))


def values_of(path: Path, image: Image.Image) -> np.ndarray:
    """The values of an opened mask, see `read_values`."""
    if image.mode in _DEEP:
        return _whole_numbers(path, np.asarray(image))
    if image.mode == "1":
        raise DataError(
            f"the mask {path} has mode 1: a black-and-white image, not an index mask",
            "if white is the object, say --set dataset.mask_format=binary",
        )
    if image.mode == "P" and image.format == "GIF":
        raise DataError(
            f"the mask {path} is a GIF file, whose values are not ids: programs renumber its colours",
            "export the masks as PNG, or give each class its colour in the class table",
        )
    if image.mode == "P":
        return np.array(image, np.uint8)
    if image.info[_GREY_IN_FEW_BITS]:
        raise DataError(
            f"the mask {path} is grey with less than 8 bits a pixel, or inverted: its values would be changed",
            "write the class ids as an 8-bit indexed PNG (mode P)",
        )
    channels = np.atleast_3d(np.asarray(image))  # (H, W, 1 to 4)
    bands = image.getbands()
    values, alpha = channels[..., 0], channels[..., -1] if bands[-1] == "A" else None
    if bands[:3] == ("R", "G", "B") and (channels[..., :3] != values[..., None]).any():
        raise DataError(
            f"the mask {path} has mode {image.mode}: a colour image, expected class ids (or equal channels)",
            "write the class ids as an indexed PNG, or say --set dataset.mask_format=colours and give each class its "
            "colour in the class table",
        )
    if alpha is not None and (hidden := int(((alpha < 255) & ((values > 0) | (alpha > 0))).sum())):
        raise DataError(f"the mask {path} has {hidden} transparent pixels, whose class is not certain", _EXPORT)
    return np.array(values)


def _whole_numbers(path: Path, numbers: np.ndarray) -> np.ndarray:
    """Numbers of more than 8 bits as uint8; DataError unless all are whole and 0..255."""
    whole = np.isfinite(numbers) & (np.nan_to_num(numbers).round() == numbers)
    if wrong := int((~whole).sum()):
        raise DataError(
            f"the mask {path} has {wrong} pixels that are not whole numbers, such as {numbers[~whole][0]:g}",
            "write the class ids as an 8-bit indexed PNG; probabilities and distances are not masks",
        )
    if (outside := (numbers < 0) | (numbers > 255)).any():
        raise DataError(
            f"the mask {path} has values outside 0..255: {_counts(numbers[outside].astype(np.int64))}",
            "class ids are 0..254, and 255 is ignore: renumber the classes; export black and white with 8 bits",
        )
    return numbers.astype(np.uint8)


# ------------------------------------------------------------------------------------------------- class ids


def to_indices(codes: np.ndarray, table: ClassTable, path: Path) -> np.ndarray:
    """Class ids, uint8 (H, W), of colours, uint32 (H, W), by a table that has colours.

    DataError names the colours that are not in the table, how many pixels have them, and a class with nearly the same.
    """
    assert table.colours is not None, "a table without colours"
    known = np.array(sorted(table.colours), dtype=np.uint32)
    ids = np.array([table.colours[code] for code in known.tolist()], dtype=np.uint8)
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    if (wrong := known[place] != codes).any():
        raise _unknown_colours(codes[wrong], table, path)
    return ids[place]


def renumber(mask: np.ndarray, table: ClassTable, path: Path) -> np.ndarray:
    """Class ids, uint8 (H, W), of the values of an index mask, uint8 (H, W), by a table that may have ids.

    DataError names the values that are not in the table and how many pixels have them.
    """
    values = table.values or {**{class_id: class_id for class_id in range(len(table.names))}, IGNORE: IGNORE}
    counts = np.bincount(mask.ravel(), minlength=256)
    if wrong := [value for value in np.flatnonzero(counts).tolist() if value not in values]:
        found = named([f"{value} ({counts[value]} px)" for value in wrong])
        raise DataError(
            f"the mask {path} has values that are not a class: {found}; the table has {ranges(values)}",
            "add them to the class table, each with its id (`__ignore__` for what is not to be scored)",
        )
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[list(values)] = list(values.values())
    return lookup[mask]


def _unknown_colours(codes: np.ndarray, table: ClassTable, path: Path) -> DataError:
    colours = table.colours or {}
    names = {code: table.names[class_id] if class_id != IGNORE else "ignore" for code, class_id in colours.items()}
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown, between = [], False
    for code, count in zip(found[order].tolist(), counts[order].tolist(), strict=True):
        nearest = min(colours, key=lambda known: _distance(known, code))
        close = _distance(nearest, code) <= NEAR
        between |= close
        near = f", nearest {names[nearest]} {colour_name(nearest)}" if close else ""
        shown.append(f"{colour_name(code)} {count} px{near}")
        if len(shown) == SHOWN:
            break
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    return DataError(
        f"the mask {path} has colours that are not a class: {'; '.join(shown)}{more}",
        "many colours, or some near those of classes, come from smoothed edges, resizing or lossy files: export the "
        "masks again"
        if between or len(found) > MANY
        else "add them to the class table (with the name `__ignore__` for what is not to be scored)",
    )


def _distance(one: int, other: int) -> int:
    """The largest difference of a channel."""
    return max(abs((one >> shift & 255) - (other >> shift & 255)) for shift in (16, 8, 0))


def ranges(values: Iterable[int]) -> str:
    """Values as text: 0..4, 7, 255."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join("..".join(map(str, part)) for part in parts)
