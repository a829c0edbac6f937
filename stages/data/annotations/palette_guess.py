"""Guesses the kind of undescribed masks: ids, colours, or black and white.

guess = guess_palette(sorted(Path("masks").glob("*.png")))
guess.description, guess.table      # the guess, and a class table to correct
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from artifacts.dataset import MAX_CLASSES
from artifacts.errors import DataError
from artifacts.masks import IGNORE, voc_palette
from artifacts.text import named
from stages.data.annotations.class_table import BLACK, WHITE
from stages.data.annotations.colour_masks import MODES, codes_of, open_mask, palette_of, ranges, values_of
from stages.data.config import VOC_CLASS_NAMES

RARE = 1 / 2000  # share of the pixels below which a colour is not a class, but a smoothed edge
SAMPLE = 50  # masks that `guess_palette` looks at


@dataclass(frozen=True)
class Guess:
    """A guess of what masks are. It is always printed, never used without notice.

    Attributes:
        kind: "ids" (the value is the class), "binary" (black and white: 255 is an object, not ignore) or "colours".
        description: what was found, in sentences.
        table: a class table that fits, with made-up names where none are known; empty if the masks are none.
        looked: how many masks of what modes were looked at; the beginning of the description.
        values: those that occur, if every mask that was looked at can be an index mask; else None.
        palette: whether some of them have a palette, which has a colour for all of their values.
        colours: codes of those that occur.
    """

    kind: Literal["ids", "binary", "colours"]
    description: str
    table: str
    looked: str = ""
    values: frozenset[int] | None = None
    palette: bool = False
    colours: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Seen:
    """Pixels of the sampled masks, counted."""

    modes: Mapping[str, Sequence[Path]]
    values: Counter[int] | None  # None unless every mask is grey or indexed
    colours: Counter[int]
    palette: dict[int, int]  # value -> code in the first mask that has it
    palettes_differ: bool
    only_ids: bool  # pixels without a certain colour occur

    @property
    def has_palette(self) -> bool:
        return not {"P", "PA"}.isdisjoint(self.modes)


def guess_palette(paths: Collection[Path], kind: str = "auto") -> Guess:
    """Look at up to 50 of the masks, evenly spread, and guess what they are.

    A mask that cannot be read is skipped here, and reported with all others when the masks are read. The DataError of
    `read_colours` if none can be read. kind: "ids" or "colours" if that much is known: the class table is of that kind.
    """
    if not paths:
        raise DataError("there is no mask to look at", "name a folder with masks")
    count = min(len(paths), SAMPLE)
    places = {number * len(paths) // count for number in range(count)}
    chosen = [path for place, path in enumerate(paths) if place in places]
    seen = _look(chosen)
    by_mode = sorted(seen.modes.items(), key=lambda item: -len(item[1]))
    modes = named([f"{len(some)} of mode {mode}" + _example(some, len(by_mode)) for mode, some in by_mode])
    begin = f"{sum(map(len, seen.modes.values()))} of {len(paths)} masks looked at ({modes}): "
    found, words, table = _judge(seen, kind)
    values = None if seen.values is None else frozenset(seen.values)
    whole = seen.has_palette and not seen.only_ids
    return Guess(found, begin + words, table, begin, values, whole, frozenset(seen.colours))


def _example(paths: Sequence[Path], kinds: int) -> str:
    """An example file for each mode if there are several: it helps to find the odd ones."""
    return f", such as {paths[0].name}" if kinds > 1 else ""


def _look(paths: Iterable[Path]) -> _Seen:
    modes: dict[str, list[Path]] = {}
    errors: list[DataError] = []
    values: Counter[int] | None = Counter()
    colours: Counter[int] = Counter()
    palette: dict[int, int] = {}
    differ = only_ids = False
    for path in paths:
        if len(colours) > 100 * MAX_CLASSES:
            break  # enough to know that these are none
        try:
            image = open_mask(path)
            pixels = _index_values(path, image)
            codes, no_colours = _codes(path, image, pixels)
        except DataError as error:
            errors.append(error)
            continue
        only_ids |= no_colours
        modes.setdefault(image.mode, []).append(path)
        colours += _counted(codes)
        if pixels is None:
            values = None
        elif values is not None:
            values += _counted(pixels)
            found, first = np.unique(pixels, return_index=True)
            for value, code in zip(found.tolist(), () if no_colours else codes.ravel()[first].tolist(), strict=False):
                differ |= palette.setdefault(value, code) != code
    if errors and not modes:
        raise errors[0]
    return _Seen(modes, values, colours, palette, differ, only_ids)


def _index_values(path: Path, image: Image.Image) -> np.ndarray | None:
    """The values of a mask that can be an index mask, or black and white; None if it can only be painted."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode not in MODES:  # grey of more than 8 bits: ids or nothing
        return values_of(path, image)
    with contextlib.suppress(DataError):
        return values_of(path, image)
    return None


def _codes(path: Path, image: Image.Image, pixels: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """The colours of a mask, and whether some pixels have no certain colour: then it can only be an index mask."""
    if pixels is not None and image.mode not in MODES:
        return pixels * np.uint32(0x010101), False
    try:
        return codes_of(path, image), False
    except DataError:  # values beyond the palette, half transparent colours
        if pixels is None or image.mode != "P":
            raise
    known = palette_of(image)
    return known[pixels[pixels < len(known)]], True


def _counted(pixels: np.ndarray) -> Counter[int]:
    found, counts = np.unique(pixels, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


_Judgement = tuple[Literal["ids", "binary", "colours"], str, str]  # kind, what was found, class table


def _judge(seen: _Seen, kind: str = "auto") -> _Judgement:
    if seen.values is not None and (kind == "ids" or seen.only_ids):
        return _judge_ids(seen)
    if kind == "colours":
        return _judge_colours(seen.colours, "")
    if _is_black_and_white(seen.colours):
        rest = len(seen.colours) - 2
        smoothed = f"; {rest} greys between them look like smoothed edges, to be exported without" if rest else ""
        words = f"black and white. White (255) is read as the object, not as ignore{smoothed}"
        return "binary", words, "background 0 0 0\nobject 255 255 255\n"
    if seen.values is None:
        return _judge_colours(seen.colours, "")
    if seen.palettes_differ:
        return _judge_colours(
            seen.colours, "a value has different colours in different masks, so colours are the classes. "
        )
    if not seen.has_palette and (trap := _grey_levels(set(seen.values))):
        return _judge_colours(seen.colours, trap)
    return _judge_ids(seen)


def _is_black_and_white(colours: Counter[int]) -> bool:
    """Whether there is white, and otherwise only black, or many greys on few pixels: the smoothed edges of a
    black-and-white image. (Ids are greys too, but low ones.)
    """
    others = [code for code in colours if code not in (BLACK, WHITE)]
    if not colours[WHITE] or not others:
        return bool(colours[WHITE])
    few = colours[BLACK] + colours[WHITE] >= 0.9 * colours.total()
    return few and len(others) >= 20 and max(others) > 0xC0C0C0 and all(code % 0x010101 == 0 for code in others)


def _grey_levels(values: set[int]) -> str:
    """A sentence if the values of grey images are shades and no ids; else nothing."""
    shades = sorted(values - {0, IGNORE})
    if not shades or shades[-1] <= 40:
        return ""
    if values <= _voc_greys():
        return (
            f"the values {ranges(values)} look like VOC's colours turned into grey, which merges classes (38 is both "
            "aeroplane and pottedplant): better use the original masks. "
        )
    step = math.gcd(*shades)
    return f"the values {ranges(values)} look like shades, not like ids. " if step >= 10 else ""


def _voc_greys() -> set[int]:
    image = Image.frombytes("P", (256, 1), bytes(range(256)))
    image.putpalette(voc_palette())
    greys = np.asarray(image.convert("L"))[0].tolist()
    return {*greys[: len(VOC_CLASS_NAMES)], greys[IGNORE]}


def _voc_codes() -> list[int]:
    """Codes of VOC's colours by value, 0..255."""
    return [int.from_bytes(voc_palette()[3 * value : 3 * value + 3]) for value in range(256)]


def _judge_ids(seen: _Seen) -> _Judgement:
    values = set(seen.values or ())
    ids = sorted(values - {IGNORE})
    words = f"values {ranges(values)}, read as class ids" + (" and ignore (255)" if IGNORE in values else "")
    codes, last = _voc_codes(), max(ids, default=0)
    known = seen.has_palette and all(seen.palette.get(value) == codes[value] for value in values)
    if known and 0 < last < len(VOC_CLASS_NAMES):
        words += "; the palette is VOC's, but the classes may differ"
        return "ids", words, "".join(f"{name}\n" for name in VOC_CLASS_NAMES)
    if 0 in ids or not ids:
        return "ids", words, "background\n" + "".join(f"class_{value}\n" for value in range(1, last + 1))
    words += "; 0 does not occur, so the table has ids: one of them may be the background"
    return "ids", words, "".join(f"{value} class_{value}\n" for value in ids)


def _judge_colours(colours: Counter[int], words: str) -> _Judgement:
    least = RARE * colours.total() if len(colours) > MAX_CLASSES else 0  # so many are mostly edges, not classes
    common = [code for code, count in colours.most_common() if count >= least]
    if len(common) > MAX_CLASSES or not common:
        words += f"{len(colours)} colours, none of them frequent: these look like photographs, not masks"
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
        words += "; all of them VOC's, but the classes may differ"
        lines = [*zip(VOC_CLASS_NAMES, codes, strict=False), ("__ignore__", codes[IGNORE])]
        return "colours", words, _table_text(lines)
    words += "" if BLACK in common else "; black does not occur: rename the line of the background, if there is one"
    others = [code for code in common if code != BLACK]
    lines = [("background", BLACK)] if BLACK in common else []
    lines += [(f"class_{number}", code) for number, code in enumerate(others, start=1)]
    return "colours", words, _table_text(lines)


def _table_text(lines: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{name} {code >> 16} {code >> 8 & 255} {code & 255}\n" for name, code in lines)
