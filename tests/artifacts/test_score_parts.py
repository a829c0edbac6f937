"""artifacts/score_parts.py: shards that several processes make, of parts of this run and of earlier ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError
from artifacts.score_maps import ScoreMapWriter
from artifacts.score_parts import PARTS
from artifacts.store import Writer
from stages.contract import Execution
from stages.parallel.share import Share, share_of_maps
from tests.artifacts.test_score_maps import IDS, NAMES, add_all, files_of, write


def in_batches(shard: tuple[str, ...], batch: int) -> list[tuple[str, ...]]:
    return [shard[at : at + batch] for at in range(0, len(shard), batch)]


def planned(
    folder: Path, ids: list[str], size: int, ranks: int, batch: int = 1
) -> list[tuple[ScoreMapWriter, Share[tuple[str, ...]]]]:
    """The writers of all ranks and their shares, as behind the barrier after the plan."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(ranks))
        for rank in range(ranks):
            patch.setenv("RANK", str(rank))
            maps = ScoreMapWriter(Writer(folder), class_names=NAMES, shard_size=size)
            found.append((maps, share_of_maps(maps, ids, Execution(), lambda shard: in_batches(shard, batch))))
    return found


def make(folder: Path, ids: list[str], size: int, ranks: int, most: int | None = None) -> list[str]:
    """Makes the maps; with `most`, each rank is killed after so many. Returns what was added to whole files."""
    added: list[str] = []
    ends = planned(folder, ids, size, ranks)
    for maps, share in ends:
        mine = [image_id for shard in share.left for image_id in shard]
        for image_id in mine[:most]:
            add_all(maps, [image_id])
        added += mine[:most]
    if most is None:
        for maps, _ in ends:
            maps.join()
    return added


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 10),
    size=st.integers(1, 6),
    ranks=st.integers(1, 5),
    earlier=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), max_size=2),
)
def test_any_ranks_make_the_bytes_of_one_process_and_take_what_earlier_ones_have_made(count, size, ranks, earlier):
    ids = IDS[:count]
    with tempfile.TemporaryDirectory() as folder:
        alone, shared = Path(folder) / "alone", Path(folder) / "shared"
        write(alone, ids, shard_size=size)
        for number, most in earlier:
            make(shared, ids, size, number, most)
        held = set(ids)
        for _, share in planned(shared, ids, size, 1):
            held -= {image_id for shard in share.left for image_id in shard}
        assert sorted(make(shared, ids, size, ranks)) == sorted(set(ids) - held)
        assert files_of(shared) == files_of(alone)
        again = planned(shared, ids, size, ranks)
        assert all(share.left == [] and share.done == share.mine for _, share in again)


@given(count=st.integers(0, 10), size=st.integers(1, 6), ranks=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_shares_differ_by_one_image_at_most(count, size, ranks):
    with tempfile.TemporaryDirectory() as folder:
        shares = [share for _, share in planned(Path(folder), IDS[:count], size, ranks)]
    sizes = [share.mine for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert [image_id for share in shares for shard in share.own for image_id in shard] == IDS[:count]


@given(count=st.integers(0, 10), size=st.integers(1, 10), ranks=st.integers(1, 4), batch=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_one_rank_s_so_that_its_last_bits_are_those_of_one_process(count, size, ranks, batch):
    with tempfile.TemporaryDirectory() as folder:
        ends = planned(Path(folder), IDS[:count], size, ranks, batch)
    of_rank = {i: rank for rank, (_, share) in enumerate(ends) for shard in share.own for i in shard}
    assert sorted(of_rank) == IDS[:count]
    for shard in ends[0][0].shards:
        assert all(len({of_rank[i] for i in members}) == 1 for members in in_batches(shard, batch))
    assert all(abs(share.mine - count / ranks) <= batch for _, share in ends)


def test_a_part_that_is_damaged_is_made_again_and_one_that_is_gone_is_named(tmp_path):
    ids = IDS[:5]
    make(tmp_path, ids, 5, 2, most=5)
    first, second = sorted((tmp_path / PARTS).iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    assert make(tmp_path, ids, 5, 2) == ids[:2]
    assert files_of(tmp_path) == files_of(write(tmp_path / "alone", ids, shard_size=5))
    (tmp_path / "scores" / "shard-00000.h5").unlink()
    second.unlink()
    maps, _ = planned(tmp_path, ids, 5, 1)[0]
    with pytest.raises(ArtifactError, match=r"the parts of shard-00000\.h5 are damaged") as caught:
        maps.join()
    assert "delete this folder" in caught.value.hint
