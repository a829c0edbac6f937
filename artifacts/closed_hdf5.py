"""HDF5 files of which only the written layout is read.

A file of HDF5 may lead the reader into different files: links and virtual data sets refer to them, the values of a data
set may be in any file of the system, and filters may be loaded from a plugin folder. So everything is checked before it
is read.
"""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t, h5z

# Not h5py's lzf, which is faster but leaves a table uninitialised, so that its bytes are never the same.
PACKED = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
PLAIN = (h5z.FILTER_FLETCHER32,)
_CHECKSUM = 4  # bytes after each chunk
_OVERHEAD = 64  # bytes that deflate may add to a small chunk that it cannot shorten
_UNPACKED = 1 << 1  # filter mask of a chunk that deflate did not shorten: its bit for the second filter


class LayoutError(Exception):
    """A mistake in a file."""


def fletcher32(data: bytes) -> bytes:
    """The checksum that HDF5's filter fletcher32 adds to a chunk: two sums modulo 65,535 over words of 16 bits."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.int64)
    after = np.arange(len(words), 0, -1) % 65535  # sums of up to 2^28 words stay below 2^63
    sums = (int(words.sum()), int((words * after).sum()))
    low, high = (65535 if total and total % 65535 == 0 else total % 65535 for total in sums)
    return (high << 16 | low).to_bytes(4, "little")


def member(parent: h5py.Group, name: str, kind: type) -> Any:
    """The member `name` of `parent` itself, not a link, which may lead into a different file."""
    if "/" in name or parent.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise LayoutError(f"{name} is a link")
    member = parent[name]
    if not isinstance(member, kind):
        raise LayoutError(f"{name} is a {type(member).__name__}, expected a {kind.__name__}")
    if isinstance(member, h5py.Dataset):
        layout = member.id.get_create_plist()
        if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
            raise LayoutError(f"the values of {name} are in a different file")
    return member


def whole_number(owner: h5py.Group, name: str) -> int:
    attribute = owner.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "iu":
        raise LayoutError(f"its {name} is {attribute.dtype} {attribute.shape}, expected a whole number")
    return int(owner.attrs[name])


def values(
    group: h5py.Group,
    name: str,
    chunk: tuple[int, ...],
    kind: h5t.TypeID,
    filters: tuple[int, ...],
    row: int | None = None,
) -> np.ndarray:
    """The values of a data set whose shape was checked, or those of one row, which is a chunk.

    LayoutError unless type, chunks and filters are the given ones.
    """
    dataset = member(group, name, h5py.Dataset)
    if dataset.id.get_type() != kind:
        raise LayoutError(f"{name} has a wrong type: {dataset.dtype}")
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    layout = dataset.id.get_create_plist()
    found = tuple(layout.get_filter(number)[0] for number in range(layout.get_nfilters()))
    if found != filters or dataset.chunks != chunk:
        raise LayoutError(f"{name} has wrong chunks or filters: {dataset.chunks}, {found}")
    for number in range(len(dataset) // chunk[0]) if row is None else (row,):
        _check_chunk(dataset, (number, *(0 for _ in chunk[1:])), int(np.prod(chunk)) * dataset.dtype.itemsize, filters)
    return dataset[...] if row is None else dataset[row]


def _check_chunk(dataset: h5py.Dataset, place: tuple[int, ...], expected: int, filters: tuple[int, ...]) -> None:
    """LayoutError for a chunk that is missing (HDF5 reads zeros) or does not hold `expected` bytes.

    HDF5 inflates without a limit, so a chunk is inflated here first, with one.
    """
    info = dataset.id.get_chunk_info_by_coord(place)
    if info.byte_offset is None:
        raise LayoutError("a chunk is missing")
    length = info.size - _CHECKSUM
    if filters == PACKED and info.filter_mask == 0 and length <= expected + expected // 500 + _OVERHEAD:
        _, stored = dataset.id.read_direct_chunk(place)
        length = len(zlib.decompressobj().decompress(stored[:-_CHECKSUM], expected + 1))
    elif info.filter_mask not in (0, _UNPACKED):
        raise LayoutError(f"a chunk has the filter mask {info.filter_mask}")
    if length != expected:
        raise LayoutError(f"a chunk holds {length:,} bytes instead of {expected:,}")
