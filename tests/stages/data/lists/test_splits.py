"""Labelled subsets: what the setting means, and that draws are nested."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError, DataError
from stages.data.lists.splits import (
    check_unlabelled,
    describe_labelled,
    draw_balanced,
    draw_labelled,
    parse_amount,
    set_aside,
)

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
    assert parse_amount(text) == meaning


@pytest.mark.parametrize("text", ["0", "-3", "0.0", "1.5", "3/2", "1/0", "-0.5"])
def test_amounts_out_of_range(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_amount(text)


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


def test_draws_do_not_change():
    """Lists drawn by earlier versions keep their digests."""
    drawn = draw_labelled(POOL, Fraction(1, 16), 0)
    digest = hashlib.sha256("\n".join(drawn).encode()).hexdigest()
    assert digest == "f0df5ff1a5d6bf6b03a33672c534ee7a8c166c69cd884be054c42b28a4cef211"


# --- balanced draws


def rank(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def balanced_by_hand(pool, amount, seed, tags):
    """The rule as plain loops: the class with the fewest images that has one left gets its next one by rank."""
    left, drawn = sorted(pool, key=lambda image_id: rank(seed, image_id)), []
    while len(drawn) < amount:
        having = {name for image_id in left for name in tags.get(image_id, ())}
        if having:
            counts = {name: sum(name in tags.get(image_id, ()) for image_id in drawn) for name in having}
            behind = min(having, key=lambda name: (counts[name], rank(seed, f"class {name}")))
            following = next(image_id for image_id in left if behind in tags.get(image_id, ()))
        else:
            following = left[0]
        left.remove(following)
        drawn.append(following)
    return sorted(drawn)


TAGGED = st.dictionaries(st.sampled_from(POOL[:40]), st.lists(st.integers(1, 6), max_size=4), min_size=1)


@given(tags=TAGGED, untagged=st.sets(st.sampled_from(POOL[40:50])), seed=st.integers(0, 99), data=st.data())
def test_balanced_draw_is_that_of_plain_loops(tags, untagged, seed, data):
    pool = [*tags, *untagged]
    amount = data.draw(st.integers(1, len(pool)))
    assert draw_balanced(pool, amount, seed, tags) == balanced_by_hand(pool, amount, seed, tags)


@given(tags=TAGGED, seed=st.integers(0, 99), data=st.data())
def test_balanced_draws_are_nested_and_reach_every_class(tags, seed, data):
    pool = sorted(tags)
    more = data.draw(st.integers(1, len(pool)))
    less = data.draw(st.integers(1, more))
    small, large = draw_balanced(pool, less, seed, tags), draw_balanced(pool, more, seed, tags)
    assert len(small) == less
    assert small == sorted(set(small))
    assert set(small) <= set(large) <= set(pool)
    assert small == draw_balanced(pool[::-1], less, seed, tags)
    classes = {name for names in tags.values() for name in names}
    reached = {name for image_id in small for name in tags[image_id]}
    assert len(reached) >= min(less, len(classes))  # each image brings a new class while there is one
    without = [image_id for image_id in pool if not tags[image_id]]
    assert sum(image_id in without for image_id in small) == max(0, less - (len(pool) - len(without)))


def test_balanced_draw_is_even_where_classes_are_not():
    """One class in ten images of eleven, three rare ones."""
    tags = {image_id: ["common"] if n % 11 else [f"rare {n // 11 % 3}"] for n, image_id in enumerate(POOL)}
    drawn = draw_balanced(POOL, 80, 0, tags)
    assert Counter(tags[image_id][0] for image_id in drawn) == {"common": 20, "rare 0": 20, "rare 1": 20, "rare 2": 20}
    plain = Counter(tags[image_id][0] for image_id in draw_labelled(POOL, 80, 0))
    assert plain["common"] > 60
    assert drawn != draw_balanced(POOL, 80, 1, tags)
    everything = draw_balanced(POOL, Fraction(1), 0, tags)
    assert everything == POOL
    assert len(draw_balanced(POOL, Fraction(1, 16), 0, tags)) == math.ceil(1464 / 16)


def test_balanced_draw_in_a_few_steps_by_hand():
    tags = {"a": [1], "b": [1, 2], "c": [3], "d": []}
    assert draw_balanced(list(tags), 4, 0, tags) == ["a", "b", "c", "d"]
    assert draw_balanced(list(tags), 3, 5, tags) == ["a", "b", "c"]
    for seed in range(10):  # c is the only image of class 3; a or b serves class 1, b class 2
        assert "c" in draw_balanced(list(tags), 3, seed, tags)
        two = draw_balanced(list(tags), 2, seed, tags)
        assert "d" not in two
    assert draw_balanced(["x", "y"], 1, 0, {}) == draw_labelled(["x", "y"], 1, 0)


def test_balanced_draw_of_coco_takes_seconds_of_cpu():
    pool = [f"{number:012d}" for number in range(118_000)]
    tags = {
        image_id: [(n * 7 + k * k * 31) % (5 + n % 76) for k in range(1 + n % 5)] for n, image_id in enumerate(pool)
    }
    start = time.process_time()
    assert len(draw_balanced(pool, Fraction(1, 2), 0, tags)) == 59_000
    assert time.process_time() - start < 10


def test_more_than_there_are_balanced():
    with pytest.raises(ConfigError, match=r"asks for 3 images, the list to draw from has 2"):
        draw_balanced(["a", "b"], 3, 0, {})


# --- what a labelled list is


@given(
    st.sets(st.sampled_from(POOL), min_size=2, max_size=60),
    st.fractions(min_value=Fraction(1, 50), max_value=Fraction(49, 50)),
    st.integers(0, 5),
)
def test_images_set_aside_are_drawn_from_the_labelled_ones_alone(labelled, share, seed):
    count = math.ceil(share * len(labelled))
    if count == len(labelled):
        with pytest.raises(ConfigError, match="none is left to train on"):
            set_aside(sorted(labelled), share, seed)
        return
    train, held_out = set_aside(sorted(labelled), share, seed)
    assert (len(held_out), set(train) | set(held_out), set(train) & set(held_out)) == (count, labelled, set())
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert set_aside(sorted(labelled, reverse=True), count, seed) == (train, held_out)  # a number, another order
    if count + 1 < len(labelled):
        assert set(held_out) < set(set_aside(sorted(labelled), count + 1, seed)[1])


def test_images_set_aside_are_not_the_first_of_the_labelled_draw():
    """Else a smaller draw of the same seed would consist of what a larger one had set aside."""
    labelled = draw_labelled(POOL, 200, 0)
    _, held_out = set_aside(labelled, 40, 0)
    first = set(draw_labelled(POOL, 40, 0))
    assert 0 < len(first & set(held_out)) < 20
    assert set_aside(labelled, 40, 1)[1] != held_out


def test_a_list_of_images_to_set_aside(tmp_path):
    (tmp_path / "dev.txt").write_text("b\nd\n")
    assert set_aside(["a", "b", "c", "d"], tmp_path / "dev.txt") == (["a", "c"], ["b", "d"])
    with pytest.raises(DataError, match=r"1 id of the holdout list .* is not in the labelled images: d"):
        set_aside(["a", "b", "c"], tmp_path / "dev.txt")
    with pytest.raises(ConfigError, match="holdout takes all 2 labelled images"):
        set_aside(["b", "d"], tmp_path / "dev.txt")
    with pytest.raises(ConfigError, match="holdout asks for 3 of 2 labelled images"):
        set_aside(["b", "d"], 3)


def test_facts_of_a_labelled_list():
    facts = describe_labelled(["b", "a", "v"], ["a", "b", "c", "d", "e", "f"], ["v", "w"], {"a", "d", "w"})
    assert facts == {
        "count": 3,
        "share_of_pool": 0.5,
        "in_val": 1,
        "sha256_of_sorted_ids": hashlib.sha256(b"a\nb\nv").hexdigest(),
        "official": 1,
        "official_share": 0.3333,
        "family": None,
        "published_as": [],
    }
    json.dumps(facts, allow_nan=False)


def test_facts_without_kinds_of_masks_and_of_nothing():
    facts = describe_labelled(["a"], ["a", "b"], [], None)
    assert (facts["official"], facts["official_share"]) == (None, None)
    facts = describe_labelled([], [], [], set())
    assert (facts["count"], facts["share_of_pool"], facts["official_share"]) == (0, 0, 0)


# --- the unlabelled list


def test_an_unlabelled_list_is_the_rest():
    check_unlabelled(["c", "b"], ["a"], ["a", "b", "c"], "the list u.txt")
    check_unlabelled([], ["a"], ["a"], "the list u.txt")


def test_all_that_is_wrong_with_an_unlabelled_list_is_told_at_once():
    with pytest.raises(DataError) as caught:
        check_unlabelled(["a", "B", "d", "ghost"], ["a", "e"], ["a", "b", "c", "d", "e"], "the list u.txt")
    assert caught.value.message == (
        "the list u.txt is not a list of other training images: 1 of its ids are labelled: a; 2 of its ids are not "
        "training images: B, ghost"
    )
    assert caught.value.hint.startswith("did you mean b for B? Else correct the list")
    check_unlabelled(["b"], ["a"], ["a", "b", "c"], "u.txt")  # c is left out: that may be meant
    with pytest.raises(DataError, match=r"images: 1 of its ids are labelled: z\n"):  # told once
        check_unlabelled(["a", "z"], ["z"], ["a"], "u.txt")
