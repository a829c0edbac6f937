"""Labelled subsets: what the setting means, and that draws are nested."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from stages.data.splits import draw_labelled, parse_labelled

POOL = [f"2007_{number:06d}" for number in range(1464)]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("183", 183),
        (" 1464 ", 1464),
        ("1/8", Fraction(1, 8)),
        ("1 / 16", Fraction(1, 16)),
        ("0.125", Fraction(1, 8)),
        (".5", Fraction(1, 2)),
        ("1.0", Fraction(1)),
        ("lists/183.txt", Path("lists/183.txt")),
        ("./183", Path("183")),
        ("1/8/labeled.txt", Path("1/8/labeled.txt")),
    ],
)
def test_number_fraction_or_list(text, meaning):
    assert parse_labelled(text) == meaning


@pytest.mark.parametrize("text", ["0", "-3", "0.0", "1.5", "3/2", "1/0", "-0.5"])
def test_amounts_out_of_range(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_labelled(text)


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [
        (1464, "1/16", 92),
        (1464, "1/8", 183),
        (1464, "1/4", 366),
        (1464, "1/2", 732),
        (10582, "1/16", 662),
        (10582, "1/8", 1323),
        (10582, "1/4", 2646),
        (10582, "1/2", 5291),
    ],
)
def test_fractions_give_the_published_counts(size, fraction, count):
    pool = [str(number) for number in range(size)]
    assert len(draw_labelled(pool, Fraction(fraction), seed=0)) == count


@given(
    seed=st.integers(0, 2**31),
    small=st.integers(1, 100),
    more=st.integers(0, 100),
    missing=st.sets(st.sampled_from(POOL[:200]), max_size=50),
)
def test_draws_are_nested_sorted_and_keep_their_rank(seed, small, more, missing):
    pool = POOL[:200]
    less, larger = draw_labelled(pool, small, seed), draw_labelled(pool, small + more, seed)
    assert len(less) == small
    assert less == sorted(set(less))
    assert set(less) <= set(larger)
    assert less == draw_labelled(pool[::-1], small, seed)
    present = [image_id for image_id in pool if image_id not in missing]
    assert set(less) - missing <= set(draw_labelled(present, min(small, len(present)), seed))


def test_seeds_draw_differently():
    assert draw_labelled(POOL, 92, 0) != draw_labelled(POOL, 92, 1)
    by_hash = sorted(POOL, key=lambda image_id: hashlib.sha256(f"7:{image_id}".encode()).hexdigest())
    assert draw_labelled(POOL, 3, 7) == sorted(by_hash[:3])  # the documented order, on every machine


def test_more_than_there_are():
    with pytest.raises(ConfigError, match=r"asks for 1465 images, the list to draw from has 1464"):
        draw_labelled(POOL, 1465, 0)
