"""Packed chunks of score maps against those that HDF5 packs itself; shards by size; additions from threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.closed_hdf5 import fletcher32
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.score_shards import MapRecord, packed
from artifacts.store import Writer

NAMES = ("background", "cat", "dog")
SIZES = {"a": (9, 12), "b": (12, 9), "c": (30, 20), "d": (9, 12), "e": (12, 9), "f": (30, 21), "g": (9, 12)}


def hdf5_chunk(values: np.ndarray, **filters: object) -> bytes:
    """The stored bytes of a data set of one chunk, filters applied by the HDF5 library."""
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("values", data=values, chunks=values.shape, **filters)
        mask, stored = dataset.id.read_direct_chunk((0,) * values.ndim)
        assert mask == 0
        return stored


@given(st.binary(min_size=1, max_size=1500))
def test_the_checksum_is_that_of_hdf5(data):
    assert data + fletcher32(data) == hdf5_chunk(np.frombuffer(data, np.uint8), fletcher32=True)


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.parametrize("length", [1, 2, 719, 720, 721, 65535 * 2, 400_001])
def test_the_checksum_of_long_and_uniform_data_is_that_of_hdf5(value, length):
    data = np.full(length, value, np.uint8)
    assert fletcher32(data.tobytes()) == hdf5_chunk(data, fletcher32=True)[-4:]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 94, 125), (3, 5, 7)])
def test_a_chunk_is_packed_as_hdf5_packs_it(shape):
    scores = np.random.default_rng(0).random(shape).astype(np.float16)
    record = packed(MapRecord(scores, np.arange(shape[0], dtype=np.uint8), (shape[1], shape[2]), 1))
    filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    for chunk, row in zip(record.chunks, scores, strict=True):
        assert chunk == hdf5_chunk(row[None], **filters)


def written(folder: Path, threads: int, by_size: bool) -> tuple[ScoreMaps, list[tuple[str, ...]]]:
    rng = np.random.default_rng(0)
    scores = {image_id: rng.random((1, *size)) for image_id, size in SIZES.items()}
    with (
        ScoreMapWriter(Writer(folder), class_names=NAMES, shard_size=2) as maps,
        ThreadPoolExecutor(threads) as pool,
    ):
        maps.plan(SIZES, size=SIZES.__getitem__ if by_size else None)
        adding = [pool.submit(maps.add, one, scores[one], [1], size=SIZES[one], stride=1) for one in reversed(SIZES)]
        for future in adding:
            future.result()
        return ScoreMaps(folder), maps.shards


def test_images_of_one_size_share_shards_and_are_found_by_their_ids(tmp_path):
    maps, shards = written(tmp_path, threads=1, by_size=True)
    assert shards == [("c", "f"), ("a", "d"), ("b", "g"), ("e",)]  # 630 and 600 pixels, then 108: rows first
    assert maps.ids == tuple(sorted(SIZES))
    assert {image_id: found.size for image_id, found in maps.items()} == SIZES


def test_threads_that_add_write_the_bytes_of_one(tmp_path):
    for name, threads in (("one", 1), ("many", 8)):
        written(tmp_path / name, threads, by_size=False)
    files = sorted((tmp_path / "one" / "scores").iterdir())
    assert len(files) == 5
    for file in files:
        assert file.read_bytes() == (tmp_path / "many" / "scores" / file.name).read_bytes()
