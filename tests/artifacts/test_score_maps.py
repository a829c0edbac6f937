from __future__ import annotations

import ctypes
import os
import pickle
import random
import shutil
import signal
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artifacts.errors import ArtifactError, DataError
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Work, Workspace, Writer
from tests.fuzz.artifact_bytes import SHARD, SHARD_FORGERIES, forge_shard, scores_of, write_chunk, write_maps

NAMES = ("background", "cat", "cow", "dog", "horse", "sheep")
IDS = [f"2007_{number:06d}" for number in range(10)]


def maps_of(image_id: str) -> tuple[np.ndarray, list[int]]:
    """Scores and classes that depend on the id alone, as a deterministic stage would make them."""
    rng = np.random.default_rng([ord(letter) for letter in image_id])
    count = int(rng.integers(1, 4))
    classes = sorted(int(c) for c in rng.choice(np.arange(1, len(NAMES)), count, replace=False))
    return rng.random((count, 9, 12)).astype(np.float32), classes


def add_all(maps: ScoreMapWriter, ids) -> None:
    for image_id in ids:
        scores, classes = maps_of(image_id)
        maps.add(image_id, scores, classes, size=(36, 48), stride=4)


def write(folder: Path, ids=IDS, added=None, shard_size=4) -> Path:
    """Plans `ids` and adds them, or only those in `added`, in that order."""
    with ScoreMapWriter(Writer(folder), class_names=NAMES, shard_size=shard_size) as maps:
        maps.plan(ids)
        add_all(maps, ids if added is None else added)
    return folder


def write_one(folder: Path, image_id="a", scores=(((0.0,),),), classes=(1,), size=(8, 8), stride=4) -> Path:
    with ScoreMapWriter(Writer(folder), class_names=NAMES) as maps:
        maps.plan(["a"])
        maps.add(image_id, scores, classes, size=size, stride=stride)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def test_what_is_written_is_read(tmp_path):
    maps = ScoreMaps(write(tmp_path))
    assert maps.ids == tuple(IDS)
    assert (maps.class_names, maps.meaning) == (NAMES, "cam")
    assert len(maps) == 10
    assert "2007_000003" in maps
    assert "2008_000003" not in maps
    for image_id in maps:
        scores, classes = maps_of(image_id)
        found = maps[image_id]
        assert found.image_id == image_id
        assert found.scores.dtype == np.float32
        np.testing.assert_array_equal(found.scores, scores.astype(np.float16).astype(np.float32))
        assert found.classes.dtype == np.uint8
        assert found.classes.tolist() == classes
        assert (found.size, found.stride, found.meaning) == ((36, 48), 4, "cam")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    scores=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
        elements=st.floats(0, 1, width=32),
    ),
    shuffled=st.permutations(range(len(NAMES))),
)
def test_any_map_comes_back_within_half_a_unit_of_float16(tmp_path, scores, shuffled):
    classes = np.array(shuffled[: len(scores)], dtype=np.uint8)
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    size = (4 * scores.shape[1] - 3, 4 * scores.shape[2])
    found = ScoreMaps(write_one(folder, scores=scores, classes=classes, size=size))["a"]
    assert found.classes.tolist() == sorted(classes.tolist())
    order = np.argsort(classes)
    np.testing.assert_allclose(found.scores, scores[order], rtol=2**-11, atol=2**-25)


def test_the_layout_is_that_of_the_specification(tmp_path):
    """Read by h5py alone: groups, types, filters and attributes as docs/formats.md says."""
    write(tmp_path)
    with h5py.File(tmp_path / "scores" / "shard-00000.h5", "r") as file:
        assert file.attrs["schema"] == 2
        assert [name.decode() for name in file.attrs["class_names"]] == list(NAMES)
        assert file.attrs["meaning"] == b"cam"
        assert sorted(file) == IDS[:4]
        for group in file.values():
            count = len(group["classes"])
            scores = group["scores"]
            assert (scores.dtype, scores.shape, scores.chunks) == (np.float16, (count, 9, 12), (1, 9, 12))
            assert (scores.compression, scores.shuffle, scores.fletcher32) == ("gzip", True, True)
            assert (group["classes"].dtype, group["classes"].fletcher32) == (np.uint8, True)
            assert dict(group.attrs) == {"height": 36, "width": 48, "stride": 4}


def test_equal_maps_give_equal_bytes_whatever_the_clock_and_the_order(tmp_path):
    first = files_of(write(tmp_path / "one"))
    time.sleep(1.1)  # HDF5 stores times in whole seconds, where it stores them
    second = files_of(write(tmp_path / "other", ids=IDS[::-1], added=IDS[::2] + IDS[1::2]))
    assert first == second
    assert sorted(first) == ["scores/index.json", *(f"scores/shard-0000{n}.h5" for n in range(3))]


def smooth_maps(image_id: str) -> np.ndarray:
    """(3, 47, 63): hills, which compress as the maps of a network do."""
    rng = np.random.default_rng(int(image_id))
    y, x = np.mgrid[:47, :63] / 60
    return np.stack([np.exp(-9 * ((y - rng.random()) ** 2 + (x - rng.random()) ** 2)) for _ in range(3)])


def in_a_child(act: Callable[[], object]) -> int:
    """The exit code of a forked process that does this: Python and the modules need no second start."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt of glibc")
def test_equal_maps_give_equal_bytes_whatever_lies_in_the_memory(tmp_path):
    """The filter lzf of h5py reads a table that it never set, so what was compressed before decided the bytes."""

    def write_smooth(threshold: int) -> None:
        ctypes.CDLL(None).mallopt(-3, threshold)  # M_MMAP_THRESHOLD
        with ScoreMapWriter(Writer(tmp_path / str(threshold)), class_names=NAMES, shard_size=100) as maps:
            for shard in maps.plan([f"{number:03d}" for number in range(400)]):
                for image_id in shard:
                    maps.add(image_id, smooth_maps(image_id), [1, 2, 4], size=(185, 250), stride=4)

    thresholds = (128, 2_000_000)  # buffers at places of their own, or again and again at the same ones
    assert [in_a_child(lambda: write_smooth(threshold)) for threshold in thresholds] == [0, 0]  # noqa: B023
    made = [files_of(tmp_path / str(threshold)) for threshold in thresholds]
    assert len(made[0]) == 5
    assert made[0] == made[1]


def test_ranks_make_the_shards_of_one_process(tmp_path):
    alone = files_of(write(tmp_path / "alone"))
    writer = Writer(tmp_path / "ranks")
    planned = []
    for rank in range(2):
        with ScoreMapWriter(writer, class_names=NAMES, shard_size=4) as maps:
            maps.plan(IDS, index=rank == 0)
            for shard in maps.shards[rank::2]:
                planned += shard
                add_all(maps, shard)
    assert sorted(planned) == IDS
    assert files_of(tmp_path / "ranks") == alone


WORK = Work("seeds", 1, "seeds", "0" * 64, {}, {}, {})


def test_killed_in_a_shard_and_continued_gives_the_same_bytes(tmp_path):
    def die_in_the_second_shard() -> None:
        with (
            Workspace(tmp_path / "cut").writing("maps", WORK) as writer,
            ScoreMapWriter(writer, class_names=NAMES, shard_size=4) as maps,
        ):
            maps.plan(IDS)
            add_all(maps, IDS[:6])
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(die_in_the_second_shard) == -signal.SIGKILL

    def run(workspace: Workspace) -> tuple[list[str], str]:
        with workspace.writing("maps", WORK) as writer:
            with ScoreMapWriter(writer, class_names=NAMES, shard_size=4) as maps:
                made = [image_id for shard in maps.plan(IDS) for image_id in shard]
                add_all(maps, IDS)  # those of whole shards are skipped
            return made, workspace.publish("maps", writer, WORK, {}).manifest.content

    continued, content = run(Workspace(tmp_path / "cut"))
    whole, content_of_one_run = run(Workspace(tmp_path / "whole"))
    assert whole == IDS
    assert continued == IDS[4:]
    assert content == content_of_one_run
    assert files_of(tmp_path / "cut" / "maps" / "scores") == files_of(tmp_path / "whole" / "maps" / "scores")


def test_an_error_in_a_shard_leaves_no_part_of_it(tmp_path):
    def images():
        yield from IDS[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, added=images())
    assert sorted(files_of(tmp_path)) == ["scores/index.json", "scores/shard-00000.h5"]


def test_shards_that_are_whole_are_held(tmp_path):
    writer = Writer(tmp_path)
    with ScoreMapWriter(writer, class_names=NAMES, shard_size=4) as maps:
        assert maps.plan(IDS) == [tuple(IDS[:4]), tuple(IDS[4:8]), tuple(IDS[8:])]
        add_all(maps, IDS[:4])
        assert [maps.holds(shard) for shard in maps.shards] == [True, False, False]
    first = (tmp_path / "scores" / "shard-00000.h5").stat()
    with ScoreMapWriter(writer, class_names=NAMES, shard_size=4) as maps:
        assert maps.plan(IDS) == [tuple(IDS[4:8]), tuple(IDS[8:])]
        assert [maps.holds(shard) for shard in maps.shards] == [True, False, False]
        add_all(maps, IDS)
        assert all(map(maps.holds, maps.shards))
    assert (tmp_path / "scores" / "shard-00000.h5").stat().st_ino == first.st_ino  # not written again


def test_forgotten_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"3 images were never added to shard-00000.h5"):
        write(tmp_path, added=IDS[:1])


def test_another_plan_in_the_same_folder_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ArtifactError, match="plans other images"):
        write(tmp_path, ids=IDS[:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.full((1, 2, 2), np.nan)}, "0..1"),
        ({"scores": np.array([[[0, 0.5], [np.inf, 0]]])}, "0..1"),
        ({"scores": np.full((1, 2, 2), -0.1)}, "0..1"),
        ({"scores": np.zeros((2, 2))}, "K, 2, 2"),
        ({"scores": np.zeros((2, 2, 2))}, r"classes are \(K,\), got \(1,\)"),
        ({"scores": np.zeros((1, 0, 2))}, "K, 2, 2"),
        ({"scores": np.zeros((1, 2, 2)), "size": (9, 8)}, "K, 3, 2"),
        ({"scores": np.zeros((1, 1, 1)), "size": (10**6, 10**6), "stride": 10**6}, "268,435,456 pixels"),
        ({"classes": [6]}, "distinct ids 0..5"),
        ({"classes": [-1]}, "distinct ids 0..5"),
        ({"scores": np.zeros((2, 2, 2)), "classes": [1, 1]}, "distinct ids"),
        ({"image_id": "other"}, "not in the plan"),
        ({"size": (0, 5)}, "size"),
        ({"stride": 0}, "stride"),
    ],
)
def test_maps_that_break_the_rules_are_refused(tmp_path, change, message):
    given = {"scores": np.zeros((1, 2, 2)), **change}
    with pytest.raises(ValueError, match=message):
        write_one(tmp_path, **given)


def test_an_image_added_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="added twice"):
        write(tmp_path, added=[IDS[0], IDS[0]])


@pytest.mark.parametrize("wrong", ["aachen/000001", "..", ".hidden", "", " a", "a\n", "x.tmp-1", "a\\b", "a" * 201])
def test_ids_that_cannot_name_a_group_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="cannot be an image id"):
        write(tmp_path, ids=["a", wrong])


def test_ids_of_any_script_and_with_dots_and_spaces(tmp_path):
    ids = sorted(["猫 1", "été.v2", "a.b.c", "2007_000033", "x y"])
    maps = ScoreMaps(write(tmp_path, ids=ids))
    assert maps.ids == tuple(ids)
    for image_id in ids:
        assert maps[image_id].classes.tolist() == maps_of(image_id)[1]


def test_no_images_at_all(tmp_path):
    assert len(ScoreMaps(write(tmp_path, ids=[]))) == 0


# --- damage ----------------------------------------------------------------------------------------------------


def damage(folder: Path, shard: str, change) -> ArtifactError:
    path = folder / "scores" / shard
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))
    with pytest.raises(ArtifactError) as caught:
        for _ in ScoreMaps(folder).values():
            pass
    assert caught.value.hint
    return caught.value


def chunk_place(folder: Path, shard: str, image_id: str) -> int:
    with h5py.File(folder / "scores" / shard, "r") as file:
        chunk = file[image_id]["scores"].id.get_chunk_info(0)
        return chunk.byte_offset + chunk.size // 2


def test_a_damaged_chunk_names_shard_and_image(tmp_path):
    write(tmp_path)
    place = chunk_place(tmp_path, "shard-00001.h5", IDS[5])

    def flip(data):
        data[place] ^= 1
        return data

    error = damage(tmp_path, "shard-00001.h5", flip)
    assert "shard-00001.h5" in error.message
    assert f"image {IDS[5]!r}" in error.message
    maps = ScoreMaps(tmp_path)  # the others can still be read
    assert [image_id for image_id in IDS if image_id != IDS[5] and maps[image_id]] == IDS[:5] + IDS[6:]


def test_a_truncated_shard_is_named(tmp_path):
    write(tmp_path)
    error = damage(tmp_path, "shard-00002.h5", lambda data: data[: len(data) // 2])
    assert "shard-00002.h5 is damaged: the file cannot be opened" in error.message


def test_a_missing_shard_is_named(tmp_path):
    (write(tmp_path) / "scores" / "shard-00001.h5").unlink()
    with pytest.raises(ArtifactError, match=r"shard-00001.h5 is damaged: the file is missing"):
        ScoreMaps(tmp_path)[IDS[4]]


def test_flipped_bits_never_give_other_maps(tmp_path):
    """Checksums cover the data and, in this HDF5 version, sizes, names and attributes too."""
    write(tmp_path, ids=IDS[:3])
    good = {image_id: ScoreMaps(tmp_path)[image_id] for image_id in IDS[:3]}
    path = tmp_path / "scores" / "shard-00000.h5"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(data), 300, replace=False):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        maps = ScoreMaps(tmp_path)
        for image_id, expected in good.items():
            try:
                found = maps[image_id]
            except ArtifactError:
                refused += 1
                continue
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.classes, expected.classes)
            assert (found.size, found.stride) == (expected.size, expected.stride)
        maps.close()
    assert refused > 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "expected an object"),
        ('{"schema": 99}', "schema 99, this version of semiseg reads 2"),
        ('{"schema": 2}', "lacks"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, message):
    (write(tmp_path) / "scores" / "index.json").write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        ScoreMaps(tmp_path)
    assert "index.json" in caught.value.message


@pytest.mark.parametrize("meaning", ["cam", "probability", "refined"])
def test_maps_lie_in_one_folder_and_say_what_they_mean(tmp_path, meaning):
    """The folder was cams/, probabilities/ or scores/, after the stage, and readers had to know which."""
    with ScoreMapWriter(Writer(tmp_path), class_names=NAMES, shard_size=1, meaning=meaning) as maps:
        maps.plan(["a", "b"])
        for image_id in ("a", "b"):
            maps.add(image_id, np.ones((1, 1, 1)), [0], size=(4, 4), stride=4)
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "scores"}
    for shard in tmp_path.rglob("*.h5"):
        with h5py.File(shard) as file:
            assert file.attrs["meaning"].decode() == meaning
    found = ScoreMaps(tmp_path)
    assert [found.meaning, *(record.meaning for record in found.values())] == [meaning] * 3


def test_an_unknown_meaning_is_refused(tmp_path):
    with pytest.raises(ValueError, match="meaning is one of"):
        ScoreMapWriter(Writer(tmp_path), class_names=NAMES, meaning="max")
    (write(tmp_path) / "scores" / "index.json").write_text(
        (tmp_path / "scores" / "index.json").read_text().replace('"cam"', '"max"')
    )
    with pytest.raises(ArtifactError, match="damaged at meaning"):
        ScoreMaps(tmp_path)


def test_a_folder_without_maps_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"scores has no index\.json"):
        ScoreMaps(tmp_path)


def test_an_unknown_image_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="have no image '2012_000001'"):
        ScoreMaps(write(tmp_path))["2012_000001"]


def test_a_full_disk_is_said_in_words_and_loses_no_whole_shard(small_disk):
    """HDF5 writing to a full disk by itself swallowed the error and crashed the process."""
    disk = small_disk("160k")
    ids = [f"{number:03d}" for number in range(400)]
    with pytest.raises(ArtifactError, match="disk is full"):
        write(disk / "a", ids=ids, shard_size=10)
    whole = len(list(disk.rglob("shard-*.h5"))) * 10
    assert 10 <= whole < 400
    for image_id in ids[:whole]:
        assert ScoreMaps(disk / "a")[image_id].size == (36, 48)
    assert not list(disk.rglob(".tmp-*"))


# --- forged shards: what a stranger may have written -------------------------------------------------------------


@pytest.mark.parametrize("meaning", ["cam", "probability"])
@pytest.mark.parametrize("name", SHARD_FORGERIES)
def test_a_forged_shard_is_refused_and_nothing_outside_it_is_read(tmp_path, name, meaning):
    """A file of the system was read as scores and changed a mask, and scores of -3 or of an unknown class passed."""
    folder = tmp_path / "maps"
    forge_shard(folder, name, random.Random(0), meaning)
    with pytest.raises(ArtifactError, match=r"shard-00000\.h5 is damaged") as caught:
        ScoreMaps(folder)["b"]
    assert caught.value.hint
    if "cannot be read" in caught.value.message:  # the other images can still be read
        np.testing.assert_array_equal(ScoreMaps(folder)["a"].scores, scores_of("a"))


def test_the_forger_writes_what_is_read_where_it_forges_nothing(tmp_path):
    """Else the refusals above would say nothing."""
    folder = tmp_path / "maps"
    write_maps(folder)
    with h5py.File(folder / SHARD, "r+", libver="v110") as file:
        shuffled = np.frombuffer(scores_of("b")[1].tobytes(), np.uint8).reshape(-1, 2).T.tobytes()
        write_chunk(file, zlib.compress(shuffled))
        assert file["b/scores"][...].tobytes() == scores_of("b").tobytes()
    found = ScoreMaps(folder)["b"]
    np.testing.assert_array_equal(found.scores, scores_of("b"))
    assert found.classes.tolist() == [0, 1, 3]


def test_a_chunk_that_would_grow_a_thousandfold_is_refused_before_it_is_inflated(tmp_path):
    """HDF5 inflates a chunk whatever it grows to: 50 MB here, out of 49 KB."""
    folder = tmp_path / "maps"
    write_maps(folder)
    with h5py.File(folder / SHARD, "r+", libver="v110") as file:
        write_chunk(file, zlib.compress(bytes(50_000_000)))
    with pytest.raises(ArtifactError, match=r"a chunk holds 48,\d+ bytes instead of 160"):
        ScoreMaps(folder)["b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[1:], "class 0"),
        (lambda p: p[:2] / 3, "a class that wins a pixel is missing"),
        (lambda p: p * 1.1, "add up to 1 at most"),
        (lambda p: p[:0], "class 0"),
    ],
)
def test_probabilities_without_the_class_that_wins_are_refused(tmp_path, change, message):
    """Class 2 is the likely one; without it another class would win the whole image."""
    probabilities = np.stack([np.full((2, 2), share) for share in (0.1, 0.2, 0.7)])
    given = change(probabilities)
    classes = [1, 2] if len(given) == 2 and given[0, 0, 0] == 0.2 else list(range(len(given)))
    maps = ScoreMapWriter(Writer(tmp_path), class_names=NAMES, meaning="probability")
    maps.plan(["a"])
    with pytest.raises(ValueError, match=message):
        maps.add("a", given, classes, size=(8, 8), stride=4)


def test_more_scores_than_are_read_are_not_written_either(tmp_path):
    scores = np.broadcast_to(np.float32(0), (5, 16000, 16000))
    with pytest.raises(DataError, match="at most 536,870,912 scores") as caught:
        write_one(tmp_path, scores=scores, classes=range(5), size=(16000, 16000), stride=1)
    assert "stride" in caught.value.hint


# --- processes -------------------------------------------------------------------------------------------------


def total_of(job: tuple[ScoreMaps, str]) -> tuple[int, float]:
    maps, image_id = job
    return os.getpid(), float(maps[image_id].scores.sum())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_readers_work_in_other_processes(tmp_path, start):
    maps = ScoreMaps(write(tmp_path))
    expected = [float(maps[image_id].scores.sum()) for image_id in IDS]  # opens files in the parent
    if start == "spawn":
        again = pickle.loads(pickle.dumps(maps))
        assert [float(again[image_id].scores.sum()) for image_id in IDS] == expected
        return
    with get_context("fork").Pool(2) as pool:
        found = pool.map(total_of, [(maps, image_id) for image_id in IDS])
    assert [total for _, total in found] == expected
    assert os.getpid() not in {pid for pid, _ in found}


def read_inherited(maps: ScoreMaps, results) -> None:
    inherited = set(maps._files.values())
    results.put([float(maps[image_id].scores.sum()) for image_id in IDS])
    results.put(any(inherited))  # an HDF5 file is true while it is open


def test_a_fork_does_not_use_the_handles_of_its_parent(tmp_path):
    maps = ScoreMaps(write(tmp_path))
    expected = [float(maps[image_id].scores.sum()) for image_id in IDS]
    context = get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=read_inherited, args=(maps, results))  # inherited, not pickled
    process.start()
    assert results.get() == expected
    assert not results.get()
    process.join()
    assert [float(maps[image_id].scores.sum()) for image_id in IDS] == expected


def test_more_shards_than_files_kept_open(tmp_path):
    ids = [f"{number:03d}" for number in range(40)]
    maps = ScoreMaps(write(tmp_path, ids=ids, shard_size=1))
    for image_id in ids + ids[::-1]:
        assert maps[image_id].classes.tolist() == maps_of(image_id)[1]
    assert len(maps._files) <= 32


def test_maps_that_wait_for_their_shard_need_little_memory(tmp_path):
    ids = [f"i{number:02d}" for number in range(21)]
    scores = np.repeat(np.linspace(0, 1, 10), 200 * 30).reshape(1, 200, 300)  # 120 kB as float16
    with ScoreMapWriter(Writer(tmp_path), class_names=NAMES) as maps:
        maps.plan(ids)
        tracemalloc.start()
        for image_id in ids[:-1]:
            maps.add(image_id, scores, [1], size=scores.shape[1:], stride=1)
        waiting, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        maps.add(ids[-1], scores, [1], size=scores.shape[1:], stride=1)
    assert waiting < 20 * 120_000 / 10
    np.testing.assert_array_equal(ScoreMaps(tmp_path)[ids[7]].scores, scores.astype(np.float16))
