"""Masks painted in colours, the tables that say which colour is which class, and a look at masks nobody described.

    table = read_class_table(Path("labelmap.txt"))
    mask = to_indices(read_colours(path), table, path)     # uint8 (H, W): class ids, 255 for ignore
    guess = guess_palette(sorted(Path("masks").glob("*.png")))     # what they seem to be, and a table to correct

A class table is a text file with one class a line. These dialects are told apart by their lines:

    background                      names; the line says the id
    0 road                          ids, where they are not the lines' own (Cityscapes: 0 is no background)
    aeroplane 128 0 0               colours, also `aeroplane,128,0,0`, `aeroplane (128, 0, 0)` and `aeroplane #800000`
    128 0 0 aeroplane               the colour first (CamVid's label_colors.txt)
    name,r,g,b                      a first line that names the columns (class_dict.csv); others are left alone
    aeroplane:128,0,0::             CVAT's labelmap.txt
    __ignore__, _background_        LabelMe's labels.txt

`# ` begins a comment. What becomes 255 (ignore) has to be asked for: by the name `__ignore__`, or by a name such as
`void` with the id 255 or the colour 255 255 255. Any other `void` is a class, and said to be one.
"""

from __future__ import annotations

import csv
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from artifacts.dataset import MAX_CLASSES
from artifacts.errors import DataError
from artifacts.masks import IGNORE, PNG_SIGNATURE, png_damage, voc_palette
from stages.data.config import VOC_CLASS_NAMES
from stages.data.lists import SHOWN, named
from stages.data.pictures import reason

BLACK, WHITE = 0x000000, 0xFFFFFF
FORMATS = ("PNG", "BMP", "TIFF")
NEAR = 24  # steps of a channel up to which an unknown colour is compared with a known one
RARE = 1 / 2000  # share of the pixels below which a colour is no class, but a smoothed edge
SAMPLE = 50  # masks that `guess_palette` looks at
_LOSSY = ("jpeg", "mpo", "jpeg2000", "webp", "avif")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def colour_name(code: int) -> str:
    """A code R << 16 | G << 8 | B as text: (128, 0, 0)."""
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"


# ------------------------------------------------------------------------------------------------- pictures


def read_colours(path: Path) -> np.ndarray:
    """The colours of a mask as codes R << 16 | G << 8 | B, uint32 (H, W); palettes are looked up.

    Fully transparent pixels are unpainted and count as black. Raises DataError for a file that is missing or damaged,
    for lossy formats, half transparent pixels and more than 8 bits a channel.
    """
    return _codes(path, _open(path))


def _open(path: Path) -> Image.Image:
    """The picture of a mask file, loaded; only formats and modes that keep colours."""
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


def _codes(path: Path, picture: Image.Image) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------------- class tables


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set and what stands for them in masks.

    Attributes:
        names: by class id; "background" is the first, or there is none.
        colours: code R << 16 | G << 8 | B -> class id or 255; None where the table has no colours.
        values: pixel value of an index mask -> class id or 255; None where the values are the class ids.
        ignored: names that mean 255, for outlines with labels.
        notes: what a person should be told about how the table was understood, with the way to say otherwise.
    """

    names: tuple[str, ...]
    colours: Mapping[int, int] | None = None
    values: Mapping[int, int] | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> dict[str, int]:
        """Name -> class id, or 255."""
        return {name: class_id for class_id, name in enumerate(self.names)} | dict.fromkeys(self.ignored, IGNORE)


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    colour: int | None
    value: int | None
    ignored: bool


_BACKGROUND = ("background", "_background_", "__background__", "bg")
_ALWAYS_IGNORED = "__ignore__"
_LIKE_IGNORE = re.compile(
    r"_*(ignored?|ignore[ _-]?region|void|unlabel?led|unknown|undefined|don'?t[ _-]?care)_*", re.IGNORECASE
)
_LABELMAP = re.compile(r"(?P<name>[^:]*):(?P<colour>[^:]*):[^:]*:[^:]*")
_NUMBER = re.compile(r"-?\d+")
_BRACKETS = re.compile(r"[(\[]\s*(-?\d+[\s,;]+-?\d+[\s,;]+-?\d+)\s*[)\]]")
_HEX = re.compile(r"(?<![^\s,;:])#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})(?![^\s,;:])")
_NUMBERS_AROUND = re.compile(r"(?P<before>(?:-?\d+[\s,;:]+)*)(?P<name>.*?)(?P<behind>(?:[\s,;:]+-?\d+)*)[\s,;]*")
_COLUMNS = {
    "name": ("name", "class", "class_name", "classname", "label", "category"),
    "id": ("id", "index", "value", "class_id", "label_id"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "rgb": ("colour", "color", "hex", "rgb"),
}
_HOW = "write `name`, `name R G B` or `id name R G B`; or name the columns in a first line: `name,r,g,b`"


def read_class_table(path: Path) -> ClassTable:
    """The classes of a text file; see the module for its dialects.

    Ids follow the lines, or the ids in the lines where there are any. In a table of names alone `background` must be
    the first line, since nothing else says what 0 is; with colours or ids it may be any line, or none.
    Raises DataError, with the line's number, for what is no class, and for a name, colour or id that stands twice.
    """
    lines = _read_lines(path)
    classes = [line for line in lines if not line.ignored]
    _check_lines(path, lines, classes)
    with_ids, with_colours = classes[0].value is not None, classes[0].colour is not None
    if not with_ids and not with_colours and classes[0].name != "background":
        raise DataError(
            f"{path}, line {classes[0].number}: the first class is {classes[0].name!r}, expected background",
            "write `background` into the first line if that is what 0 stands for; if it is not, write the ids before "
            f"the names: `0 {classes[0].name}`",
        )
    notes = [note for line in lines if (note := _note(line))]
    if all(line.name != "background" for line in classes):
        notes.append(f"{path} has no background: every pixel has one of its classes, or 255")
    classes.sort(key=lambda line: (line.name != "background", line.value or 0))
    numbered = [*enumerate(classes), *((IGNORE, line) for line in lines if line.ignored)]
    values = {line.value: class_id for class_id, line in numbered if line.value is not None}
    colours = {line.colour: class_id for class_id, line in numbered if line.colour is not None}
    return ClassTable(
        names=tuple(line.name for line in classes),
        colours=colours if with_colours else None,
        values={IGNORE: IGNORE} | values if with_ids else None,
        ignored=tuple(line.name for line in lines if line.ignored),
        notes=tuple(notes),
    )


def _read_lines(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"the class table {path} cannot be read: {error.strerror}", "correct its path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    lines: list[_Line] = []
    columns: list[str] = []
    mark: str | None = None  # between columns
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line == "#" or re.match(r"#\s", line):
            continue
        if not lines and not columns and (columns := _header(line)):
            mark = _separator(line)
            continue
        where, fields = f"{path}, line {number}", _fields(line, mark)
        by_columns = columns and (mark or len(fields) == len(columns))  # `traffic light 0 128 0` has more words
        found = _by_columns(fields, columns, where) if by_columns else _by_shape(line, where)
        lines.append(_line(number, *found, where=where))
    if not lines:
        raise DataError(f"the class table {path} is empty", "write one class a line, `background` first")
    return lines


def _line(number: int, name: str, rgb: Sequence[str], value: str | None, where: str) -> _Line:
    """A line whose parts were told apart; DataError for numbers out of range."""
    name = name.strip(" \t\"'")
    if not name:
        raise DataError(f"{where}: there is no name", _HOW)
    if wrong := [number for number in (*rgb, *filter(None, [value])) if not re.fullmatch(r"\d+", number)]:
        raise DataError(f"{where}: {wrong[0]!r} is no whole number of 0..255", "correct it")
    if wrong := [number for number in (*rgb, *filter(None, [value])) if int(number) > 255]:
        raise DataError(f"{where}: {name!r} has the number {wrong[0]}, expected 0..255", "correct it")
    colour = int(rgb[0]) << 16 | int(rgb[1]) << 8 | int(rgb[2]) if rgb else None
    id_in_mask = int(value) if value else None
    asked_for = _LIKE_IGNORE.fullmatch(name) and (id_in_mask == IGNORE or colour == WHITE)
    ignored = name == _ALWAYS_IGNORED or bool(asked_for)
    return _Line(number, "background" if name.lower() in _BACKGROUND else name, colour, id_in_mask, ignored)


def _separator(line: str) -> str | None:
    return next((mark for mark in ",;\t" if mark in line), None)


def _fields(line: str, mark: str | None) -> list[str]:
    """The fields of a line of a table with columns, quotes taken off; words where no mark separates the columns."""
    fields = next(csv.reader([line], delimiter=mark, skipinitialspace=True)) if mark else line.split()
    return [field.strip() for field in fields]


def _header(line: str) -> list[str]:
    """What each column is (a key of _COLUMNS, or ""), if the line names columns: that of names and another."""
    words = [word.lower() for word in _fields(line, _separator(line))]
    columns = [""] * len(words)
    for column, known in _COLUMNS.items():
        if found := [word for word in known if word in words]:
            columns[words.index(found[0])] = column
    numbers = "id" in columns or "rgb" in columns or {"r", "g", "b"} <= set(columns)
    return columns if "name" in columns and numbers else []


def _by_columns(fields: Sequence[str], columns: Sequence[str], where: str) -> tuple[str, list[str], str | None]:
    """(name, R G B, id) of a line of a table with a header; columns without a meaning here are left alone."""
    if len(fields) < len(columns):
        raise DataError(f"{where}: {len(fields)} fields, the first line names {len(columns)}", "complete the line")
    found = dict(zip(columns, fields, strict=False))
    colour = found.get("rgb") or " ".join(found.get(channel, "") for channel in "rgb").strip()
    rgb = _plain(colour).replace(",", " ").split()
    if len(rgb) not in (0, 3):
        raise DataError(f"{where}: {colour!r} is no colour", "write three numbers of 0..255, or #rrggbb")
    return found["name"], rgb, found.get("id") or None


def _by_shape(line: str, where: str) -> tuple[str, list[str], str | None]:
    """(name, R G B, id) of a line of a table without a header: numbers before the name and behind it."""
    if match := _LABELMAP.fullmatch(line):
        rgb = re.split(r"[\s,]+", match["colour"].strip()) if match["colour"].strip() else []
        if len(rgb) not in (0, 3):
            raise DataError(f"{where}: {match['colour']!r} is no colour", "write `name:r,g,b::`")
        return match["name"], rgb, None
    match = _NUMBERS_AROUND.fullmatch(_plain(line))
    assert match is not None, line  # each part may be empty
    name, before, behind = match["name"], _NUMBER.findall(match["before"]), _NUMBER.findall(match["behind"])
    if before and _NUMBER.fullmatch(name):
        raise DataError(
            f"{where}: {line!r} has no name, or one that is a number",
            "name the columns in a first line, such as `r g b name`",
        )
    if behind == ["255"] and not before and _LIKE_IGNORE.fullmatch(name):
        return name, [], "255"
    rgb = before[-3:] if len(before) >= 3 else behind[-3:] if len(behind) >= 3 else []
    ids = before[:-3] if len(before) >= 3 else before
    rest = behind[:-3] if rgb and len(before) < 3 else behind
    if len(ids) > 1 or len(rest) > 1 or (rest and _separator(match["behind"].split(rest[0])[0])):
        raise DataError(f"{where}: {line!r} has numbers that are neither an id nor a colour", _HOW)
    return " ".join([name, *rest]), rgb, ids[0] if ids else None  # `class 1` is a name


def _plain(text: str) -> str:
    """The text with its colours as three bare numbers: #800000 and (128, 0, 0) become 128 0 0."""
    bare = _BRACKETS.sub(r"\1", text)
    return _HEX.sub(lambda match: " ".join(str(int(channel, 16)) for channel in match.groups()), bare)


def _check_lines(path: Path, lines: Sequence[_Line], classes: Sequence[_Line]) -> None:
    if not classes:
        raise DataError(f"{path} has no class that is not ignored", "write one class a line")
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path} has {len(classes)} classes; a mask holds {MAX_CLASSES} and 255 for ignore")
    for what, word in (("colour", "colour"), ("value", "id")):
        without = [line for line in classes if getattr(line, what) is None]
        if 0 < len(without) < len(classes):
            raise DataError(
                f"{path}, line {without[0].number}: {without[0].name!r} has no {word}, other lines have",
                f"give every class its {word}, or none (a number before a name is an id)",
            )
    seen: dict[tuple[str, object], int] = {}
    for line in lines:
        keys = [("colour", line.colour), ("id", line.value), ("name", None if line.ignored else line.name)]
        for what, key in keys:
            if key is None:
                continue
            if first := seen.get((what, key)):
                shown = colour_name(line.colour or 0) if what == "colour" else key
                raise DataError(
                    f"{path}, line {line.number}: the {what} {shown} stood already in line {first}",
                    "each class has one line",
                )
            seen[what, key] = line.number


def _note(line: _Line) -> str | None:
    """What is to be told about a line whose name sounds like ignore, or whose id is 255."""
    if line.ignored:
        if line.name == _ALWAYS_IGNORED or line.value == IGNORE:
            return None
        return f"{line.name!r} with the colour (255, 255, 255) is ignored; the name `{_ALWAYS_IGNORED}` pins it"
    if line.value == IGNORE:
        return f"the value 255 is the class {line.name!r}, so no pixel is ignored"
    if _LIKE_IGNORE.fullmatch(line.name):
        return (
            f"{line.name!r} is a class like the others; with the name `{_ALWAYS_IGNORED}` its pixels would be ignored"
        )
    return None


# ------------------------------------------------------------------------------------------------- masks


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
            f"the mask {path} has values that are no class: {found}; the table has {_ranges(values)}",
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


def _ranges(values: Iterable[int]) -> str:
    """Values as text: 0..4, 7, 255."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join("..".join(map(str, part)) for part in parts)


# ------------------------------------------------------------------------------------------------- guesses


@dataclass(frozen=True)
class Guess:
    """What masks seem to be. To be announced, never to be acted on in silence.

    Attributes:
        kind: "ids" (the value is the class), "binary" (black and white: 255 is an object, not ignore) or "colours".
        description: what was found, in sentences.
        table: a class table that fits, with made-up names where none are known; empty if the masks are none.
        pin: how to say the same in the settings.
    """

    kind: Literal["ids", "binary", "colours"]
    description: str
    table: str
    pin: str


@dataclass(frozen=True)
class _Seen:
    """Pixels of the sampled masks, counted."""

    modes: Mapping[str, Sequence[Path]]
    values: Counter[int] | None  # None unless every mask is grey or indexed
    colours: Counter[int]
    palette: dict[int, int]  # value -> code in the first mask that has it
    palettes_differ: bool


def guess_palette(paths: Sequence[Path]) -> Guess:
    """Look at up to 50 of the masks, evenly spread, and say what they are.

    One that cannot be read is passed over here, and named with all others when the masks are read. DataError as
    `read_colours` raises it when that is so of all.
    """
    if not paths:
        raise DataError("there is no mask to look at", "name a folder with masks")
    chosen = [paths[i * len(paths) // min(len(paths), SAMPLE)] for i in range(min(len(paths), SAMPLE))]
    seen = _look(chosen)
    by_mode = sorted(seen.modes.items(), key=lambda item: -len(item[1]))
    modes = named([f"{len(some)} of mode {mode}" + _example(some, len(by_mode)) for mode, some in by_mode])
    begin = f"{sum(map(len, seen.modes.values()))} of {len(paths)} masks looked at ({modes}): "
    kind, words, table = _judge(seen)
    pin = f"mask_format: {kind}" + ("; class_table: a file with these lines, names corrected" if table else "")
    return Guess(kind, begin + words, table, pin)


def _example(paths: Sequence[Path], kinds: int) -> str:
    """Where masks are of several modes, a name for each: the odd ones are wanted."""
    return f", such as {paths[0].name}" if kinds > 1 else ""


def _look(paths: Iterable[Path]) -> _Seen:
    modes: dict[str, list[Path]] = {}
    errors: list[DataError] = []
    values: Counter[int] | None = Counter()
    colours: Counter[int] = Counter()
    palette: dict[int, int] = {}
    differ = False
    for path in paths:
        if len(colours) > 100 * MAX_CLASSES:
            break  # enough to know that these are none
        try:
            picture = _open(path)
            codes = _codes(path, picture)
        except DataError as error:
            errors.append(error)
            continue
        modes.setdefault(picture.mode, []).append(path)
        colours += _counted(codes)
        if picture.mode not in ("1", "L", "P"):
            values = None
        elif values is not None:
            pixels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
            values += _counted(pixels)
            found, first = np.unique(pixels, return_index=True)
            for value, code in zip(found.tolist(), codes.ravel()[first].tolist(), strict=True):
                differ |= palette.setdefault(value, code) != code
    if errors and not modes:
        raise errors[0]
    return _Seen(modes, values, colours, palette, differ)


def _counted(pixels: np.ndarray) -> Counter[int]:
    found, counts = np.unique(pixels, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


_Judgement = tuple[Literal["ids", "binary", "colours"], str, str]  # kind, what was found, class table


def _judge(seen: _Seen) -> _Judgement:
    if _is_black_and_white(seen.colours):
        rest = len(seen.colours) - 2
        smoothed = f"; {rest} greys between them look like smoothed edges, to be exported without" if rest else ""
        words = f"black and white. White (255) is taken for the object, not for ignore{smoothed}"
        return "binary", words, "background 0 0 0\nobject 255 255 255\n"
    if seen.values is None:
        return _judge_colours(seen.colours, "")
    if seen.palettes_differ:
        return _judge_colours(seen.colours, "a value has other colours in other masks, so colours are the classes. ")
    if set(seen.modes) == {"L"} and (trap := _grey_levels(set(seen.values))):
        return _judge_colours(seen.colours, trap)
    return _judge_ids(seen)


def _is_black_and_white(colours: Counter[int]) -> bool:
    """White occurs, and nothing but black besides, or many greys on few pixels: the smoothed edges of a black-and-white
    picture. (Ids are greys too, but low ones.)
    """
    others = [code for code in colours if code not in (BLACK, WHITE)]
    if not colours[WHITE] or not others:
        return bool(colours[WHITE])
    few = colours[BLACK] + colours[WHITE] >= 0.9 * colours.total()
    return few and len(others) >= 20 and max(others) > 0xC0C0C0 and all(code % 0x010101 == 0 for code in others)


def _grey_levels(values: set[int]) -> str:
    """A sentence if the values of grey pictures are shades and no ids; else nothing."""
    shades = sorted(values - {0, IGNORE})
    if not shades or shades[-1] <= 40:
        return ""
    if values <= _voc_greys():
        return (
            f"the values {_ranges(values)} look like VOC's colours turned into grey, which merges classes (38 is both "
            "aeroplane and pottedplant): better take the masks from before. "
        )
    step = math.gcd(*shades)
    return f"the values {_ranges(values)} look like shades, not like ids. " if step >= 10 else ""


def _voc_greys() -> set[int]:
    picture = Image.frombytes("P", (256, 1), bytes(range(256)))
    picture.putpalette(voc_palette())
    greys = np.asarray(picture.convert("L"))[0].tolist()
    return {*greys[: len(VOC_CLASS_NAMES)], greys[IGNORE]}


def _voc_codes() -> list[int]:
    """Codes of VOC's colours by value, 0..255."""
    return [int.from_bytes(voc_palette()[3 * value : 3 * value + 3]) for value in range(256)]


def _judge_ids(seen: _Seen) -> _Judgement:
    values = set(seen.values or ())
    ids = sorted(values - {IGNORE})
    words = f"values {_ranges(values)}, taken for class ids" + (" and ignore (255)" if IGNORE in values else "")
    codes, last = _voc_codes(), max(ids, default=0)
    if "P" in seen.modes and last and last < len(VOC_CLASS_NAMES) and all(seen.palette[v] == codes[v] for v in values):
        words += "; the palette is VOC's, which is no proof that the classes are"
        return "ids", words, "".join(f"{name}\n" for name in VOC_CLASS_NAMES)
    if 0 in ids or not ids:
        return "ids", words, "background\n" + "".join(f"class_{value}\n" for value in range(1, last + 1))
    words += "; 0 does not occur, so the table has ids: one of them may be the background"
    return "ids", words, "".join(f"{value} class_{value}\n" for value in ids)


def _judge_colours(colours: Counter[int], words: str) -> _Judgement:
    least = RARE * colours.total() if len(colours) > MAX_CLASSES else 0  # so many are no classes, most are edges
    common = [code for code, count in colours.most_common() if count >= least]
    if len(common) > MAX_CLASSES or not common:
        words += f"{len(colours)} colours, none of them frequent: these look like photographs, no masks"
        return "colours", words, ""
    codes = _voc_codes()
    words += f"{len(common)} colours"
    if len(common) < len(colours):
        share = 1 - sum(colours[code] for code in common) / colours.total()
        words += (
            f", and {len(colours) - len(common)} rare ones on {share:.2%} of the pixels: smoothed edges, resizing or "
            "lossy files, to be exported without"
        )
    if set(common) <= {*codes[: len(VOC_CLASS_NAMES)], codes[IGNORE]}:
        words += "; all of them VOC's, which is no proof that the classes are"
        lines = [*zip(VOC_CLASS_NAMES, codes, strict=False), ("__ignore__", codes[IGNORE])]
        return "colours", words, _table_text(lines)
    words += "" if BLACK in common else "; black does not occur: rename the line of the background, if there is one"
    others = [code for code in common if code != BLACK]
    lines = [("background", BLACK)] if BLACK in common else []
    lines += [(f"class_{number}", code) for number, code in enumerate(others, start=1)]
    return "colours", words, _table_text(lines)


def _table_text(lines: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{name} {code >> 16} {code >> 8 & 255} {code & 255}\n" for name, code in lines)
