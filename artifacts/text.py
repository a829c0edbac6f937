"""Text of external origin - file names, class names, messages of libraries - made safe for the terminal."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Control characters except tab and line feed, marks that turn the direction of text, line separators, lone surrogates.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with a backslash escape for each character that is not text.

    An escape sequence would act on the terminal; a lone surrogate (how Python holds a byte of a file name that is not
    UTF-8, shown as \\xNN) cannot be printed at all. Tabs and line feeds are kept.
    """
    return _HIDDEN.sub(lambda found: _escaped(ord(found[0])), text)


def forbidden_character(text: str) -> str | None:
    """Why `text` cannot be a name: a description of its first control character or lone surrogate; None if it can."""
    for character in text:
        if (category := unicodedata.category(character)) in ("Cc", "Cs"):
            what = "a control character" if category == "Cc" else "what is not UTF-8 text"
            return f"{what} ({_escaped(ord(character))})"
    return None


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def amount(count: int, one: str, many: str = "") -> str:
    """The number with the words for it: "1 id is", "1,204 ids are"; many: where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


SHOWN = 5  # ids named in a message before "and n more"


def named(ids: Sequence[str]) -> str:
    """The first few ids and how many more: "a, b, c, d, e and 7 more"."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


def did_you_mean(word: str, known: Iterable[str], list_known: bool = True) -> str:
    """The end of a message about an unknown word: ", did you mean 'x'?", or else the known words (`list_known`)."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        return f", did you mean {close[0]!r}?"
    return f"; known: {', '.join(known) or 'none'}" if list_known else ""
