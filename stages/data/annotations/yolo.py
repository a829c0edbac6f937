"""YOLO's text files of polygons, one for each image: a line an object, `class x1 y1 x2 y2 ...`, as shares of the image.

    names = read_yolo_names(Path("labels/train"))                     # of data.yaml or classes.txt
    drawing = read_yolo(Path("labels/train/IMG_0001.txt"), (480, 640), names)

Classes are numbered from 0 on, without the background. Larger objects are drawn first, so that small ones stay visible.
An empty file says that an image shows no object. Lines of five numbers are boxes, which are not masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from stages.data.annotations.class_documents import read_entries
from stages.data.annotations.drawing import BACKGROUND_LABELS, Drawing, Region, Size
from stages.data.annotations.formats import is_yolo
from stages.data.annotations.reading import RegionError, polygon, read_bytes

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "classes.names")
_LEVELS = 3  # folders in which the names are looked for: own/labels/train, own/labels, own
_BOX = 4  # numbers of a line that is a box


def is_yolo_file(path: Path) -> bool:
    """Whether a text file is empty, or begins with a line of YOLO's."""
    with path.open("rb") as file:
        data = file.read(4096)
    return not data.strip() or is_yolo(data)


def names_file(folder: Path) -> Path | None:
    """The file with the names of the classes: the first in the folder or in the two above it."""
    places = (folder.absolute(), *folder.absolute().parents)[:_LEVELS]
    return next((place / name for place in places for name in NAMES_FILES if (place / name).is_file()), None)


def read_yolo_names(folder: Path) -> tuple[str, ...]:
    """The names of the classes 0, 1, ...; DataError where there are none, and where background may be one of them."""
    path = names_file(folder)
    if path is None:
        raise DataError(
            f"the names of the classes in YOLO's files in {folder} are not known",
            "write them in the order of their numbers, a name a line and without background, to "
            f"{folder / 'classes.txt'} (or put data.yaml there, with `names`)",
        )
    text = read_bytes(path).decode("utf-8-sig", errors="replace")
    names = _of_document(path, text) if path.suffix in (".yaml", ".yml") else [line.strip() for line in _lines(text)]
    if path.suffix not in (".yaml", ".yml") and names and names[0] in BACKGROUND_LABELS:
        raise DataError(
            f"{path} begins with {names[0]}, so it may be a class table of masks: is 0 the background in YOLO's "
            "files, or the first object?",
            f"write YOLO's names to {folder / 'data.yaml'}: `names: [cat, dog]`",
        )
    return tuple(names)


def _of_document(path: Path, text: str) -> list[str]:
    """The names in data.yaml, a list or by number."""
    entries = [parts for _, parts in read_entries(path, text)]
    numbered = {int(number) if number else place: name for place, (name, _, number) in enumerate(entries)}
    if sorted(numbered) != list(range(len(entries))):
        raise DataError(f"the classes of {path} are not numbered 0, 1, 2, ...", "correct its `names`")
    return [numbered[number] for number in sorted(numbered)]


def _lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_yolo(path: Path, size: Size | None, names: Sequence[str]) -> Drawing:
    """The drawing of a file, larger objects first; wrong lines are in its problems. size: of the image, (H, W)."""
    if size is None:
        raise DataError(f"the size of the image of {path} is not known, and its numbers are shares of it", "add it")
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: {error}", "copy or export it again") from None
    regions, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                regions.append(_region(line.split(), f"line {number}", size, names))
            except RegionError as wrong:
                problems.append(f"line {number}: {wrong}")
    regions.sort(key=lambda region: -region.area())
    return Drawing(path, path.stem, size, tuple(regions), (), tuple(problems))


def _region(words: Sequence[str], where: str, size: Size, names: Sequence[str]) -> Region:
    number = words[0].removesuffix(".0")
    if not (number.isascii() and number.isdigit()):
        raise RegionError(f"it begins with {words[0][:40]!r}, expected the number of a class")
    if int(number[:9]) >= len(names):
        raise RegionError(f"its class is {number[:9]}, there are {len(names)}: {', '.join(names)}")
    try:
        shares = np.array(words[1:], dtype=np.float64)
    except ValueError:
        raise RegionError("its points are not numbers") from None
    if len(shares) == _BOX:
        raise RegionError("it is a box, which is not a mask: draw outlines, or segment the boxes")
    if len(shares) % 2:
        raise RegionError(
            f"it has {len(shares)} numbers behind the class, which are no pairs of x and y (is the last a confidence?)"
        )
    points = shares.reshape(-1, 2) * (size[1], size[0])
    return Region(names[int(number)], where, (polygon(points, size),))
