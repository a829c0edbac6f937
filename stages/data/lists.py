"""Lists of image ids as text files, in the dialects that PASCAL VOC code uses.

    2007_000032                                                   plain ids (VOC, PixelSSL, DMT)
    /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png   DeepLab, CPS, CCT
    JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png        UniMatch, ST++
    2007_000032.jpg 17                                            a running number behind the file (DSRG)
    2007_000032 0 14                                              class numbers behind the id (DRS)

A file may lack its last newline, begin with a byte-order mark or end its lines with CR LF. Pickled lists are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from artifacts.dataset import check_image_id
from artifacts.errors import DataError

SHOWN = 5  # ids named in a message before "and n more"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_JOINED = re.compile(r"\.(jpg|jpeg|png)(?=.)", re.IGNORECASE)


def named(ids: Sequence[str]) -> str:
    """The first few ids and how many more: "a, b, c, d, e and 7 more"."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


def read_list(path: Path) -> list[str]:
    """The ids of a list file, in its order.

    Raises DataError, with the line's number, for a line of no known dialect, an id that stands twice, an image
    paired with another image's mask, two entries that ran into each other, and VOC's per-class lists of Main.
    """
    lines = read_lines(path)
    line_of: dict[str, int] = {}
    numbers: set[int] = set()
    for number, line in lines:
        where = f"{path}, line {number}"
        first, *rest = line.split()
        image_id = check_image_id(entry_id(first, where))
        if image_id in line_of:
            raise DataError(
                f"{where}: id {image_id} stood already in line {line_of[image_id]}", "keep one of the two lines"
            )
        line_of[image_id] = number
        numbers |= _check_rest(image_id, rest, where)
    if -1 in numbers:
        raise DataError(
            f"{path} is a per-class list of ImageSets/Main (-1 means: the class is absent)",
            "give a list of ImageSets/Segmentation",
        )
    return list(line_of)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of every line that is not blank. DataError for a missing file, a pickle, an empty list."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}", "correct its path") from None
    if path.suffix in (".pkl", ".npy", ".npz") or b"\x00" in data[:1024]:
        raise DataError(f"{path} is no text file", "write one image id per line; pickles are never loaded")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"the list {path} is empty", "write one image id per line")
    return lines


def entry_id(entry: str, where: str) -> str:
    """The id in `2007_000032`, `2007_000032.jpg` or `/JPEGImages/2007_000032.jpg`."""
    if _JOINED.search(entry):
        raise DataError(
            f"{where}: two entries ran into each other: {entry!r}",
            "a list without a final newline was appended to; put each entry on its own line",
        )
    name = PurePosixPath(entry.replace("\\", "/")).name
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in _SUFFIXES else name


def _check_rest(image_id: str, rest: list[str], where: str) -> set[int]:
    """What follows the id: nothing, the path of its mask, or whole numbers (returned)."""
    if len(rest) == 1 and rest[0].lower().endswith(_SUFFIXES):
        mask_id = entry_id(rest[0], where)
        if mask_id != image_id:
            raise DataError(f"{where}: image {image_id} is paired with mask {mask_id}", "correct the line")
        return set()
    try:
        return {int(word) for word in rest}
    except ValueError:
        joined = next((entry for entry in rest if _JOINED.search(entry)), None)
        if joined:
            entry_id(joined, where)
        raise DataError(
            f"{where}: {' '.join([image_id, *rest])!r} is no list entry; expected an id, an image with its mask, "
            "or an id with numbers",
            "write one image id per line",
        ) from None


def check_subset(ids: Iterable[str], known: Iterable[str], what: str, of: str) -> None:
    """Every id is known; DataError names the first few that are not and how many they are."""
    if missing := sorted(set(ids) - set(known)):
        raise DataError(
            f"{len(missing)} ids of {what} are not in {of}: {named(missing)}",
            "take them from the list, or add the files",
        )


def check_disjoint(ids: Iterable[str], others: Iterable[str], what: str, other: str) -> None:
    """No id stands in both lists; DataError names the first few that do."""
    if both := sorted(set(ids) & set(others)):
        raise DataError(
            f"{len(both)} ids stand in both {what} and {other}: {named(both)}",
            "take them from one of the lists: what is scored must not be trained on",
        )


def list_digest(ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, one a line: names a list whatever its order and dialect."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
