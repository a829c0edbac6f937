"""One shard of score maps: an HDF5 file, made in memory, and read as untrusted input.

HDF5 can make a reader open different files: links and virtual data sets refer to them, the values of a data set may be
in any file of the system, and filters may be loaded from a plugin folder. So a shard is checked before it is read: only
the layout that `write_shard` writes is accepted. It is specified in docs/formats.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t, h5z

from artifacts.cells import cells

SCHEMA = 2  # also of index.json
MOST_PIXELS = 2**28  # of an image; Pillow opens no image of more than 179 million
MOST_SCORES = 2**29  # of an image: 24 megapixels at stride 4 with 255 classes have 380 million

# Not h5py's lzf, which is faster but leaves a table uninitialised, so that its bytes are never the same.
_PACKED = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32)
_FILTERS = {"scores": _PACKED, "classes": (h5z.FILTER_FLETCHER32,)}
_TYPES = {"scores": h5t.IEEE_F16LE, "classes": h5t.STD_U8LE}
_CHECKSUM = 4  # bytes after each chunk
_OVERHEAD = 64  # bytes that deflate may add to a small chunk that it cannot shorten
_UNPACKED = 1 << 1  # filter mask of a chunk that deflate did not shorten: its bit for the second filter


class ShardError(Exception):
    """A mistake in a shard."""


@dataclass(frozen=True)
class MapRecord:
    """The maps of one image as they are stored."""

    scores: np.ndarray  # float16 (K, h, w)
    classes: np.ndarray  # uint8 (K,)
    size: tuple[int, int]
    stride: int


def fault_of(record: MapRecord, num_classes: int, meaning: str) -> str | None:
    """The rule of docs/formats.md that the maps of an image break, or None; for writing and reading alike."""
    classes = record.classes.astype(np.int64)
    if len(classes) and (classes[0] < 0 or classes[-1] >= num_classes or (np.diff(classes) <= 0).any()):
        return f"classes are distinct ids 0..{num_classes - 1}, ascending; got {classes.tolist()}"
    scores = record.scores.astype(np.float32)
    # written as "not inside" so that NaN fails too
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        return f"scores lie in 0..1, got {scores.min()}..{scores.max()}"
    if meaning != "probability":
        return None
    if not len(classes) or classes[0] != 0:
        return f"probabilities hold class 0, got the classes {classes.tolist()}"
    if scores.sum(axis=0).max() > 1.01:
        return f"probabilities of a pixel add up to 1 at most, got {scores.sum(axis=0).max()}"
    if scores.max(axis=0).min() < 0.999 / num_classes:
        return f"a class that wins a pixel is missing: its probability is at least 1/{num_classes}"
    return None


def shape_fault(shape: tuple[int, ...], size: tuple[int, ...], stride: int) -> str | None:
    """The mistake in the shape (K, h, w) of scores for an image of `size` (H, W), or None."""
    if len(size) != 2 or min(size) < 1 or stride < 1:
        return f"size is (H, W) and stride at least 1, got size {size}, stride {stride}"
    if size[0] * size[1] > MOST_PIXELS:
        return f"an image has at most {MOST_PIXELS:,} pixels, got size {size}"
    rows, columns = cells(size[0], stride), cells(size[1], stride)
    if len(shape) != 3 or shape[1:] != (rows, columns):
        return f"scores are (K, {rows}, {columns}) for size {size} and stride {stride}, got {shape}"
    return None


def write_shard(name: str, records: Iterable[tuple[str, MapRecord]], class_names: Sequence[str], meaning: str) -> bytes:
    """The bytes of a whole shard with the records in the given order.

    It is built in memory, since the HDF5 library ignores the error of a full disk and then crashes the process. Format
    version 1.10 keeps checksums of its own structures too, not only of the data, and needs 6 KiB less per image than
    the oldest version.
    """
    with h5py.File(name, "w", driver="core", backing_store=False, libver="v110") as file:
        file.attrs["schema"] = SCHEMA
        # text of fixed length, since HDF5 keeps text of variable length on a heap without a checksum
        for attribute, text in (("class_names", _encoded(class_names)), ("meaning", _encoded(meaning))):
            file.attrs.create(attribute, text, dtype=h5py.string_dtype("utf-8", text.dtype.itemsize))
        for image_id, record in records:
            _write_record(file, image_id, record)
        file.flush()
        return file.id.get_file_image()


def _encoded(text: str | Sequence[str]) -> np.ndarray:
    return np.strings.encode(np.array(text), "utf-8")


def _write_record(file: h5py.File, image_id: str, record: MapRecord) -> None:
    group = file.create_group(image_id)
    group.attrs["height"], group.attrs["width"] = record.size
    group.attrs["stride"] = record.stride
    count, height, width = record.scores.shape
    plain: dict[str, Any] = {"track_times": False}
    if count == 0:  # HDF5 has no chunks of zero size
        group.create_dataset("scores", data=record.scores, **plain)
        group.create_dataset("classes", data=record.classes, **plain)
        return
    filters = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    group.create_dataset("scores", data=record.scores, chunks=(1, height, width), **filters, **plain)
    group.create_dataset("classes", data=record.classes, chunks=(count,), fletcher32=True, **plain)


def open_shard(path: Path, class_names: Sequence[str], meaning: str) -> h5py.File:
    """A shard of these classes, open for `read_record`. Raises ShardError or what h5py raises."""
    file = h5py.File(path, "r", locking=False)
    try:
        if (found := _whole_number(file, "schema")) != SCHEMA:
            raise ShardError(f"it has schema {found}, expected {SCHEMA}")
        for name, text in (("class_names", class_names), ("meaning", meaning)):
            attribute, expected = file.attrs.get_id(name), _encoded(text)
            alike = (attribute.shape, attribute.dtype) == (expected.shape, expected.dtype)
            if not alike or not np.array_equal(file.attrs[name], expected):
                raise ShardError(f"its {name} differs from that of index.json")
    except BaseException:
        file.close()
        raise
    return file


def read_record(file: h5py.File, image_id: str, num_classes: int, meaning: str) -> MapRecord:
    """The maps of one image. Raises ShardError or what h5py raises."""
    group = _member(file, image_id, h5py.Group)
    size = (_whole_number(group, "height"), _whole_number(group, "width"))
    stride = _whole_number(group, "stride")
    shapes = {name: _member(group, name, h5py.Dataset).shape for name in ("classes", "scores")}
    if fault := shape_fault(shapes["scores"], size, stride):
        raise ShardError(fault)
    count = shapes["scores"][0]
    if shapes["classes"] != (count,) or count > num_classes or np.prod(shapes["scores"], dtype=float) > MOST_SCORES:
        raise ShardError(f"scores {shapes['scores']} for classes {shapes['classes']} of {num_classes}")
    classes = _values(group, "classes", (count,))
    record = MapRecord(_values(group, "scores", (1, *shapes["scores"][1:])), classes, size, stride)
    if fault := fault_of(record, num_classes, meaning):
        raise ShardError(fault)
    return record


def _member(parent: h5py.Group, name: str, kind: type) -> Any:
    """The member `name` of `parent` itself, not a link, which may lead into a different file."""
    if "/" in name or parent.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ShardError(f"{name} is a link")
    member = parent[name]
    if not isinstance(member, kind):
        raise ShardError(f"{name} is a {type(member).__name__}, expected a {kind.__name__}")
    if isinstance(member, h5py.Dataset):
        layout = member.id.get_create_plist()
        if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
            raise ShardError(f"the values of {name} are in a different file")
    return member


def _whole_number(owner: h5py.Group, name: str) -> int:
    attribute = owner.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "iu":
        raise ShardError(f"its {name} is {attribute.dtype} {attribute.shape}, expected a whole number")
    return int(owner.attrs[name])


def _values(group: h5py.Group, name: str, chunk: tuple[int, ...]) -> np.ndarray:
    """The values of a data set whose shape was checked; ShardError unless type, chunks and filters are right."""
    dataset = _member(group, name, h5py.Dataset)
    if dataset.id.get_type() != _TYPES[name]:
        raise ShardError(f"{name} has a wrong type: {dataset.dtype}")
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    layout = dataset.id.get_create_plist()
    filters = tuple(layout.get_filter(number)[0] for number in range(layout.get_nfilters()))
    if filters != _FILTERS[name] or dataset.chunks != chunk:
        raise ShardError(f"{name} has wrong chunks or filters: {dataset.chunks}, {filters}")
    for number in range(len(dataset) // chunk[0]):
        _check_chunk(dataset, (number, *(0 for _ in chunk[1:])), int(np.prod(chunk)) * dataset.dtype.itemsize, filters)
    return dataset[...]


def _check_chunk(dataset: h5py.Dataset, place: tuple[int, ...], expected: int, filters: tuple[int, ...]) -> None:
    """ShardError for a chunk that is missing (HDF5 reads zeros) or does not hold `expected` bytes.

    HDF5 inflates without a limit, so a chunk is inflated here first, with one.
    """
    info = dataset.id.get_chunk_info_by_coord(place)
    if info.byte_offset is None:
        raise ShardError("a chunk is missing")
    length = info.size - _CHECKSUM
    if filters == _PACKED and info.filter_mask == 0 and length <= expected + expected // 500 + _OVERHEAD:
        _, stored = dataset.id.read_direct_chunk(place)
        length = len(zlib.decompressobj().decompress(stored[:-_CHECKSUM], expected + 1))
    elif info.filter_mask not in (0, _UNPACKED):
        raise ShardError(f"a chunk has the filter mask {info.filter_mask}")
    if length != expected:
        raise ShardError(f"a chunk holds {length:,} bytes instead of {expected:,}")
