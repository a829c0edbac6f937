"""Lists of image ids as text files, in the dialects of the published code for VOC, Cityscapes and COCO.

    2007_000032                                                   plain ids (VOC, PixelSSL, DMT)
    /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png   DeepLab, CPS, CCT
    JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png        UniMatch, ST++
    2007_000032.jpg 17                                            a running number behind the file (DSRG)
    2007_000032 0 14                                              class numbers behind the id (DRS)
    train2017/000000000009.jpg masks/000000000009.png             COCO (UniMatch)

and for Cityscapes, where the id of every line below is aachen_000000_000019:

    aachen/aachen_000000_000019                                   DMT
    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png       U2PL: the image alone
    leftImg8bit/train/aachen/..._leftImg8bit.png gtFine/train/aachen/..._gtFine_labelTrainIds.png     UniMatch
    /images/train/aachen_000000_000019.png <tab> /segmentation/train/aachen_000000_000019_gtFine.png  CPS
    aachen_000000_000019_leftImg8bit.png,aachen_000000_000019_gtFine_labelIds.png                     with a comma

A file may lack its last newline, begin with a byte-order mark, end its lines with CR LF, and be UTF-16 as Windows
writes it. Pickled lists are refused.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from artifacts.dataset import check_image_id
from artifacts.errors import DataError

SHOWN = 5  # ids named in a message before "and n more"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_COMMA = re.compile(r"(\.(?:jpg|jpeg|png))\s*,\s*", re.IGNORECASE)  # after a file name only: an id may have commas
# What Cityscapes appends to an id: _leftImg8bit, _gtFine_labelTrainIds, _gtCoarse_labelIds, CPS's bare _gtFine.
_ROLE = re.compile(r"(?<=.)_(leftImg8bit|gt(Fine|Coarse)(_[A-Za-z0-9]+)?)$")
# The end of one entry with the next one right behind it: a file name, or a bare id of COCO, VOC or Cityscapes.
_JOINED = re.compile(
    r"""\.(jpg|jpeg|png)(?=.)
    | (?<!\d) (0{6}\d{6} | (\d{4}|_\d{6})_\d{6})
      (?= 0{6}\d{6} | \d{4}_\d{6} | [a-z-]+_\d{6}_\d{6} | [a-z][\w-]*/ | \.?/(JPEGImages/|images/train) )""",
    re.IGNORECASE | re.VERBOSE,
)
# Class numbers and running numbers. Longer ones, and those with an underscore, are a number with an id behind it.
_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


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
        first, *rest = _COMMA.sub(r"\1 ", line).split()
        image_id = _checked_id(first, where)
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
        raise DataError(
            f"the list {path} cannot be read: {error.strerror}", "correct its path or permissions"
        ) from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows PowerShell's `>` writes
    if path.suffix in (".pkl", ".npy", ".npz") or (b"\x00" in data[:1024] and not wide):
        raise DataError(f"{path} is no text file", "write one image id per line; pickles are never loaded")
    try:
        text = data.decode("utf-16" if wide else "utf-8").replace("\ufeff", "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no {'UTF-16' if wide else 'UTF-8'} text: {error.reason} at byte {error.start}, "
            f"line {data[: error.start].count(10) + 1}",
            "save it as UTF-8",
        ) from None
    every_line = re.split(r"\r\n|\n|\r", text)
    lines = [(number, line.strip()) for number, line in enumerate(every_line, start=1) if line.strip()]
    if not lines:
        raise DataError(f"the list {path} is empty", "write one image id per line")
    return lines


def _checked_id(entry: str, where: str) -> str:
    try:
        return check_image_id(entry_id(entry, where))
    except DataError as error:
        raise error if error.message.startswith(where) else DataError(f"{where}: {error.message}", error.hint) from None


def entry_id(entry: str, where: str) -> str:
    """The id in `2007_000032`, `/JPEGImages/2007_000032.jpg` or `aachen_000000_000019_leftImg8bit.png`."""
    path = entry.replace("\\", "/")
    if _JOINED.search(path):
        raise DataError(
            f"{where}: two entries ran into each other: {entry!r}",
            "a list without a final newline was appended to; put each entry on its own line",
        )
    stem, suffix = posixpath.splitext(posixpath.basename(path.rstrip("/")))
    return _ROLE.sub("", stem if suffix.lower() in _SUFFIXES else stem + suffix)


def _check_rest(image_id: str, rest: list[str], where: str) -> set[int]:
    """What follows the id: nothing, the path of its mask, or whole numbers (returned)."""
    if len(rest) == 1 and rest[0].lower().endswith(_SUFFIXES):
        mask_id = entry_id(rest[0], where)
        if mask_id != image_id:
            raise DataError(f"{where}: image {image_id} is paired with mask {mask_id}", "correct the line")
        return set()
    if all(_NUMBER.fullmatch(word) for word in rest):
        return {int(word) for word in rest}
    for entry in rest:
        entry_id(entry, where)  # says so where two entries ran into each other
    raise DataError(
        f"{where}: {' '.join([image_id, *rest])!r} is no list entry; expected an id, an image with its mask, "
        "or an id with numbers",
        "write one image id per line; ids with the names of their classes are a label file (tag_file)",
    )


def check_subset(ids: Iterable[str], known: Iterable[str], what: str, of: str) -> None:
    """Every id is known; DataError names the first few that are not, how many they are, and what may be meant."""
    known = set(known)
    if missing := sorted(set(ids) - known):
        raise DataError(
            f"{len(missing)} ids of {what} are not in {of}: {named(missing)}",
            did_you_mean(missing, known) + "take them from the list, or add the files",
        )


def did_you_mean(unknown: Sequence[str], known: Collection[str]) -> str:
    """The beginning of a hint: "did you mean a for A, b for b_mask? Else ", or nothing where no known id is near."""
    near = [f"{meant} for {one}" for one, meant in itertools.islice(_near_misses(unknown, known), SHOWN)]
    if near:
        return f"did you mean {', '.join(near)}? Else "
    if unknown and all(one.isdecimal() and int(one) < len(known) for one in unknown):
        return "are these row numbers of another list (s4GAN counts rows of train_aug.txt)? Write the ids. Else "
    return ""


def _near_misses(unknown: Sequence[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """(unknown id, known id): other case or leading zeros, more or less at one end, or two ids in one."""
    whole = {name: one for one in known for name in (one.casefold(), _unpadded(one))}
    ends: dict[str, list[str]] = {}
    for one in known:
        for end in _ends(one):
            ends.setdefault(end, []).append(one)
    for one in unknown:
        longer = ends.get(one.casefold(), [])  # 2007 is the beginning of many ids: then nothing is meant
        near = [whole[name] for name in (one.casefold(), _unpadded(one), *_ends(one)) if name in whole]
        cuts = [cut for cut in range(1, len(one)) if one[:cut] in known and one[cut:] in known]
        if near or len(longer) == 1:
            yield one, (near or longer)[0]
        elif cuts:
            yield one, f"{one[: cuts[0]]} and {one[cuts[0] :]} on two lines"


def _unpadded(image_id: str) -> str:
    return image_id.casefold().lstrip("0") or "0"


def _ends(image_id: str) -> list[str]:
    """What remains, in small letters, without the parts before or behind a separator; the longest first."""
    folded = image_id.casefold()
    cuts = [match.start() for match in re.finditer(r"[-._ ]", folded)]
    ends = {folded[:cut] for cut in cuts} | {folded[cut + 1 :] for cut in cuts}
    return sorted(ends - {""}, key=lambda end: (-len(end), end))


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
