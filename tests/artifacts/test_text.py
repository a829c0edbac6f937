"""Text from outside, made safe to look at."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.dataset import check_image_id
from artifacts.errors import DataError
from artifacts.text import forbidden_character, visible

ANY = st.text(st.characters())  # with control characters and lone surrogates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich 12°, 猫 🐱 [red] :cat: $x$", "Zürich 12°, 猫 🐱 [red] :cat: $x$"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("one\roverwritten\x9b2J", r"one\x0doverwritten\x9b2J"),
        ("caf\udce9", r"caf\xe9"),  # how Python reads the byte E9 of a file name
        ("\ud83d half", r"\ud83d half"),
        ("gnp\u202e.exe", r"gnp\u202e.exe"),
    ],
)
def test_what_acts_on_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(ANY)
def test_visible_text_can_be_printed_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    assert visible(shown) == shown


@given(ANY)
def test_a_name_is_forbidden_exactly_where_it_holds_a_control_character_or_surrogate(text: str) -> None:
    bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs")]
    assert (forbidden_character(text) is None) == (not bad)


@pytest.mark.parametrize("image_id", ["caf\udce9", "\ud800", "a\x1b[31m", "a\x7f", "a\x9b", "a\nb"])
def test_an_id_of_bytes_that_are_no_text_or_of_control_characters_is_refused(image_id: str) -> None:
    with pytest.raises(DataError, match="cannot be an image id: it has ") as caught:
        check_image_id(image_id)
    caught.value.message.encode()
