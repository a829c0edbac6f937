"""The images of a data set in columns: ids, splits, image-level labels, masks, sizes and files of a million in 60 MB.

    table = ImageTable.of(ids, splits, labels, masked, sizes, files, copied)
    row = table.row("2007_000032")
    table.labels(row), table.size(row)

`save` writes the columns into one file (a .npz of numpy, not compressed), with what else is known of the data set, and
`load` maps it into memory: processes that open one file share its pages, and a process that is started reads no list.
"""

from __future__ import annotations

import bisect
import io
import itertools
import json
import mmap
import struct
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_TEXT = "surrogatepass"  # a data set that is only looked at (check-data) may hold any text


class SortedIds(Sequence[str]):
    """Sorted, distinct ids, in an array of bytes instead of a million texts."""

    def __init__(self, ids: Sequence[str] | NDArray[np.bytes_]) -> None:
        """ids: sorted and distinct, with at least one."""
        self.bytes: NDArray[np.bytes_] = ids if isinstance(ids, np.ndarray) else _id_bytes(ids)

    def __len__(self) -> int:
        return len(self.bytes)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...

    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return self.at(self.bytes[place])
        return bytes(self.bytes[place]).decode("utf-8", _TEXT)

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self.row(image_id) is not None

    def at(self, found: NDArray[np.bytes_]) -> tuple[str, ...]:
        """Some of the ids, as text."""
        return tuple(one.decode("utf-8", _TEXT) for one in found.tolist())

    def row(self, image_id: str) -> int | None:
        """The place of an id; None if it is not there."""
        key = image_id.encode("utf-8", _TEXT)  # sorted bytes of UTF-8 are sorted code points
        place = bisect.bisect_left(self.bytes, key)
        return place if place < len(self.bytes) and bytes(self.bytes[place]) == key else None


@dataclass(frozen=True)
class ImageTable:
    """One row for each image, by sorted id. Texts of different lengths lie in one array, with the end of each.

    Attributes:
        ids: bytes (N,). splits: uint8 (N,), bit k is set for an image of the k-th split.
        masked, labelled: bool (N,), whether there is a mask, and whether labels are known.
        labels: int64, those of all images; label_ends: int64 (N,). sizes: int64 (N, 2) as (H, W), 0 if unknown.
        files, copied: uint8, relative files as UTF-8, empty for none; file_ends, copied_ends: int64 (N,).
    """

    ids: NDArray[np.bytes_]
    splits: NDArray[np.uint8]
    masked: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    labels: NDArray[np.int64]
    label_ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    files: NDArray[np.uint8]
    file_ends: NDArray[np.int64]
    copied: NDArray[np.uint8]
    copied_ends: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        splits: Sequence[Iterable[str]],
        labels: Mapping[str, Sequence[int]],
        masked: Iterable[str],
        sizes: Mapping[str, Sequence[int]],
        files: Mapping[str, str],
        copied: Mapping[str, str],
    ) -> ImageTable:
        """The table of the ids of `splits`; what is known of further ids is left out."""
        # one set at a time, and arrays filled from iterators: lists of all images would take several times the table
        splits = [list(ids) for ids in splits]
        rows = sorted(set(itertools.chain.from_iterable(splits)))
        of_splits = np.zeros(len(rows), np.uint8)
        for number, ids in enumerate(splits):
            of_splits |= _among(rows, ids).astype(np.uint8) << number
        return cls(
            SortedIds(rows).bytes,
            of_splits,
            _among(rows, masked),
            np.fromiter((image_id in labels for image_id in rows), bool, len(rows)),
            np.fromiter((label for image_id in rows for label in labels.get(image_id, ())), np.int64),
            _ends(len(labels.get(image_id, ())) for image_id in rows),
            np.fromiter((side for image_id in rows for side in sizes.get(image_id, (0, 0))), np.int64).reshape(-1, 2),
            *_texts(files.get(image_id, "") for image_id in rows),
            *_texts(copied.get(image_id, "") for image_id in rows),
        )

    def labels_of(self, row: int) -> list[int]:
        found: list[int] = self.labels[_span(self.label_ends, row)].tolist()
        return found

    def size_of(self, row: int) -> tuple[int, int] | None:
        height, width = self.sizes[row].tolist()
        return (height, width) if height else None

    def file_of(self, row: int) -> str:
        return self.files[_span(self.file_ends, row)].tobytes().decode("utf-8", _TEXT)

    def copy_of(self, row: int) -> str:
        return self.copied[_span(self.copied_ends, row)].tobytes().decode("utf-8", _TEXT)

    def save(self, path: Path, head: Mapping[str, Any]) -> None:
        """Writes a file; head: what else is known of the data set, as JSON."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        with open(path, "wb") as file:
            np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **columns)


def load(path: Path, whole: bool = True) -> tuple[dict[str, Any], ImageTable] | None:
    """What `save` wrote, mapped into memory; None where it is missing or damaged. whole: look at every byte."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            if whole and archive.testzip() is not None:
                return None
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            found = {info.filename.removesuffix(".npy"): _mapped(memory, info) for info in archive.infolist()}
        head = json.loads(found.pop("head").tobytes())
        return head, ImageTable(**found)
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, struct.error, zipfile.BadZipFile):
        return None


def _mapped(memory: mmap.mmap, info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of a .npz, where it lies."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    lengths = struct.unpack_from("<HH", memory, info.header_offset + 26)  # of the name, and of what follows it
    start = info.header_offset + 30 + sum(lengths)
    header = io.BytesIO(memory[start : start + 4096])
    np.lib.format.read_magic(header)
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(header)
    if by_columns or dtype.hasobject:
        raise ValueError(f"{info.filename} is not a plain array")
    count = int(np.prod(shape))
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(memory, dtype, count, start + header.tell()).reshape(shape)


def _ends(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum(np.fromiter(lengths, np.int64), dtype=np.int64)


def _id_bytes(ids: Sequence[str]) -> NDArray[np.bytes_]:
    longest = max((len(image_id.encode("utf-8", _TEXT)) for image_id in ids), default=1)
    each = (image_id.encode("utf-8", _TEXT) for image_id in ids)
    return np.fromiter(each, np.dtype((np.bytes_, max(longest, 1))), len(ids))


def _among(rows: Sequence[str], some: Iterable[str]) -> NDArray[np.bool_]:
    """Whether each of the rows is one of some ids."""
    have = frozenset(some)
    return np.fromiter((image_id in have for image_id in rows), bool, len(rows))


def _texts(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    whole, ends = bytearray(), array("q")
    for text in texts:
        whole += text.encode("utf-8", _TEXT)
        ends.append(len(whole))
    return np.frombuffer(whole, np.uint8), np.frombuffer(ends, np.int64)


def _span(ends: NDArray[np.int64], row: int) -> slice:
    return slice(int(ends[row - 1]) if row else 0, int(ends[row]))
