"""The meaning of a cell in a class column of a table of image-level labels: present, absent or uncertain.

mark_in("yes"), mark_in("0.0"), mark_in("nan"), mark_in("0.93")     # "present", "absent", "uncertain", None
"""

from __future__ import annotations

import functools
import math

_MARKS = {
    "present": ("1", "true", "t", "yes", "y", "x", "+", "\u2713", "\u2714", "present", "positive", "pos"),
    "absent": ("0", "false", "f", "no", "n", "-", "", "absent", "negative", "neg"),
    "uncertain": ("-1", "?", "u", "unknown", "uncertain", "nan", "na", "n/a", "<na>", "null", "none"),
}
MARK_OF = {word: mark for mark, words in _MARKS.items() for word in words}
NEVER_NAMES = frozenset(("yes", "no", "true", "false", *_MARKS["uncertain"][4:]))
EXPECTED = "1 or 0 (also yes and no, true and false, x and nothing)"


@functools.lru_cache(4096)
def mark_in(cell: str) -> str | None:
    """The meaning of a cell: "present", "absent" or "uncertain"; None if it is not a mark."""
    number = number_in(cell)
    return MARK_OF.get(str(int(number)) if number in (1, 0, -1) else cell.lower())


def number_in(cell: str) -> float | None:
    try:
        number = float(cell.replace(",", "."))  # 0,93 is how some countries write it
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def like_a_mark(cell: str) -> bool:
    return mark_in(cell) is not None or number_in(cell) is not None
