"""stages/networks/mxnet_params.py: files of MXNet in all versions, written here number by number; damaged ones."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import DataError
from stages.networks.mxnet_params import read_params

TYPE_NUMBERS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def array_bytes(values: np.ndarray, version: int) -> bytes:
    sizes = b"".join(struct.pack("<q" if version else "<I", size) for size in values.shape)
    marks = {0: b"", 1: bytes.fromhex("c8fa93f9"), 2: bytes.fromhex("c9fa93f9") + bytes(4)}  # 2: dense
    device = struct.pack("<ii", 1, 0)  # of the CPU
    kind = struct.pack("<i", TYPE_NUMBERS[values.dtype.name])
    return marks[version] + struct.pack("<I", values.ndim) + sizes + device + kind + values.tobytes()


def file_bytes(arrays: dict[str, np.ndarray], version: int = 2) -> bytes:
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    parts += [array_bytes(values, version) for values in arrays.values()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts += [struct.pack("<Q", len(name.encode())), name.encode()]
    return b"".join(parts)


def some_arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "arg:conv1a_weight": generator.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "arg:bn7_beta": generator.normal(size=5).astype(np.float32),
        "aux:bn7_moving_var": generator.normal(size=5).astype(np.float64),
        "fc_größe": generator.integers(-99, 99, (2, 3)).astype(np.int32),
    }


def same(found: dict[str, Any], expected: dict[str, np.ndarray]) -> bool:
    plain = {name.removeprefix("arg:").removeprefix("aux:"): values for name, values in expected.items()}
    return list(found) == list(plain) and all(
        found[name].dtype == values.dtype and found[name].shape == values.shape and np.array_equal(found[name], values)
        for name, values in plain.items()
    )


@pytest.mark.parametrize("version", [0, 1, 2])
def test_arrays_come_back_as_they_were_written(tmp_path: Path, version: int) -> None:
    (tmp_path / "net.params").write_bytes(file_bytes(some_arrays(), version))
    assert same(read_params(tmp_path / "net.params"), some_arrays())


@pytest.mark.parametrize("dtype", TYPE_NUMBERS)
def test_every_type_of_number_is_read(tmp_path: Path, dtype: str) -> None:
    arrays = {"x": np.array([[0, 1, 2], [3, 4, 5]], dtype)}
    (tmp_path / "net.params").write_bytes(file_bytes(arrays))
    assert same(read_params(tmp_path / "net.params"), arrays)


def test_a_file_that_ends_anywhere_too_early_is_one_clear_error(tmp_path: Path) -> None:
    for version in (0, 1, 2):
        data = file_bytes({"a": np.ones((2, 2), np.float32), "b": np.ones(1, np.float32)}, version)
        for length in range(len(data)):
            (tmp_path / "net.params").write_bytes(data[:length])
            with pytest.raises(DataError, match=r"net\.params .*no \.params file of MXNet") as caught:
                read_params(tmp_path / "net.params")
            assert caught.value.hint


def changed(position: int, layout: str, *numbers: int) -> bytes:
    """A file of one V2 array "a" of 2 x 3 numbers, with other numbers from a position on."""
    data = bytearray(file_bytes({"a": np.ones((2, 3), np.float32)}))
    struct.pack_into("<" + layout, data, position, *numbers)
    return bytes(data)


HUGE = 2**62
FORGED = {  # the array begins at 24: magic, storage, dimensions, sizes at 36 and 44, device at 52, type at 60, values
    "starts": (changed(0, "Q", 0x113), "does not start with 0x112"),
    "counts": (changed(16, "Q", 2**64 - 1), "array 2 of 18,446,744,073,709,551,615 takes"),
    "version": (changed(24, "I", 0xF993FACA), "array 1 of 1 has the unknown version 0xF993FACA"),
    "sparse": (changed(28, "i", 1), "array 1 of 1 is sparse"),
    "none": (changed(32, "I", 0), "array 1 of 1 has 0 dimensions"),
    "many": (changed(32, "I", 2**31), "array 1 of 1 has 2147483648 dimensions"),
    "large": (changed(36, "qq", HUGE, HUGE), "array 1 of 1 takes 85,070,591,730,234,615,865,843,651,857,942,052,864"),
    "overflowing": (changed(36, "qq", HUGE, 4), "array 1 of 1 takes 73,786,976,294,838,206,464 bytes, 41 are left"),
    "negative": (changed(36, "qq", -2, -3), r"has the type 0 and the sizes \(-2, -3\)"),
    "empty": (changed(36, "qq", 0, HUGE), r"has the type 0 and the sizes \(0, 4611686018427387904\)"),
    "type": (changed(60, "i", 12), r"has the type 12 and the sizes \(2, 3\)"),
    "names": (changed(88, "Q", 2), "it has 1 arrays and 2 names"),
    "name": (changed(96, "Q", HUGE), "name 1 of 1 takes 4,611,686,018,427,387,904 bytes, 1 are left"),
    "text": (changed(104, "B", 0xFF), "name 1 of 1 is not UTF-8"),
    "behind": (changed(104, "B", 0x61) + b"more", "4 bytes stand behind the last name"),
}


@pytest.mark.parametrize("name", FORGED)
def test_numbers_that_cannot_be_are_named_before_memory_is_taken_for_them(tmp_path: Path, name: str) -> None:
    data, message = FORGED[name]
    (tmp_path / "net.params").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_params(tmp_path / "net.params")


def test_a_name_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.params").write_bytes(file_bytes({"arg:a": np.ones(1), "b": np.ones(1), "aux:a": np.ones(1)}))
    with pytest.raises(DataError, match="two arrays have the name a"):
        read_params(tmp_path / "net.params")


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = [file_bytes(some_arrays(), version) for version in (0, 1, 2)]
    refused = 0
    for _ in range(300):
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        (tmp_path / "net.params").write_bytes(data)
        try:
            assert len(read_params(tmp_path / "net.params")) == 4
        except DataError:
            refused += 1
    assert 50 < refused < 290


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.params cannot be read: No such file"):
        read_params(tmp_path / "nothing.params")
