"""The `.params` files of MXNet: named arrays, read without MXNet.

    arrays = read_params(Path("ilsvrc-cls_rna-a1_cls1000_ep-0001.params"))  # {"conv1a_weight": (64, 3, 3, 3), ...}

All numbers are little-endian. A file is 0x112 (8 bytes), 0 (8), the number of arrays (8), the arrays, the number of
names (8), and the names, each its length (8) and UTF-8. An array is of one of three versions:

    2   0xF993FAC9 (4), storage 0 = dense (4), dimensions (4), sizes (8 each), device (8), type (4), values
    1   0xF993FAC8 (4), dimensions (4), sizes (8 each), device (8), type (4), values
    0   dimensions (4), sizes (4 each), device (8), type (4), values

Every number is held against the bytes that are left before anything is made of it.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import DataError

MAGIC = 0x112
VERSION_1, VERSION_2 = 0xF993FAC8, 0xF993FAC9
MOST_DIMENSIONS = 8  # of an array; a convolution's has 4. A larger number is the mark of an unknown version
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
HINT = "copy or download the file again"


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name, without the prefixes arg: and aux: of MXNet's checkpoints.

    DataError: the file is no such file, ends too early, or holds what cannot be.
    """
    try:
        with path.open("rb") as file:
            return _Source(path, file).named_arrays()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error


class _Source:
    """A file that gives no more than it has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = path.stat().st_size

    def named_arrays(self) -> dict[str, NDArray[Any]]:
        if self.left < 8 or self.take("Q", "the magic number") != (MAGIC,):
            raise DataError(f"{self.path} is no .params file of MXNet: it does not start with 0x{MAGIC:X}", HINT)
        _, count = self.take("2Q", "the number of arrays")
        arrays: list[NDArray[Any]] = []
        while len(arrays) < count:
            arrays.append(self.array(f"array {len(arrays) + 1} of {count:,}"))
        (named,) = self.take("Q", "the number of names")
        if named != count:
            raise self.error(f"it has {count:,} arrays and {named:,} names")
        names = [self.name(f"name {number + 1} of {count:,}") for number in range(count)]
        if self.left:
            raise self.error(f"{self.left:,} bytes stand behind the last name")
        if len(set(names)) < count:
            twice = next(name for name in names if names.count(name) > 1)
            raise self.error(f"two arrays have the name {twice}")
        return dict(zip(names, arrays, strict=True))

    def array(self, what: str) -> NDArray[Any]:
        (version,) = self.take("I", what)
        if version == VERSION_2 and self.take("i", what) != (0,):
            raise self.error(f"{what} is sparse")
        is_known = version in (VERSION_1, VERSION_2)
        (dimensions,) = self.take("I", what) if is_known else (version,)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            found = f"{dimensions} dimensions" if is_known or version == 0 else f"the unknown version 0x{version:X}"
            raise self.error(f"{what} has {found}")
        shape = self.take(f"{dimensions}{'q' if is_known else 'I'}", what)
        _, _, kind = self.take("3i", what)
        if kind not in TYPES or min(shape) < 1:
            raise self.error(f"{what} has the type {kind} and the sizes {shape}")
        dtype, values = np.dtype(TYPES[kind]), math.prod(shape)
        self.claim(values * dtype.itemsize, what)
        return np.fromfile(self.file, dtype, values).reshape(shape)

    def name(self, what: str) -> str:
        (length,) = self.take("Q", what)
        self.claim(length, what)
        try:
            return self.file.read(length).decode().removeprefix("arg:").removeprefix("aux:")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error

    def take(self, numbers: str, what: str) -> tuple[int, ...]:
        """Numbers in the notation of `struct`."""
        size = struct.calcsize(f"<{numbers}")
        self.claim(size, what)
        return struct.unpack(f"<{numbers}", self.file.read(size))

    def claim(self, size: int, what: str) -> None:
        if size > self.left:
            raise self.error(f"{what} takes {size:,} bytes, {self.left:,} are left")
        self.left -= size

    def error(self, reason: str) -> DataError:
        return DataError(f"{self.path} is damaged or no .params file of MXNet: {reason}", HINT)
