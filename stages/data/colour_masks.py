"""Masks painted in colours or numbered in some other way, and the class ids that a class table gives them.

table = read_class_table(Path("labelmap.txt"))
mask = to_indices(read_colours(path), table, path)     # uint8 (H, W): class ids, 255 for ignore
mask = renumber(mask, table, path)                     # of an index mask whose values are not the class ids
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import MAX_CLASSES
from artifacts.errors import DataError
from artifacts.masks import IGNORE, PNG_SIGNATURE, png_damage
from stages.data.class_table import BLACK, ClassTable, colour_name
from stages.data.lists import SHOWN, named
from stages.data.pictures import reason

FORMATS = ("PNG", "BMP", "TIFF")
NEAR = 24  # steps of a channel up to which an unknown colour is compared with a known one
_LOSSY = ("jpeg", "mpo", "jpeg2000", "webp", "avif")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


# ------------------------------------------------------------------------------------------------- colours of a file


def read_colours(path: Path) -> np.ndarray:
    """The colours of a mask as codes R << 16 | G << 8 | B, uint32 (H, W); palettes are looked up.

    Fully transparent pixels are unpainted and count as black. Raises DataError for a file that is missing or damaged,
    for lossy formats, half transparent pixels and more than 8 bits a channel.
    """
    return codes_of(path, open_mask(path))


def open_mask(path: Path) -> Image.Image:
    """The picture of a mask file, loaded; DataError unless it is of a format and mode that keeps colours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the mask {path} cannot be read: {error.strerror}", "correct its path") from None
    if data.startswith(PNG_SIGNATURE) and (damage := png_damage(data)):
        raise _damaged(path, damage)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _refuse_lossy(path, picture)
            _refuse_kind(path, picture)
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise _damaged(path, reason(path, error)) from None


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"the mask {path} is damaged: {reason}", "copy or export the file again")


def _refuse_lossy(path: Path, picture: Image.Image) -> None:
    compression = str(picture.info.get("compression", ""))  # of TIFF
    lossy = next((name for name in ("jpeg", "webp") if name in compression), str(picture.format).lower())
    if lossy in _LOSSY:
        raise DataError(
            f"the mask {path} is compressed with loss ({lossy.upper()}): colours bleed into their neighbours, so that "
            "classes cannot be told apart",
            "export the masks as PNG from the program that drew them; to save these files again as PNG mends nothing",
        )
    if picture.format not in FORMATS:
        raise DataError(f"the mask {path} is a {picture.format} file, expected {', '.join(FORMATS)}", "save it as PNG")


def _refuse_kind(path: Path, picture: Image.Image) -> None:
    tiles = getattr(picture, "tile", None)  # [(decoder, box, offset, raw mode)] before the pixels are loaded
    deep = picture.mode.startswith("I") or picture.mode == "F" or (tiles and ";16" in str(tiles[0][3]))
    if deep or picture.mode not in _MODES:
        what = "more than 8 bits a channel" if deep else f"no RGB colours (mode {picture.mode})"
        raise DataError(f"the mask {path} has {what}", "export the masks as PNG with 8 bits a channel")
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        raise DataError(f"the mask {path} holds {pages} pictures", "export each mask as a file of its own")


def codes_of(path: Path, picture: Image.Image) -> np.ndarray:
    """The colours of an opened mask, uint32 (H, W), see `read_colours`; DataError for half transparent pixels."""
    transparent = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    channels = np.asarray(picture.convert("RGBA" if transparent else "RGB")).astype(np.uint32)  # (H, W, 3 or 4)
    codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    if transparent:
        alpha = channels[..., 3]
        if half := int(((alpha > 0) & (alpha < 255)).sum()):
            raise DataError(
                f"the mask {path} has {half} half transparent pixels, whose class is not certain",
                "export the masks without transparency and without smoothed edges (anti-aliasing)",
            )
        codes[alpha == 0] = BLACK
    return codes


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
            f"the mask {path} has values that are no class: {found}; the table has {ranges(values)}",
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
        f"the mask {path} has colours that are no class: {'; '.join(shown)}{more}",
        "colours near those of classes come from smoothed edges, resizing or lossy files: export the masks again"
        if between or len(found) > 2 * MAX_CLASSES
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
