"""Class tables: text files that list the classes, and their ids or colours in masks.

    table = read_class_table(Path("labelmap.txt"))
    table.names, table.colours          # ("background", "aeroplane"), {0x000000: 0, 0x800000: 1}

A class table has one class a line. These dialects are recognised by their lines:

    background                      names; the line number gives the id
    0 road                          ids, where they are not the lines' own (Cityscapes: 0 is no background)
    aeroplane 128 0 0               colours, also `aeroplane,128,0,0`, `aeroplane (128, 0, 0)` and `aeroplane #800000`
    128 0 0 aeroplane               the colour first (CamVid's label_colors.txt)
    name,r,g,b                      a first line that names the columns (class_dict.csv); others are left alone
    aeroplane:128,0,0::             CVAT's labelmap.txt
    __ignore__, _background_        LabelMe's labels.txt

JSON and YAML are read, too (see `class_documents`).

`# ` begins a comment. What becomes 255 (ignore) must be named: by the name `__ignore__`, or by a name such as
`void` with the id 255 or the colour 255 255 255. Any other `void` is a class, which is noted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.dataset import MAX_CLASSES, MAX_NAME, check_class_names
from artifacts.errors import DataError
from artifacts.masks import IGNORE
from artifacts.text import amount
from stages.data.annotations.class_documents import is_document, read_entries

LONGEST_LINE = 2000
BLACK, WHITE = 0x000000, 0xFFFFFF  # colours are codes R << 16 | G << 8 | B


def colour_name(code: int) -> str:
    """A code R << 16 | G << 8 | B as text: (128, 0, 0)."""
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set and their ids or colours in masks.

    Attributes:
        names: by class id; "background" is the first, or there is none.
        colours: code R << 16 | G << 8 | B -> class id or 255; None where the table has no colours.
        values: pixel value of an index mask -> class id or 255; None where the values are the class ids.
        listed: the values that the table itself has, by its ids or, where it has names alone, by its lines: 255 is one
            only if a line says so. Empty where colours are all it has.
        ignored: names that mean 255, for outlines with labels.
        notes: sentences on how the table was read, with the way to change that.
    """

    names: tuple[str, ...]
    colours: Mapping[int, int] | None = None
    values: Mapping[int, int] | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    listed: frozenset[int] = frozenset()

    @property
    def ids(self) -> dict[str, int]:
        """Name -> class id, or 255."""
        return {name: class_id for class_id, name in enumerate(self.names)} | dict.fromkeys(self.ignored, IGNORE)


@dataclass(frozen=True)
class _Line:
    place: str  # "line 3"
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
_FOUR_CHANNELS = re.compile(r".*[^\d\s,;:].*?(?:[\s,;:]+\d+){3}[\s,;:]+255")
_HEX = re.compile(r"(?<![^\s,;:])#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})(?![^\s,;:])")
_NUMBERS_AROUND = re.compile(r"(?P<before>(?:-?\d+[\s,;:]+)*)(?P<name>.*?)(?P<behind>(?:[\s,;:]+-?\d+)*)[\s,;]*")
_VALUE = ("value", "pixel_value", "pixel", "gray", "grey", "gray_value", "grey_value", "grayscale", "greyscale")
_COLUMNS = {
    "name": ("name", "class", "class_name", "classname", "label", "label_name", "category"),
    "id": ("id", "idx", "index", "class_id", "label_id", *_VALUE),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "rgb": ("colour", "color", "hex", "rgb"),
}
_HOW = "write `name`, `name R G B` or `id name R G B`; or name the columns in a first line: `name,r,g,b` or `name,id`"


def read_class_table(path: Path) -> ClassTable:
    """The classes of a text file; see the module for its dialects.

    Ids follow the lines, or the ids in the lines where there are any. In a table of names alone `background` must be
    the first line, since nothing else says what 0 is; with colours or ids it may be any line, or none.
    Raises DataError, with the line's number, for what is not a class, and for a name, colour or id that occurs twice.
    """
    lines = _read_lines(path)
    classes = [line for line in lines if not line.ignored]
    _check_lines(path, lines, classes)
    with_ids, with_colours = classes[0].value is not None, classes[0].colour is not None
    if not with_ids and not with_colours and classes[0].name != "background":
        raise DataError(
            f"{path}, {classes[0].place}: the first class is {classes[0].name!r}, expected background",
            "write `background` into the first line if 0 is background; if it is not, write the ids before "
            f"the names: `0 {classes[0].name}`",
        )
    notes = [note for line in lines if (note := _note(line))]
    if all(line.name != "background" for line in classes):
        notes.append(f"{path} has no background: every pixel has one of its classes, or 255")
    classes.sort(key=lambda line: (line.name != "background", line.value or 0))
    numbered = [*enumerate(classes), *((IGNORE, line) for line in lines if line.ignored)]
    values = {line.value: class_id for class_id, line in numbered if line.value is not None}
    colours = {line.colour: class_id for class_id, line in numbered if line.colour is not None}
    by_line = range(0 if with_ids or with_colours else len(classes))
    return ClassTable(
        names=tuple(line.name for line in classes),
        colours=colours if with_colours else None,
        values={IGNORE: IGNORE} | values if with_ids else None,
        ignored=tuple(line.name for line in lines if line.ignored),
        notes=tuple(notes),
        listed=frozenset(values if with_ids or not with_colours else ()) | frozenset(by_line),
    )


def _read_lines(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"the class table {path} cannot be read: {error.strerror}", "correct its path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    if is_document(path, text):
        lines = [_line(place, *parts, where=f"{path}, {place}") for place, parts in read_entries(path, text)]
    else:
        lines = _text_lines(path, text)
    if not lines:
        raise DataError(f"the class table {path} is empty", "write one class a line, `background` first")
    return lines


def _text_lines(path: Path, text: str) -> list[_Line]:
    lines: list[_Line] = []
    columns: list[str] = []
    mark: str | None = None  # between columns
    written = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    written = [(number, line) for number, line in written if line and line != "#" and not re.match(r"#\s", line)]
    if too_long := [(number, line) for number, line in written if len(line) > LONGEST_LINE]:
        number, line = too_long[0]
        raise DataError(
            f"{path}, line {number}: it has {len(line):,} characters, at most {LONGEST_LINE:,} are possible",
            f"write one class a line, with a name of at most {MAX_NAME} characters",
        )
    if len(written) > 1 and all(_FOUR_CHANNELS.fullmatch(_plain(line)) for _, line in written):
        raise DataError(f"{path} has colours of four numbers, R G B A", "leave out the fourth: `name R G B`")
    for number, line in written:
        if not lines and not columns and (columns := _header(line)):
            mark = _separator(line)
            continue
        where, fields = f"{path}, line {number}", _fields(line, mark)
        by_columns = columns and (mark or len(fields) == len(columns))  # `traffic light 0 128 0` has more words
        found = _by_columns(fields, columns, where) if by_columns else _by_shape(line, where)
        lines.append(_line(f"line {number}", *found, where=where))
    return lines


def _line(place: str, name: str, rgb: Sequence[str], value: str | None, where: str) -> _Line:
    """A line split into its parts; DataError for numbers out of range, and for an impossible name."""
    name = name.strip(" \t\"'")
    if not name:
        raise DataError(f"{where}: there is no name", _HOW)
    check_class_names([name], where)
    if wrong := [number for number in (*rgb, *filter(None, [value])) if not re.fullmatch(r"\d+", number)]:
        raise DataError(f"{where}: {wrong[0]!r} is not a whole number of 0..255", "correct it")
    if wrong := [number for number in (*rgb, *filter(None, [value])) if int(number) > 255]:
        raise DataError(
            f"{where}: {name!r} has the number {wrong[0]}, expected 0..255", "correct it; a mask holds 0..255"
        )
    colour = int(rgb[0]) << 16 | int(rgb[1]) << 8 | int(rgb[2]) if rgb else None
    id_in_mask = int(value) if value else None
    asked_for = _LIKE_IGNORE.fullmatch(name) and (id_in_mask == IGNORE or colour == WHITE)
    ignored = name == _ALWAYS_IGNORED or bool(asked_for)
    return _Line(place, "background" if name.lower() in _BACKGROUND else name, colour, id_in_mask, ignored)


def _separator(line: str) -> str | None:
    return next((mark for mark in ",;\t" if mark in line), None)


def _fields(line: str, mark: str | None) -> list[str]:
    """The fields of a line of a table with columns, quotes taken off; words where no mark separates the columns."""
    fields = next(csv.reader([line], delimiter=mark, skipinitialspace=True)) if mark else line.split()
    return [field.strip() for field in fields]


def _header(line: str) -> list[str]:
    """The meaning of each column (a key of _COLUMNS, or ""), if the line is a header: the names and another column."""
    words = [word.lower().replace(" ", "_") for word in _fields(line, _separator(line))]
    columns = [""] * len(words)
    for column, known in _COLUMNS.items():
        if found := [word for word in known if word in words]:
            columns[words.index(found[0])] = column
    numbers = "id" in columns or "rgb" in columns or {"r", "g", "b"} <= set(columns)
    return columns if "name" in columns and numbers else []


def _by_columns(fields: Sequence[str], columns: Sequence[str], where: str) -> tuple[str, list[str], str | None]:
    """(name, R G B, id) of a line of a table with a header; other columns are ignored."""
    if len(fields) < len(columns):
        has = amount(len(fields), "field")
        raise DataError(f"{where}: {has}, the first line names {len(columns)}", "complete the line")
    found = dict(zip(columns, fields, strict=False))
    colour = found.get("rgb") or " ".join(found.get(channel, "") for channel in "rgb").strip()
    rgb = _plain(colour).replace(",", " ").split()
    if len(rgb) not in (0, 3):
        raise DataError(f"{where}: {colour!r} is not a colour", "write three numbers of 0..255, or #rrggbb")
    return found["name"], rgb, found.get("id") or None


def _by_shape(line: str, where: str) -> tuple[str, list[str], str | None]:
    """(name, R G B, id) of a line of a table without a header: numbers before and after the name."""
    if match := _LABELMAP.fullmatch(line):
        rgb = re.split(r"[\s,]+", match["colour"].strip()) if match["colour"].strip() else []
        if len(rgb) not in (0, 3):
            raise DataError(f"{where}: {match['colour']!r} is not a colour", "write `name:r,g,b::`")
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
    """DataError for too few or too many classes, and for lines of different forms."""
    if not classes:
        raise DataError(f"{path} has no class that is not ignored", "write one class a line")
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path} has {len(classes)} classes; a mask holds {MAX_CLASSES} and 255 for ignore")
    for what, word in (("colour", "colour"), ("value", "id")):
        without = [line for line in classes if getattr(line, what) is None]
        if 0 < len(without) < len(classes):
            raise DataError(
                f"{path}, {without[0].place}: {without[0].name!r} has no {word}, other lines have",
                f"give every class its {word}, or none (a number before a name is an id)",
            )
    _check_unique(path, lines)


def _check_unique(path: Path, lines: Sequence[_Line]) -> None:
    """DataError for a colour, an id or a name on two lines; names that are ignored may occur twice."""
    seen: dict[tuple[str, object], str] = {}
    for line in lines:
        keys = [("colour", line.colour), ("id", line.value), ("name", None if line.ignored else line.name)]
        for what, key in keys:
            if key is None:
                continue
            if first := seen.get((what, key)):
                shown = colour_name(line.colour or 0) if what == "colour" else key
                raise DataError(
                    f"{path}, {line.place}: the {what} {shown} is already in {first}",
                    "write each class on one line",
                )
            seen[what, key] = line.place


def _note(line: _Line) -> str | None:
    """A note on a line with a name that resembles ignore, or with the id 255."""
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
