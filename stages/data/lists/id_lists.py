"""Lists of image ids as text files, in the dialects of the published code for VOC, Cityscapes and COCO.

    2007_000032                                                   plain ids (VOC, PixelSSL, DMT)
    /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png   DeepLab, CPS, CCT
    JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png        UniMatch, ST++
    2007_000032.jpg 17                                            a running number after the file (DSRG)
    2007_000032 0 14                                              class numbers after the id (DRS)
    train2017/000000000009.jpg masks/000000000009.png             COCO (UniMatch)

and for Cityscapes, where the id of every line below is aachen_000000_000019:

    aachen/aachen_000000_000019                                   DMT
    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png       U2PL: the image alone
    leftImg8bit/train/aachen/..._leftImg8bit.png gtFine/train/aachen/..._gtFine_labelTrainIds.png     UniMatch
    /images/train/aachen_000000_000019.png <tab> /segmentation/train/aachen_000000_000019_gtFine.png  CPS
    aachen_000000_000019_leftImg8bit.png,aachen_000000_000019_gtFine_labelIds.png                     with a comma

Names may hold spaces, commas, dots, numbers and brackets (`IMG (1)`, `photo 2`), and may be quoted. So a line is
first compared as a whole with the known ids (`Names`), and split only if the whole line is not one of them.
A file may lack its last newline, begin with a byte-order mark, end its lines with CR LF, and be UTF-16 as Windows
writes it. Pickled lists are never loaded.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import itertools
import posixpath
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.dataset import check_image_id
from artifacts.errors import DataError
from artifacts.image_files import SUFFIXES
from artifacts.text import SHOWN, amount, named

# What a file name in a list may end with: every kind of image that is read, and what masks are stored as.
ENTRY_SUFFIXES = (*SUFFIXES, ".mat", ".npy")
_SUFFIX = rf"\.(?:{'|'.join(suffix[1:] for suffix in sorted(ENTRY_SUFFIXES, key=len, reverse=True))})"
_BEHIND_FILE = re.compile(rf"({_SUFFIX}[\"']?)[\s,;]+", re.IGNORECASE)  # what parts a file name from what follows it
_SEPARATOR = re.compile(r"[\s,;]+")
_MOST_PARTS = 64  # of a line that are looked at: no name has as many, and the time would grow with their square
# What Cityscapes appends to an id: _leftImg8bit, _gtFine_labelTrainIds, _gtCoarse_labelIds, CPS's bare _gtFine.
_ROLE = re.compile(r"(?<=.)_(leftImg8bit|gt(Fine|Coarse)(_[A-Za-z0-9]+)?)$")
# The end of one entry with the next one right behind it: a file name, or a bare id of COCO, VOC or Cityscapes.
_JOINED = re.compile(
    r"""\.(jpg|jpeg|png)(?=.)
    | (?<!\d) (0{6}\d{6} | (\d{4}|_\d{6})_\d{6})
      (?= 0{6}\d{6} | \d{4}_\d{6} | [a-z-]+_\d{6}_\d{6} | [a-z][\w-]*/ | \.?/(JPEGImages/|images/train) )""",
    re.IGNORECASE | re.VERBOSE,
)
# Ids of VOC, COCO and Cityscapes: a number behind one of them is no part of it.
_PUBLISHED_ID = re.compile(r"\d{4}_\d{6}|(COCO_\w+_)?\d{12}|[a-z-]+_\d{6}_\d{6}", re.ASCII)
# Class numbers and running numbers. Longer ones, and those with an underscore, are a number with an id behind it.
_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)
_NUMBERED = re.compile(r"(.*\S)[\s,;]+-?\d{1,9}", re.ASCII | re.DOTALL)


def composed(name: str) -> str:
    """The name with each accented letter as one character; file names of macOS have two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class Names:
    """The ids that a list or table may name, found by the text written there."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._given = ids  # most often, no list is read: then nothing is made of a million ids

    @functools.cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self._given)

    @functools.cached_property
    def _ids(self) -> dict[str, str]:
        return {composed(image_id): image_id for image_id in sorted(self._exact)}

    @functools.cached_property
    def _without_role(self) -> dict[str, str]:
        """`x`, or x_gtFine.png, names x_leftImg8bit of a folder of one's own."""
        return {_ROLE.sub("", name): image_id for name, image_id in self._ids.items() if "_" in name}

    @functools.cached_property
    def _before_numbers(self) -> set[str]:
        return {match[1] for name in self._ids if (match := _NUMBERED.fullmatch(name))}

    def find(self, written: str) -> str | None:
        """The id that is written as itself, as a file name or path, or in quotes; None if it is not a known id.

        The longest match wins: `a.png` is the id a.png if there is one, else a.
        """
        within = written[1:-1] if written[:1] in ("'", '"') and written[-1:] == written[:1] else written
        for text in dict.fromkeys((written, unquoted(written), within)):  # its own quotes may not have been doubled
            if (found := self._id(text)) is not None:
                return found
            path = text.replace("\\", "/").rstrip("/")
            folder, _, file = path.rpartition("/")
            if folder and (
                '"' in folder or self._holds_an_entry(folder) or _JOINED.search(path, 0, len(path) - len(file) + 1)
            ):
                continue
            names = _readings(file)
            found = next((found for name in names if (found := self._id(name)) is not None), None)
            if found is not None or (found := self._without_role.get(composed(names[-1]))) is not None:
                return found
        return None

    def _id(self, name: str) -> str | None:
        """The id of this name: an exact match, else one that differs only in how accents are written."""
        return name if name in self._exact else self._ids.get(composed(name))

    def split(self, line: str) -> Iterator[tuple[str, str]]:
        """(id, the rest of the line) for every known id that the line begins with, the longest first."""
        for left, rest in reversed(_divisions(line)):
            if (found := self.find(left)) is not None:
                yield found, rest

    def continues_with_numbers(self, image_id: str) -> bool:
        """Whether another id is this one followed by a number, such as `photo 2` and `photo`."""
        return composed(image_id) in self._before_numbers

    def _holds_an_entry(self, folder: str) -> bool:
        """Whether the text before the last slash is an entry of its own: `a.jpg masks` of `a.jpg masks/b.png`."""
        return any(
            left.lower().endswith(ENTRY_SUFFIXES)
            or _PUBLISHED_ID.fullmatch(posixpath.basename(left))
            or any(composed(name) in self._ids for name in _readings(posixpath.basename(left)))
            for left, _ in _divisions(folder)
        )


def unquoted(text: str) -> str:
    """The text without the quotes around it, if there are any; a doubled quote within them is one."""
    inner, mark = text[1:-1], text[:1]
    if len(text) < 2 or mark not in "\"'" or text[-1] != mark:
        return text
    within = re.escape(mark) if mark == '"' else r"'[\s,;]|[\s,;]'"  # `it's` has no end of a quotation in it
    return text if re.search(within, inner.replace(mark * 2, "")) else inner.replace(mark * 2, mark)


def _readings(file: str) -> tuple[str, ...]:
    """The ids that a file name may mean: the whole name, the name without suffix, without Cityscapes' ending."""
    stem, suffix = posixpath.splitext(file)
    stem = stem if suffix.lower() in ENTRY_SUFFIXES else file
    return file, stem, _ROLE.sub("", stem) if "_" in stem else stem


def _divisions(line: str) -> list[tuple[str, str]]:
    """The line cut in two at each of its separators (white space, comma, semicolon), the shortest beginning first."""
    cuts = itertools.islice(_SEPARATOR.finditer(line), _MOST_PARTS)
    return [(line[: cut.start()], line[cut.end() :]) for cut in cuts if cut.start() and cut.end() < len(line)]


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Entry:
    """A parsed line. sure: only `image_id` can be meant."""

    number: int
    line: str
    image_id: str
    numbers: tuple[int, ...] = ()
    sure: bool = True


def read_list(path: Path, names: Names | None = None, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """The ids of a list file, in its order.

    names: the known ids; unknown ids are returned too, and the caller reports them. Without names, an ambiguous line is
    an error. note: called with a sentence on numbers that are not read as a part of ids. Raises DataError, with the
    line's number, for a line of no known dialect, an id that occurs twice, an image paired with another image's mask,
    two entries joined without a line break, and VOC's per-class lists of Main.
    """
    entries = [_entry(path, number, line, names) for number, line in read_lines(path)]
    if any(-1 in entry.numbers for entry in entries):
        raise DataError(
            f"{path} is a per-class list of ImageSets/Main (-1 means: the class is absent)",
            "give a list of ImageSets/Segmentation",
        )
    _check_numbers(path, entries, names, note)
    line_of: dict[str, int] = {}
    for entry in entries:
        if (first := line_of.setdefault(entry.image_id, entry.number)) != entry.number:
            raise DataError(
                f"{path}, line {entry.number}: id {entry.image_id} is already in line {first}",
                "keep one of the two lines",
            )
    return list(line_of)


def read_lines(path: Path, around: str | None = None) -> list[tuple[int, str]]:
    """(line number, text) of every line that is not blank. DataError for a missing file, a pickle, an empty list.

    around: the characters that are stripped from both ends of a line; None: all white space.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the list {path} cannot be read: {error.strerror}", "correct its path or permissions"
        ) from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows PowerShell's `>` writes
    if path.suffix in (".pkl", ".npy", ".npz") or (b"\x00" in data[:1024] and not wide):
        raise DataError(f"{path} is not a text file", "write one image id per line; pickles are never loaded")
    try:
        text = data.decode("utf-16" if wide else "utf-8").replace("\ufeff", "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {'UTF-16' if wide else 'UTF-8'} text: {error.reason} at byte {error.start}, "
            f"line {data[: error.start].count(10) + 1}",
            "save it as UTF-8",
        ) from None
    every_line = re.split(r"\r\n|\n|\r", text)
    lines = [(number, line.strip(around)) for number, line in enumerate(every_line, start=1) if line.strip()]
    if not lines:
        raise DataError(f"the list {path} is empty", "write one image id per line")
    return lines


def _entry(path: Path, number: int, line: str, names: Names | None) -> _Entry:
    where = f"{path}, line {number}"
    if names is None:
        return _by_dialect(where, number, line)
    if (found := names.find(line)) is not None:
        return _Entry(number, line, found)
    beginnings = list(names.split(line))
    for image_id, rest in beginnings:
        if (numbers := _numbers(rest)) is not None:
            before = line[: len(line) - len(rest)].rstrip(" \t,;")
            return _Entry(number, line, image_id, numbers, _ends_an_id(before))
        if names.find(rest) == image_id:
            return _Entry(number, line, image_id)
    if beginnings:
        raise _no_entry(where, line, *beginnings[0])
    try:
        entry = _by_dialect(where, number, line)
    except _UnsureError:
        entry = _Entry(number, line, "", sure=False)
    if not entry.sure and -1 not in entry.numbers:  # an unknown id, which the caller reports
        entry = _Entry(number, line, checked_id(unquoted(line), where))
    if names.find(entry.image_id) is not None:  # read differently from the known ids
        raise _no_entry(where, line, entry.image_id, "")
    return entry


class _UnsureError(DataError):
    """A line of no dialect, which may be one id with spaces."""


def _by_dialect(where: str, number: int, line: str) -> _Entry:
    """A line parsed without known ids."""
    first, *behind = _BEHIND_FILE.sub(r"\1\n", line, count=1).split("\n")
    rest = behind[0] if behind else ""
    if not behind and not first.lower().endswith(ENTRY_SUFFIXES) and (parts := re.split(r"\s+", line, maxsplit=1))[1:]:
        first, rest = parts
        if (numbers := _numbers(rest)) is None:
            for word in rest.split():
                entry_id(word, where)  # raises if two entries were joined
            raise _no_entry(where, line, first, rest)
        return _Entry(number, line, checked_id(first, where), numbers, _ends_an_id(first))
    image_id, numbers = checked_id(unquoted(first), where), _numbers(rest) if rest else ()
    if numbers is None and entry_id(unquoted(rest), where) != image_id:
        raise _no_entry(where, line, image_id, rest)
    # An id and a file behind it, or, without a mask of the same name, a folder with a space.
    head, *more = first.split(maxsplit=1)
    if more and (_PUBLISHED_ID.fullmatch(head) or (numbers is not None and re.search(r"\s.*[/\\]", first))):
        raise _no_entry(where, line, first, "")
    return _Entry(number, line, image_id, numbers or ())


def _numbers(text: str) -> tuple[int, ...] | None:
    """The whole numbers in the text; None if it holds anything else."""
    words = _SEPARATOR.split(text)
    return tuple(int(word) for word in words) if all(_NUMBER.fullmatch(word) for word in words) else None


def _ends_an_id(before: str) -> bool:
    """Whether numbers after this text are not a part of the id: it is a file name, or an id of a published data set."""
    return before.strip("\"'").lower().endswith(ENTRY_SUFFIXES) or bool(_PUBLISHED_ID.fullmatch(before))


def _no_entry(where: str, line: str, image_id: str, rest: str) -> DataError:
    if unquoted(rest).lower().endswith(ENTRY_SUFFIXES):
        return DataError(
            f"{where}: image {image_id} is paired with mask {entry_id(unquoted(rest), where)}", "correct the line"
        )
    return _UnsureError(
        f"{where}: {line!r} is not a list entry; expected an id, an image with its mask, or an id with numbers",
        "write one image id per line; ids with the names of their classes are a label file (tag_file)",
    )


def _check_numbers(path: Path, entries: Sequence[_Entry], names: Names | None, note: Callable[[str], None]) -> None:
    """DataError if `photo 1` may be one id as well as the id photo with a number; a note if numbers are not used."""
    unsure = [entry for entry in entries if not entry.sure]
    if not unsure:
        return
    siblings = [e for e in unsure if names is None or names.continues_with_numbers(e.image_id)]
    if siblings or not all(entry.numbers for entry in entries):
        entry = (siblings or unsure)[0]
        raise DataError(
            f"{path}, line {entry.number}: {entry.line!r} may be one unknown id, or the id "
            f"{entry.image_id} followed by a number",
            "correct the id; or write it without the number, or as a file name with its suffix",
        )
    note(f"{path}: the numbers after the ids ({unsure[0].line!r}) are read as class or running numbers and not used")


def checked_id(entry: str, where: str) -> str:
    """The id in an entry, see `entry_id`, if it can be one; else DataError."""
    try:
        return check_image_id(entry_id(entry, where))
    except DataError as error:
        raise error if error.message.startswith(where) else DataError(f"{where}: {error.message}", error.hint) from None


def entry_id(entry: str, where: str) -> str:
    """The id in `2007_000032`, `/JPEGImages/2007_000032.jpg` or `aachen_000000_000019_leftImg8bit.png`."""
    path = entry.replace("\\", "/")
    if _JOINED.search(path):
        raise DataError(
            f"{where}: two entries are joined without a line break: {entry!r}",
            "a list without a final newline was appended to; put each entry on its own line",
        )
    return _readings(posixpath.basename(path.rstrip("/")))[-1]


def check_subset(ids: Iterable[str], known: Iterable[str], what: str, of: str) -> None:
    """DataError for unknown ids: the first few, how many there are, and similar known ids."""
    known = set(known)
    if missing := sorted(set(ids) - known):
        raise DataError(
            f"{amount(len(missing), f'id of {what} is', f'ids of {what} are')} not in {of}: {named(missing)}",
            meant_ids(missing, known) + "remove them from the list, or add the files",
        )


def meant_ids(unknown: Sequence[str], known: Collection[str]) -> str:
    """The beginning of a hint: "did you mean a for A, b for b_mask? Else ", or nothing if no known id is similar."""
    near = [f"{meant} for {one}" for one, meant in itertools.islice(_near_misses(unknown, known), SHOWN)]
    if near:
        return f"did you mean {', '.join(near)}? Else "
    if unknown and all(one.isdecimal() and int(one) < len(known) for one in unknown):
        return "are these row numbers of another list (s4GAN counts rows of train_aug.txt)? Write the ids. Else "
    return ""


def _near_misses(unknown: Sequence[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """(unknown id, known id) pairs that differ in case, leading zeros or at one end, or where one is two ids joined."""
    whole = {name: one for one in known for name in (one.casefold(), _unpadded(one))}
    ends: dict[str, list[str]] = {}
    for one in known:
        for end in _ends(one):
            ends.setdefault(end, []).append(one)
    for one in unknown:
        longer = ends.get(one.casefold(), [])  # 2007 is the beginning of many ids: then there is no suggestion
        near = [whole[name] for name in (one.casefold(), _unpadded(one), *_ends(one)) if name in whole]
        cuts = [cut for cut in range(1, len(one)) if one[:cut] in known and one[cut:] in known]
        if near or len(longer) == 1:
            yield one, (near or longer)[0]
        elif cuts:
            yield one, f"{one[: cuts[0]]} and {one[cuts[0] :]} on two lines"


def _unpadded(image_id: str) -> str:
    return image_id.casefold().lstrip("0") or "0"


def _ends(image_id: str) -> list[str]:
    """The id in lower case without the parts before or after a separator; the longest first."""
    folded = image_id.casefold()
    cuts = [match.start() for match in re.finditer(r"[-._ ]", folded)]
    ends = {folded[:cut] for cut in cuts} | {folded[cut + 1 :] for cut in cuts}
    return sorted(ends - {""}, key=lambda end: (-len(end), end))


def check_disjoint(ids: Iterable[str], others: Iterable[str], what: str, other: str) -> None:
    """DataError for ids that are in both lists; it names the first few."""
    if both := sorted(set(ids) & set(others)):
        raise DataError(
            f"{amount(len(both), 'id is', 'ids are')} in both {what} and {other}: {named(both)}",
            "remove them from one of the lists: scored images must not be trained on",
        )


def list_digest(ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, one a line: identifies a list in any order and dialect."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
