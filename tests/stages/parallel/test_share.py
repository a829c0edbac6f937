"""stages/parallel/share.py: every part is one rank's, whatever is made already, and what people see of it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.store import Writer
from stages.contract import Execution
from stages.parallel.share import alone, counted, images_of, pieces_of, share_of

IDS = [f"{number:02d}" for number in range(40)]
some_ids = st.lists(st.sampled_from(IDS), unique=True).map(sorted)


class Bar:
    """Progress that keeps what a person would see."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def track(self, total, description, unit="images", done=0):
        self.total, self.done = total, done
        self.seen.append((done, total))
        return contextlib.nullcontext(self)

    def advance(self, count=1, **fields):
        self.done += count
        self.seen.append((self.done, self.total))

    def note(self, text):
        raise AssertionError(text)


def as_rank(monkeypatch, rank: int, ranks: int) -> Execution:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    return Execution(progress=Bar())


def shards_of(ids: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]


@settings(max_examples=200)
@given(ids=some_ids, written=st.sets(st.sampled_from(IDS)), ranks=st.integers(1, 5), order=st.randoms())
def test_every_image_is_made_once_though_each_rank_looks_when_others_have_begun(ids, written, ranks, order):
    """In any order, and with anything left by a run with another number of ranks."""
    there, made = set(written), []
    turns = list(range(ranks))
    order.shuffle(turns)
    with pytest.MonkeyPatch.context() as patch:
        for rank in turns:
            share = share_of(ids, as_rank(patch, rank, ranks), there.__contains__)
            assert share.left == [image_id for image_id in share.own if image_id not in there]
            assert (share.total, share.mine, share.done) == (
                len(ids),
                len(share.own),
                len(set(share.own) & there),
            )
            made += share.left
            there.update(share.left)
    assert sorted(made) == sorted(set(ids) - written)


@settings(max_examples=200)
@given(
    ids=some_ids,
    size=st.integers(1, 7),
    ranks=st.integers(1, 4),
    whole=st.sets(st.integers(0, 39)),
    masks=st.sets(st.sampled_from(IDS)),
)
def test_shards_and_their_images_are_one_rank_s(ids, size, ranks, whole, masks):
    shards = shards_of(ids, size)
    left, unmasked, own = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(ranks):
            execution = as_rank(patch, rank, ranks)
            share = share_of(shards, execution, lambda shard: shards.index(shard) in whole, len)
            images = images_of(share, masks.__contains__)
            assert [image_id for shard in share.own for image_id in shard] == images.own
            assert (share.total, images.total) == (len(ids), len(ids))
            assert share.mine == images.mine == len(images.own)
            assert share.done == sum(len(shard) for shard in share.own if shards.index(shard) in whole)
            assert images.done == len(masks & set(images.own))
            left += share.left
            unmasked += images.left
            own += images.own
    assert sorted(own) == ids
    assert sorted(left) == [shard for number, shard in enumerate(shards) if number not in whole]
    assert sorted(unmasked) == sorted(set(ids) - masks)


@settings(max_examples=200)
@given(count=st.integers(0, 40), most=st.integers(1, 9), ranks=st.integers(1, 5))
def test_pieces_of_all_ranks_are_the_list_and_each_rank_has_as_many_images(count, most, ranks):
    own = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(ranks):
            pieces, share = pieces_of(count, most, as_rank(patch, rank, ranks), lambda piece: 3 in piece)
            assert [place for piece in pieces for place in piece] == list(range(count))
            assert all(0 < len(piece) <= most for piece in pieces)
            assert share.left == [piece for piece in share.own if 3 not in piece]
            assert share.mine == sum(map(len, share.own))
            own.append(share.own)
    assert [piece for some in own for piece in some] == pieces
    sizes = [sum(map(len, some)) for some in own]
    assert max(sizes) - min(sizes) <= 1


def test_who_works_alone_has_all_of_it(monkeypatch):
    as_rank(monkeypatch, 0, 3)
    share = alone(IDS)
    assert (share.own, share.left, share.total, share.mine, share.done) == (IDS, IDS, 40, 40, 0)
    assert alone(IDS, made=lambda image_id: image_id < "30").left == IDS[30:]


def reported(writer: Writer) -> tuple[int, int]:
    record = json.loads((writer.path / ".progress.json").read_bytes())
    return record["done"], record["total"]


def test_the_bar_counts_this_rank_and_status_takes_the_others_to_be_as_far(tmp_path, monkeypatch):
    """Two shards of seven images in three for the second of two ranks: one, of three images, one of them masked."""
    execution, writer = as_rank(monkeypatch, 1, 2), Writer(tmp_path)
    shards = share_of(shards_of(IDS[:7], 3), execution, lambda shard: False, len)
    assert shards.own == [("03", "04", "05")]
    masks = images_of(shards, lambda image_id: image_id == "04")
    with counted(writer, execution, "refine", shards, masks, unit="maps") as advance:
        assert reported(writer) == (14 * 1 // 6, 14)
        advance(2)
        assert writer._done == 14 * 3 // 6
        advance()
        for _ in masks.left:
            advance()
    assert reported(writer) == (14, 14)
    assert execution.progress.seen == [(1, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


def test_a_rank_without_a_part_is_done(tmp_path, monkeypatch):
    execution, writer = as_rank(monkeypatch, 3, 4), Writer(tmp_path)
    share = share_of(IDS[:2], execution, lambda image_id: False)
    assert not share.own
    with counted(writer, execution, "crf", share):
        pass
    assert reported(writer) == (2, 2)
    assert execution.progress.seen == [(0, 0)]
