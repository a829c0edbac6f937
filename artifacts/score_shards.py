"""One shard of score maps: an HDF5 file, made in memory, and read as untrusted input.

Only the layout that `write_shard` writes is accepted. It is specified in docs/formats.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from artifacts.cells import cells
from artifacts.closed_hdf5 import PACKED, PLAIN, LayoutError, fletcher32, member, values, whole_number

SCHEMA = 2  # also of index.json
MOST_PIXELS = 2**28  # of an image; Pillow opens no image of more than 179 million
GZIP = 1  # level
MOST_SCORES = 2**29  # of an image: 24 megapixels at stride 4 with 255 classes have 380 million

_FILTERS = {"scores": PACKED, "classes": PLAIN}
_TYPES = {"scores": h5t.IEEE_F16LE, "classes": h5t.STD_U8LE}


@dataclass(frozen=True)
class MapRecord:
    """The maps of one image as they are stored."""

    scores: np.ndarray  # float16 (K, h, w)
    classes: np.ndarray  # uint8 (K,)
    size: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class PackedRecord:
    """The maps of one image as the chunks of its shard, each with its checksum."""

    chunks: tuple[bytes, ...]
    shape: tuple[int, ...]  # of the scores
    classes: np.ndarray
    size: tuple[int, int]
    stride: int


def packed(record: MapRecord) -> PackedRecord:
    """A record packed as HDF5's filters would do it, shuffle, gzip and fletcher32.

    HDF5 packs while it holds Python's lock, so that nothing else runs meanwhile; this is done in many threads at once.
    """
    chunks = []
    for scores in record.scores.astype("<f2", copy=False):
        shuffled = np.ascontiguousarray(scores).view(np.uint8).reshape(-1, 2).T.tobytes()
        deflated = zlib.compress(shuffled, GZIP)
        chunks.append(deflated + fletcher32(deflated))
    return PackedRecord(tuple(chunks), record.scores.shape, record.classes, record.size, record.stride)


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


def write_shard(
    name: str, records: Iterable[tuple[str, PackedRecord]], class_names: Sequence[str], meaning: str
) -> bytes:
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


def _write_record(file: h5py.File, image_id: str, record: PackedRecord) -> None:
    group = file.create_group(image_id)
    group.attrs["height"], group.attrs["width"] = record.size
    group.attrs["stride"] = record.stride
    count, height, width = record.shape
    plain: dict[str, Any] = {"track_times": False}
    if count == 0:  # HDF5 has no chunks of zero size
        group.create_dataset("scores", record.shape, np.float16, **plain)
        group.create_dataset("classes", data=record.classes, **plain)
        return
    filters = {"compression": "gzip", "compression_opts": GZIP, "shuffle": True, "fletcher32": True}
    scores = group.create_dataset("scores", record.shape, "<f2", chunks=(1, height, width), **filters, **plain)
    for number, chunk in enumerate(record.chunks):
        scores.id.write_direct_chunk((number, 0, 0), chunk)
    group.create_dataset("classes", data=record.classes, chunks=(count,), fletcher32=True, **plain)


def open_shard(path: Path, class_names: Sequence[str], meaning: str) -> h5py.File:
    """A shard of these classes, open for `read_record`. Raises LayoutError or what h5py raises."""
    file = h5py.File(path, "r", locking=False)
    try:
        if (found := whole_number(file, "schema")) != SCHEMA:
            raise LayoutError(f"it has schema {found}, expected {SCHEMA}")
        for name, text in (("class_names", class_names), ("meaning", meaning)):
            attribute, expected = file.attrs.get_id(name), _encoded(text)
            alike = (attribute.shape, attribute.dtype) == (expected.shape, expected.dtype)
            if not alike or not np.array_equal(file.attrs[name], expected):
                raise LayoutError(f"its {name} differs from that of index.json")
    except BaseException:
        file.close()
        raise
    return file


def read_record(file: h5py.File, image_id: str, num_classes: int, meaning: str) -> MapRecord:
    """The maps of one image. Raises LayoutError or what h5py raises."""
    group = member(file, image_id, h5py.Group)
    size = (whole_number(group, "height"), whole_number(group, "width"))
    stride = whole_number(group, "stride")
    shapes = {name: member(group, name, h5py.Dataset).shape for name in ("classes", "scores")}
    if fault := shape_fault(shapes["scores"], size, stride):
        raise LayoutError(fault)
    count = shapes["scores"][0]
    if shapes["classes"] != (count,) or count > num_classes or np.prod(shapes["scores"], dtype=float) > MOST_SCORES:
        raise LayoutError(f"scores {shapes['scores']} for classes {shapes['classes']} of {num_classes}")
    classes = _values(group, "classes", (count,))
    record = MapRecord(_values(group, "scores", (1, *shapes["scores"][1:])), classes, size, stride)
    if fault := fault_of(record, num_classes, meaning):
        raise LayoutError(fault)
    return record


def _values(group: h5py.Group, name: str, chunk: tuple[int, ...]) -> np.ndarray:
    return values(group, name, chunk, _TYPES[name], _FILTERS[name])
