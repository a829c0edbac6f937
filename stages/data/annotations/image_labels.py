"""Image-level labels ("tags") of PASCAL VOC: from XML annotations, from a text file, or from masks.

The sources differ: of the two label sets in use for trainaug, the one from XML files has 903 (image, class) pairs more
(in 817 images) than the other, so results on one source are not comparable with results on another.
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import IGNORE
from artifacts.text import SHOWN, amount, named
from stages.data.annotations.marks import EXPECTED, MARK_OF, NEVER_NAMES, like_a_mark, mark_in, number_in
from stages.data.lists.id_lists import ENTRY_SUFFIXES, Names, checked_id, composed, meant_ids, read_lines, unquoted
from stages.data.readers.raw import TagSource

Uncertain = Literal["refuse", "absent", "present"]

# Names of columns in small letters, with `_` for spaces and hyphens.
_NUMBERING = ("", "index", "unnamed:_0", "id", "no", "nr", "row", "#")  # of rows, where another column has the names
_IMAGE_COLUMN = re.compile(
    r"|id|key|name|path|index|unnamed:_0|(image|img|photo|picture|sample|file)s?(_?(id|index|name|path)s?)?"
)
_LABEL_COLUMN = re.compile(r"((class|label|tag)(e?s)?|categor(y|ies)|\w+_labels)(_?(names?|ids?))?(_?\d+)?")
_ONE_LABEL = re.compile(r"(class|label|tag|category)(_?(name|id))?")  # its cells hold one name, spaces or not
_OTHER_COLUMN = re.compile(
    r"width|height|size|split|set|subset|fold|url|link|source|date|time|author|license|bbox|[xy]_?(min|max)|area|"
    r"confidence|score|probability"
)
_FIRST_MARK = re.compile(r'(?:"[^"]*"|[^\t;,|]*?)\s*([\t;,|])')  # behind the first cell
_FIRST_COLUMNS = 4  # that are searched for the image's column, to find the separator
_LOOKED_AT = 500  # lines, for the same end
_EXCEL = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


def read_xml(path: Path, class_names: Sequence[str]) -> frozenset[str]:
    """Names of all objects of a VOC annotation, difficult ones too, body parts not."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise DataError(f"the annotation {path} is missing", "take the labels from masks or a file") from None
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"the annotation {path} is damaged: {error}", "extract it again from the devkit") from None
    names = {(item.findtext("name") or "").strip() for item in root.findall("object")}
    return _known(names, class_names, str(path))


def label_source(
    path: Path, class_names: Sequence[str], names: Names, note: Callable[[str], None] = lambda _: None
) -> TagSource:
    """The label file as a source of image-level labels, read once, on first use."""
    read = functools.cache(lambda: read_label_file(path, class_names, names, note))
    return lambda ids: read()


def read_label_file(
    path: Path,
    class_names: Sequence[str],
    names: Names | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, frozenset[str]]:
    """Labels by id from lines `2007_000063 chair dog` or `2007_000063 8 11`, or any table of `read_label_table`.

    class_names: background first. Numbers count the foreground from 0 or from 1: a 0 in the file means the
    former, the number of classes the latter; a file with neither is an error, since it is ambiguous.
    """
    table = read_label_table(path, class_names[1:], names, numbers=True)
    for sentence in table.notes:
        note(sentence)
    if {*table.class_names} <= {*class_names}:
        return dict(table.labels)
    first_number = _first_number({int(word) for word in table.class_names}, class_names, path)
    return {
        image_id: frozenset(class_names[int(word) - first_number + 1] for word in labels)
        for image_id, labels in table.labels.items()
    }


# ------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class LabelTable:
    """Image-level labels of a table: names by image id, the names that occur, and remarks on how it was read."""

    labels: Mapping[str, frozenset[str]]
    class_names: tuple[str, ...]  # in the order of the columns, or sorted
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    number: int
    cells: list[str]  # the image first


@dataclass(frozen=True)
class _Sheet:
    """The rows of a table, without its header."""

    path: Path
    columns: tuple[str, ...] | None  # behind the image; None without a header
    rows: list[_Row]
    separator: str | None  # None: white space
    notes: tuple[str, ...] = ()

    def place(self, row: _Row, at: int) -> str:
        """The place of a cell, for messages. at: its index after the image."""
        if self.columns and at < len(self.columns):
            return f"line {row.number}, column {self.columns[at]!r}"
        return f"line {row.number}" + (f", cell {at + 2}" if self.separator else "")

    def refuse(self, problems: Sequence[str], hint: str, expected: str) -> None:
        """DataError with the first few of the problems, if there are any."""
        if problems:
            more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
            lines = [f"{self.path}, {problem}" for problem in problems[:SHOWN]]
            raise DataError("\n".join([*lines, *more]) + f"; expected {expected}", hint)


def read_label_table(
    path: Path,
    known: Collection[str] = (),
    names: Names | None = None,
    uncertain: Uncertain | None = None,
    numbers: bool = False,
) -> LabelTable:
    """A CSV or text file of image-level labels, whose class names need not be known before.

    One row for each image: its id or file name, then its labels: `img_1.jpg,cat,dog`, `img_1.jpg,cat dog`,
    `img_1 cat`; one row for each image and label below a header `image,label`; or one column of marks for each class
    (1 and 0, yes and no, x and nothing) below a header `image,cat,dog`. An image without a label has an empty row after
    its name. The labels of several rows of an image are joined. Cells are separated by a tab, semicolon, comma, `|` or
    white space: by the one that gives most known ids, else by the first one in the file.

    known: the class names: columns and cells must be among them, and names of several words are not split. names: the
    ids. uncertain: the meaning of a mark such as -1 or nan; None: not set. numbers: class numbers in place of names
    are returned as they are. Raises DataError, with line and column, for a cell that is neither a mark nor a class.
    """
    sheet = _sheet(path, names)
    if sheet.columns is not None and _are_classes(sheet, sheet.columns, known):
        table = _by_columns(sheet, sheet.columns, names, uncertain)
    else:
        table = _by_names(sheet, known, names, numbers)
    if not known:
        _check_alike(path, table.class_names)
    return table


def _sheet(path: Path, names: Names | None) -> _Sheet:
    lines = read_lines(path, around=" ")
    if told := _EXCEL.fullmatch(lines[0][1].strip()):  # Excel's own first line
        separator, lines = told[1], lines[1:]
    else:
        separator = _separator([line for _, line in lines], names)
    rows = [_Row(number, _cells(line, separator, names, f"{path}, line {number}")) for number, line in lines]
    width = max((at + 1 for row in rows for at, cell in enumerate(row.cells) if cell), default=0)
    rows = [_Row(row.number, row.cells[:width]) for row in rows if any(row.cells)]  # no lines of commas alone
    has_header = bool(rows) and _begins_with_header(rows, names)
    if len(rows) <= has_header:
        raise DataError(f"the table {path} is empty", "write a row an image: its name, then its labels")
    if not has_header:
        return _Sheet(path, None, rows, separator)
    rows, notes = _image_first(path, rows, names)
    if separator == "\t":  # editors take tabs off the end of a line
        rows = [_Row(row.number, row.cells + [""] * (len(rows[0].cells) - len(row.cells))) for row in rows]
    if names is not None and names.find(rows[0].cells[0]) is not None:
        notes += (f"{path}: the first line is read as the header, although there is an image {rows[0].cells[0]!r}",)
    return _Sheet(path, tuple(rows[0].cells[1:]), rows[1:], separator, notes)


def _separator(lines: Sequence[str], names: Names | None) -> str | None:
    """The separator of the cells, found in the first lines; None: white space."""
    lines = lines[:_LOOKED_AT]
    marks = [match[1] for line in lines if (match := _FIRST_MARK.match(line))]
    if names is None or not marks:
        return marks[0] if marks else None
    choices = list(dict.fromkeys([marks[0], *(mark for mark in "\t;,|" if any(mark in line for line in lines)), None]))
    known: Counter[str | None] = Counter()
    for mark in choices:
        rows = [_cells(line, mark, names, "") for line in lines]
        columns = itertools.zip_longest(*(row[:_FIRST_COLUMNS] for row in rows), fillvalue="")
        known[mark] = max(sum(names.find(cell) is not None for cell in column) for column in columns)
    return max(choices, key=lambda mark: known[mark])  # the first of equals


def _cells(line: str, separator: str | None, names: Names | None, where: str) -> list[str]:
    """The cells of a line; a known id may contain the separator."""
    if names is not None and names.find(line) is not None:
        return [line]
    known = names.split(line) if names is not None else ()
    if separator is None:
        return next(([image_id, *rest.split()] for image_id, rest in known), line.split())
    try:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except csv.Error as error:
        raise DataError(f"{where}: {error}", "correct the line") from None
    if names is not None and '"' not in line and not any(map(names.find, cells[:_FIRST_COLUMNS])):
        for image_id, rest in known:
            if line[: len(line) - len(rest)].rstrip(" ").endswith(separator):
                return [image_id, *_cells(rest, separator, None, where)]
    return cells


def _shown(text: str) -> str:
    return repr(text) if len(repr(text)) <= 60 else repr(text)[:60] + "..."


def _column(name: str) -> str:
    return re.sub(r"[ -]", "_", name.strip().lower())


def _begins_with_header(rows: Sequence[_Row], names: Names | None) -> bool:
    """Whether the first row names columns. An image may be called image.jpg, and a column `my images`."""
    first, *others = rows[0].cells
    is_image = names is not None and names.find(first) is not None
    called = [_column(name) for name in others]
    below = [cell for row in rows[1:_LOOKED_AT] for cell in row.cells[1:] if cell]
    marked = sum(map(like_a_mark, below)) * 2 > len(below) and not any(map(like_a_mark, others))
    of_labels = bool(called) and all(map(_LABEL_COLUMN.fullmatch, called))
    if _IMAGE_COLUMN.fullmatch(_column(first)):
        return not is_image or marked or (of_labels and not any(name[-1].isdecimal() for name in called))
    if is_image or first.lower().endswith(ENTRY_SUFFIXES):
        return False
    return bool(others) and (marked or of_labels or any(map(_IMAGE_COLUMN.fullmatch, filter(None, called))))


def _image_first(path: Path, rows: Sequence[_Row], names: Names | None) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows with the column of the images first, without a column that numbers the rows (which is reported)."""
    header = [_column(name) for name in rows[0].cells]
    columns = [[row.cells[at] for row in rows[1:] if at < len(row.cells)] for at in range(len(header))]
    may_be = [at for at, name in enumerate(header) if _IMAGE_COLUMN.fullmatch(name)] or [0]
    counting = [at for at in may_be if header[at] in _NUMBERING and all(cell.isdecimal() for cell in columns[at])]
    if names is not None:
        chosen = max([*may_be, 0], key=lambda at: sum(names.find(cell) is not None for cell in columns[at]))
    else:
        chosen = next((at for at in may_be if at not in counting), may_be[0])
    dropped = [at for at in counting if at != chosen]
    kept = [chosen, *(at for at in range(max(len(row.cells) for row in rows)) if at not in (chosen, *dropped))]
    moved = [_Row(row.number, [row.cells[at] for at in kept if at < len(row.cells)]) for row in rows]
    return moved, tuple(f"{path}: column {at + 1} numbers the rows and is not used" for at in dropped)


def _together(
    sheet: _Sheet, rows: Iterable[tuple[_Row, Collection[str], Collection[str]]], names: Names | None
) -> tuple[dict[str, frozenset[str]], list[str]]:
    """(labels by image, remarks) from rows of present and absent labels."""
    labels: dict[str, frozenset[str]] = {}
    absent: dict[str, frozenset[str]] = {}
    again: Counter[str] = Counter()
    for row, present, missing in rows:
        found = names.find(row.cells[0]) if names is not None else None
        image_id = found or checked_id(unquoted(row.cells[0]), f"{sheet.path}, line {row.number}")
        again[image_id] += image_id in labels
        labels[image_id] = labels.get(image_id, frozenset()) | set(present)
        absent[image_id] = absent.get(image_id, frozenset()) | set(missing)
    notes = list(sheet.notes)
    if several := sorted(+again):
        notes.append(
            f"{sheet.path}: {amount(again.total(), 'row names', 'rows name')} an image of an earlier row; their labels "
            f"are joined: {named(several)}"
        )
    if both := [f"{i} ({', '.join(sorted(labels[i] & absent[i]))})" for i in several if labels[i] & absent[i]]:
        notes.append(f"{sheet.path}: present in one row and absent in another, read as present: {named(both)}")
    return labels, notes


# ------------------------------------------------------------------------------------------------- a column a class


def _are_classes(sheet: _Sheet, columns: Sequence[str], known: Collection[str]) -> bool:
    """Whether the columns are classes, not cells with their names. DataError for columns that are neither."""
    cells = [cell for row in sheet.rows for cell in row.cells[1:] if cell]
    marked = sum(map(like_a_mark, cells)) * 2 >= len(cells)
    of_labels = [
        name
        for name in columns  # class1 over marks is a class
        if name not in known
        and _LABEL_COLUMN.fullmatch(_column(name))
        and not (marked and cells and name[-1].isdecimal())
    ]
    named_in_cells = bool(cells) and {*cells} <= {*known} and not {*columns} & {*known}
    others: list[str] = []
    if of_labels:
        others = [name for name in columns if name and name not in of_labels]
    elif known and not named_in_cells and (len(columns) > 1 or marked):
        others = [name for name in columns if name not in known]
    elif not known:
        others = [name for name in columns if _OTHER_COLUMN.fullmatch(_column(name))]
        if not others and not marked and len(columns) > 1:
            others = list(columns)
    if others:
        raise DataError(
            f"{sheet.path}: the columns {', '.join(map(repr, others))} are not classes, or have no marks below them; "
            f"expected {'some of ' + ', '.join(known) if known else 'a column a class, with ' + EXPECTED}",
            meant_ids(others, known)
            + "remove columns of other data; a column with names of classes is called label (label_1, label_2)",
        )
    return bool(columns) and not of_labels and not named_in_cells and marked


def _by_columns(sheet: _Sheet, columns: Sequence[str], names: Names | None, uncertain: Uncertain | None) -> LabelTable:
    if len(set(columns)) != len(columns) or "" in columns:
        raise DataError(
            f"{sheet.path}: the header is {', '.join(columns)}, expected distinct class names", "correct it"
        )
    _check_marks(sheet, columns, uncertain)
    rows = []
    for row in sheet.rows:
        marks = [uncertain if (mark := mark_in(cell)) == "uncertain" else mark for cell in row.cells[1:]]
        said = [[name for name, mark in zip(columns, marks, strict=True) if mark == w] for w in ("present", "absent")]
        rows.append((row, said[0], said[1]))
    labels, notes = _together(sheet, rows, names)
    cells = Counter(cell for row in sheet.rows for cell in row.cells[1:])
    if doubtful := sum(count for cell, count in cells.items() if mark_in(cell) == "uncertain"):
        notes.append(f"{sheet.path}: read as {uncertain}: {amount(doubtful, 'uncertain label')}")
    if cells[""] and any(cell and mark_in(cell) == "absent" for cell in cells):
        notes.append(f"{sheet.path}: read as absent labels: {amount(cells[''], 'empty cell')}")
    return LabelTable(labels, tuple(columns), tuple(notes))


def _check_marks(sheet: _Sheet, columns: Sequence[str], uncertain: Uncertain | None) -> None:
    """DataError for rows with more or fewer cells than the header, cells that are not marks, and uncertain marks."""
    problems: list[str] = []
    hints: dict[str, None] = {}
    for row in sheet.rows:
        if len(row.cells) != len(columns) + 1:
            has = amount(len(row.cells), "cell")
            problems.append(f"line {row.number}: {has}, expected {len(columns) + 1} as in the header")
            hints["complete the row"] = None
        for at, cell in enumerate(row.cells[1 : len(columns) + 1]):
            if (mark := mark_in(cell)) is None:
                problems.append(f"{sheet.place(row, at)}: {_shown(cell)} is not a mark")
                probable = 0 < (number_in(cell) or 0) < 1
                hints["write 1 above a threshold, 0 below it" if probable else "correct the cell, or the header"] = None
            elif mark == "uncertain" and uncertain in (None, "refuse"):
                problems.append(f"{sheet.place(row, at)}: {_shown(cell)} is uncertain")
                setting = "set their meaning: --set dataset.uncertain_labels=absent, or present"
                hints[setting if uncertain else "write 1 or 0 there"] = None
    sheet.refuse(problems, "; ".join(hints), EXPECTED)


# ------------------------------------------------------------------------------------------------- names of classes


def _by_names(sheet: _Sheet, known: Collection[str], names: Names | None, numbers: bool) -> LabelTable:
    part = _spaces_part(sheet)
    found: list[tuple[_Row, int, str]] = []
    parted: dict[str, None] = {}
    for row in sheet.rows:
        cells = row.cells[1:] if sheet.separator else [" ".join(row.cells[1:])]
        for at, cell in enumerate(cells):
            for name in _names_in(cell, known):
                words = _words(name, known) if part or known else [name]
                if len(words) > 1 and sheet.separator and not known:
                    parted[name] = None
                found += [(row, at, word) for word in words if word]
    every = sorted({name for _, _, name in found})
    if every and all(name.isdecimal() for name in every) and not {*every} <= {*known}:
        if not numbers:
            raise DataError(
                f"{sheet.path} has numbers for labels: {named(every)}", "write class names, or a column a class"
            )
    elif known:
        wrong = [
            f"{sheet.place(row, at)}: {_shown(name)} is not a class" for row, at, name in found if name not in known
        ]
        meant = meant_ids([name for name in every if name not in known], known)
        if names and len(wrong) == 1 and sheet.rows[0].number == 1 and names.find(sheet.rows[0].cells[0]) is None:
            meant = "where line 1 names the columns, write `file,label` there; else "
        sheet.refuse(wrong, meant + "correct the name, or add it to the classes", f"one of {', '.join(known)}")
    else:
        no_names = MARK_OF if {*every} <= {*MARK_OF} else NEVER_NAMES
        wrong = [
            f"{sheet.place(row, at)}: {_shown(name)} is not the name of a class"
            for row, at, name in found
            if name.lower() in no_names or number_in(name) is not None or not re.search(r"\w", name)
        ]
        hint = "leave the cell of an image without labels empty; with marks, name the columns: image,cat,dog"
        sheet.refuse(wrong, hint, "names of classes")
    by_row: dict[int, list[str]] = {}
    for row, _, name in found:
        by_row.setdefault(row.number, []).append(name)
    labels, notes = _together(sheet, [(row, by_row.get(row.number, ()), ()) for row in sheet.rows], names)
    if not known and len(columns := sheet.columns or ()) == 1 and not _LABEL_COLUMN.fullmatch(_column(columns[0])):
        notes.append(f"{sheet.path}: the cells of column {columns[0]!r} are read as names of classes")
    if parted:
        notes.append(
            f"{sheet.path}: cells of several words are split, such as {next(iter(parted))!r} "
            "(a class table keeps them whole: --classes FILE)"
        )
    return LabelTable(labels, tuple(every), tuple(notes))


def _spaces_part(sheet: _Sheet) -> bool:
    """Whether a cell may hold several names separated by spaces: not if there is another separator."""
    cells = [cell for row in sheet.rows for cell in row.cells[1:]]
    in_cells = all(len(row.cells) <= 2 for row in sheet.rows) and not any(re.search("[|;,]", cell) for cell in cells)
    one_each = any(_ONE_LABEL.fullmatch(_column(name)) for name in sheet.columns or ())
    return sheet.separator is None or (in_cells and not one_each)


def _names_in(cell: str, known: Collection[str]) -> list[str]:
    """The names in a cell, also of a list as Python and JSON write it."""
    if cell in known:
        return [cell]
    listed = cell[1:-1] if cell[:1] + cell[-1:] == "[]" else cell
    names: list[str] = []
    for part in re.split("[|;]", listed):  # the name of a class may have a comma
        names += [part] if part.strip() in known else part.split(",")
    return [unquoted(name.strip()) for name in names]


def _words(text: str, known: Collection[str]) -> list[str]:
    """The text split at its spaces, except inside the longest known names."""
    words, found = text.split(), []
    while words:
        lengths = (length for length in range(len(words), 1, -1) if " ".join(words[:length]) in known)
        length = next(lengths, 1)
        found.append(" ".join(words[:length]))
        words = words[length:]
    return found


def _check_alike(path: Path, class_names: Iterable[str]) -> None:
    """DataError for names that differ only in case or spaces: one of them is a typing mistake."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(re.sub(r"\s", "", composed(name).casefold()), []).append(name)
    if same := [" and ".join(map(repr, several)) for several in alike.values() if len(several) > 1]:
        raise DataError(
            f"{path}: the names of some classes differ only in case or spaces: {named(same)}",
            "write each class in one way",
        )


def tags_of_mask(mask: np.ndarray) -> tuple[int, ...]:
    """The classes that have a pixel in a mask uint8 (H, W), without background and 255; sorted."""
    return tuple(int(value) for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE]) if value)


def _first_number(numbers: set[int], class_names: Sequence[str], path: Path) -> int:
    """0 or 1: the number of the first foreground class in a file of class numbers."""
    count = len(class_names) - 1
    if max(numbers) > count or (0 in numbers and count in numbers):
        raise DataError(
            f"{path} has class numbers {min(numbers)}..{max(numbers)}, expected 0..{count - 1} or 1..{count}",
            "write class names instead of numbers",
        )
    if 0 not in numbers and count not in numbers:
        raise DataError(
            f"{path}: its class numbers {min(numbers)}..{max(numbers)} may count from 0 or from 1",
            "write class names instead of numbers",
        )
    return 0 if 0 in numbers else 1


def _known(names: Iterable[str], class_names: Sequence[str], where: str) -> frozenset[str]:
    found = frozenset(names)
    if unknown := sorted(found - set(class_names[1:])):
        raise DataError(
            f"{where}: {unknown[0]!r} is not a class; expected one of {', '.join(class_names[1:])}",
            "correct the name",
        )
    return found
