"""Image-level labels ("tags") of PASCAL VOC: from XML annotations, from a text file, or from masks.

The sources differ: of the two label sets in use for trainaug, the one from XML files has 903 (image, class) pairs more
(in 817 images) than the other, so results on one source are not comparable with results on another.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import IGNORE
from stages.data.lists import entry_id, read_lines


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
