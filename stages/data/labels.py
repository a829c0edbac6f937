"""Image-level labels ("tags") of PASCAL VOC: from XML annotations, from a text file, or from masks.

The sources differ: of the two label sets in use for trainaug, the one from XML files has 903 (image, class) pairs more
(in 817 images) than the other, so results on one source are not comparable with results on another.
"""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts.dataset import check_image_id
from artifacts.errors import DataError
from artifacts.masks import IGNORE
from stages.data.lists import SHOWN, entry_id, read_lines

FIRST_COLUMNS = ("id", "image", "image_id", "imageid", "file", "filename", "file_name", "name", "picture", "path", "")
_PRESENT, _ABSENT = ("1", "1.0", "true"), ("0", "0.0", "false", "")  # in a column a class; pandas writes words
_FIRST_MARK = re.compile(r'(?:"[^"]*"|[^\t;,]*?)\s*([\t;,])')  # behind the first cell


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


def read_label_file(path: Path, class_names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Labels by id from lines `2007_000063 chair dog` or `2007_000063 8 11`.

    class_names: background first. Numbers count the foreground from 0 or from 1: a 0 in the file says the
    former, the number of classes the latter; a file with neither is refused, since one would have to guess.
    """
    words = {}
    for number, line in read_lines(path):
        first, *rest = line.split()
        image_id = entry_id(first, f"{path}, line {number}")
        if image_id in words:
            raise DataError(f"{path}, line {number}: id {image_id} has labels already", "keep one of the two lines")
        words[image_id] = (number, rest)
    everything = {word for _, rest in words.values() for word in rest}
    if everything and all(word.isdigit() for word in everything):
        first_number = _first_number({int(word) for word in everything}, class_names, path)
        return {
            image_id: frozenset(class_names[int(word) - first_number + 1] for word in rest)
            for image_id, (_, rest) in words.items()
        }
    return {image_id: _known(rest, class_names, f"{path}, line {number}") for image_id, (number, rest) in words.items()}


@dataclass(frozen=True)
class LabelTable:
    """Image-level labels as people keep them: names by image id, and the names that occur."""

    labels: Mapping[str, frozenset[str]]
    class_names: tuple[str, ...]  # in the order of the columns, or sorted


def read_label_table(path: Path, known: Collection[str] = ()) -> LabelTable:
    """A CSV or text file of image-level labels, whose class names need not be known before.

    A row an image: its id or file name, then its labels: `img_1.jpg,cat,dog`, `img_1.jpg,cat dog`, `img_1 cat`, or in a
    column a class of 0 and 1 (False, True) below a header `image,cat,dog`. An image without a label has an empty row
    after its name. The first tab, semicolon or comma of the file, behind a first cell, is what parts the cells.
    known: names of several words, which are not taken apart where a cell may hold several names. Raises DataError, with
    the line's number, for an image that stands twice and for a row of another length than the header.
    """
    lines = read_lines(path)
    marks = [match[1] for _, line in lines if (match := _FIRST_MARK.match(line))]
    rows = [(number, _cells(line, marks[0] if marks else None, f"{path}, line {number}")) for number, line in lines]
    (_, (first, *header)), *body = rows
    marked = {cell.lower() for _, cells in body for cell in cells[1:]}  # what stands below a header
    one_hot = marked <= {*_PRESENT, *_ABSENT} and bool(marked - {""})
    if header and one_hot and not {cell.lower() for cell in header} <= {*_PRESENT, *_ABSENT}:
        if marks[:1] == ["\t"]:  # `read_lines` takes tabs off the end of a line
            body = [(number, cells + [""] * (1 + len(header) - len(cells))) for number, cells in body]
        return _one_hot(path, header, body)
    if header and first.lower() in FIRST_COLUMNS:
        rows = body
    labels: dict[str, frozenset[str]] = {}
    spaces = all(len(cells) <= 2 for _, cells in rows)  # part names within a cell too
    for number, cells in rows:
        found = [name.strip() for cell in cells[1:] for name in ([cell] if cell in known else re.split("[|;,]", cell))]
        words = [name.split() if spaces and name not in known else [name] for name in found]
        _add(labels, path, number, cells[0], [name for part in words for name in part if name])
    names = sorted({name for found in labels.values() for name in found})
    if names and all(name.isdigit() for name in names):
        raise DataError(
            f"{path} has numbers for labels: {', '.join(names[:SHOWN])}", "write class names, or a column a class"
        )
    return LabelTable(labels, tuple(names))


def _cells(line: str, delimiter: str | None, where: str) -> list[str]:
    if delimiter is None:
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    except csv.Error as error:
        raise DataError(f"{where}: {error}", "correct the line") from None


def _one_hot(path: Path, names: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> LabelTable:
    if len(set(names)) != len(names) or "" in names:
        raise DataError(f"{path}: the header is {', '.join(names)}, expected distinct class names", "correct it")
    labels: dict[str, frozenset[str]] = {}
    for number, cells in rows:
        if len(cells) != len(names) + 1:
            raise DataError(
                f"{path}, line {number}: {len(cells)} cells, expected {len(names) + 1} as in the header",
                "complete the row",
            )
        present = [name for name, cell in zip(names, cells[1:], strict=True) if cell.lower() in _PRESENT]
        _add(labels, path, number, cells[0], present)
    return LabelTable(labels, tuple(names))


def _add(labels: dict[str, frozenset[str]], path: Path, number: int, first: str, names: Iterable[str]) -> None:
    where = f"{path}, line {number}"
    entry = entry_id(first, where)
    try:
        image_id = check_image_id(entry)
    except DataError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None
    if image_id in labels:
        raise DataError(f"{where}: id {image_id} has labels already", "keep one of the two lines")
    labels[image_id] = frozenset(names)


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
            f"{where}: {unknown[0]!r} is no class; expected one of {', '.join(class_names[1:])}",
            "correct the name",
        )
    return found
