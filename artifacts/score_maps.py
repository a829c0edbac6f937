"""Score maps: per image a few maps of class scores, in closed HDF5 shards.

A shard holds about 500 images and is written to a temporary file that takes its name only when it is whole:
a killed stage loses at most the shard it was writing. (An HDF5 file cut off while open cannot be read at all.)

    scores/index.json            which image is in which shard
    scores/shard-00000.h5        root: schema, class_names, meaning
        /<image id>              attributes: height, width (pixels of the image), stride
            scores   float16 (K, h, w), one chunk a class, shuffle + gzip + fletcher32
            classes  uint8 (K,), the class id of each map

Writing is resumable; the images of a shard may come in any order, and wait in memory, packed, until it is whole:

    with ScoreMapWriter(writer, class_names=names) as maps:
        for shard in maps.plan(ids):
            for image_id in shard:
                maps.add(image_id, scores, classes, size=(H, W), stride=4)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from pydantic import Field, model_validator

from artifacts import json_items
from artifacts.dataset import ClassNames, Dataset, artifact_folder, check_image_id
from artifacts.errors import ArtifactError, DataError
from artifacts.image_table import SortedIds
from artifacts.json_items import Shape
from artifacts.score_parts import Part, join_parts, part_of
from artifacts.score_shards import (
    MOST_SCORES,
    SCHEMA,
    MapRecord,
    PackedRecord,
    fault_of,
    open_shard,
    packed,
    read_record,
    shape_fault,
    write_shard,
)
from artifacts.store import Artifact, Writer, read_item

FOLDER = "scores"  # in an artifact, for all kinds of maps
INDEX = f"{FOLDER}/index.json"
Meaning = Literal["cam", "probability", "refined"]
_OPEN_SHARDS = 32  # open files kept by one reader


@dataclass(frozen=True)
class ScoreMap:
    """The scores of one image.

    scores: float32 (K, h, w), 0..1 (stored with 11 significant bits). classes: uint8 (K,), class ids (0 =
    background), ascending. size: (H, W) of the image in pixels. stride: image pixels per score.
    meaning: "cam" - class-activation maps, each divided by its maximum; "probability" - softmax over all classes;
    "refined" - maps of a refiner, of which class 0 is the score of the background, where it has one.
    """

    image_id: str
    scores: np.ndarray
    classes: np.ndarray
    size: tuple[int, int]
    stride: int
    meaning: Meaning


def check_size(
    found: ScoreMap, size: tuple[int, ...], cure: str = "give the data set that the score maps were made from"
) -> None:
    """DataError unless the maps of an image have its size, (height, width)."""
    if found.size != size:
        made, there = (f"{width}x{height}" for height, width in (found.size, size))
        raise DataError(
            f"the score maps of {found.image_id} are of {made} pixels (width x height), its image has {there}", cure
        )


def check_fits(
    found: ScoreMap,
    dataset: Dataset,
    labels: bool = True,
    cure: str = "give the data set that the score maps were made from",
) -> None:
    """DataError unless the maps of an image have its size, and are of its image-level labels, if not of probabilities.

    labels: whether the labels are checked. A map of the background may be among them. cure: how to mend it.
    """
    image_id = found.image_id
    check_size(found, dataset.size(image_id), cure)
    if not labels or found.meaning == "probability":
        return
    made, wanted = [int(class_id) for class_id in found.classes if class_id], [*dataset.tags(image_id)]
    if made != wanted:
        names = [", ".join(dataset.class_names[c] for c in ids) or "no class" for ids in (made, wanted)]
        raise DataError(f"the score maps of {image_id} are of {names[0]}, its image-level labels are {names[1]}", cure)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.h5"


class _Index(Shape):
    """index.json: which image is in which shard."""

    schema_version: Literal[2] = Field(alias="schema")
    class_names: ClassNames
    meaning: Meaning
    shards: dict[str, list[str]]

    @model_validator(mode="after")
    def _as_planned(self) -> _Index:
        """The shards must be those of `ScoreMapWriter.plan`: an image that was removed leaves a gap."""
        names = [shard_name(number) for number in range(len(self.shards))]
        if self.shards.keys() != set(names):
            raise ValueError(f"expected the shards {', '.join(names[:2])}, ..., found {', '.join([*self.shards][:5])}")
        members = [self.shards[name] for name in names]
        ids = {check_image_id(image_id) for part in members for image_id in part}
        if len(ids) < sum(map(len, members)) or any(part != sorted(part) for part in members):
            raise ValueError("the ids of the shards are not sorted and distinct")
        lengths = [len(part) for part in members]
        if len(set(lengths[:-1])) > 1 or (lengths and not 0 < lengths[-1] <= lengths[0]):
            raise ValueError(f"the shards hold {', '.join(map(str, lengths[:10]))} images: some are missing")
        return self


class ScoreMapWriter:
    """Writes the score maps of an artifact; whole shards of an earlier, killed run are kept."""

    def __init__(
        self,
        writer: Writer,
        *,
        class_names: Sequence[str],
        shard_size: int = 500,
        meaning: Meaning = "cam",
    ) -> None:
        """class_names: all classes, background first. shard_size: images in a shard, which changes the bytes."""
        if meaning not in (meanings := get_args(Meaning)):
            raise ValueError(f"meaning is one of {meanings}, got {meaning!r}")
        if len(class_names) > 255:
            raise ValueError(f"class ids are uint8 below 255, got {len(class_names)} classes")
        if shard_size < 1:
            raise ValueError(f"shard_size is at least 1, got {shard_size}")
        self.writer = writer
        self.class_names = tuple(class_names)
        self.shard_size = shard_size
        self.meaning: Meaning = meaning
        self._whole: set[str] = set()  # shards
        self._own: Collection[str] | None = None
        self._parts: dict[str, Part] = {}  # shard -> what this process makes of it, where that is not all of it
        self._shards: dict[str, tuple[str, ...]] = {}
        self._shard_of: dict[str, str] = {}
        self._waiting: dict[str, dict[str, PackedRecord]] = {}  # shard -> those of its images that were added
        self._lock = threading.Lock()  # of what `add` changes

    def plan(
        self, ids: Iterable[str], index: bool = True, size: Callable[[str], tuple[int, int]] | None = None
    ) -> list[tuple[str, ...]]:
        """Split the sorted ids into `shards`; return those still to be made.

        size: the (H, W) of an image, for work in batches of one size: then the ids are sorted by it, the largest first.
        The split depends on the ids, sizes and `shard_size` alone, so all processes that write the shards of one folder
        plan the same. One of them writes the `index`. Raises ArtifactError when the folder already holds another plan.
        """
        ordered = sorted(check_image_id(image_id) for image_id in ids)
        for first, second in itertools.pairwise(ordered):
            if first == second:
                raise ValueError(f"image id {first!r} is planned twice")
        if size is not None:
            sizes = {image_id: size(image_id) for image_id in ordered}
            ordered.sort(key=lambda image_id: (-sizes[image_id][0] * sizes[image_id][1], sizes[image_id]))
        names = [shard_name(start // self.shard_size) for start in range(0, len(ordered), self.shard_size)]
        self._shards = {
            name: tuple(sorted(ordered[number * self.shard_size : (number + 1) * self.shard_size]))
            for number, name in enumerate(names)
        }
        self._shard_of = {image_id: name for name, members in self._shards.items() for image_id in members}
        if index:
            self._write_index()
        self._whole = {name for name in names if self.writer.has(f"{FOLDER}/{name}")}
        self.take(None)
        return [self._shards[name] for name in names if name not in self._whole]

    @property
    def shards(self) -> list[tuple[str, ...]]:
        """The ids of every planned shard."""
        return list(self._shards.values())

    def take(self, own: Collection[str] | None) -> None:
        """Chooses the planned ids whose maps this process makes; None: all.

        Of a shard that is the work of several processes each makes a part, see `join`.
        """
        self._own = own
        self._parts = {
            name: part
            for name, own_ids in self._own_shards()
            if name not in self._whole and (part := part_of(self.writer, name, self._shards[name], own_ids)) is not None
        }

    @property
    def own(self) -> list[tuple[str, ...]]:
        """The ids whose maps this process makes, shard by shard."""
        return [own_ids for _, own_ids in self._own_shards()]

    def _own_shards(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for name, members in self._shards.items():
            own = self._own
            if own_ids := members if own is None else tuple(image_id for image_id in members if image_id in own):
                yield name, own_ids

    def left(self, own_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a shard's own ids whose maps are still to be made."""
        name = self._shard_of[own_ids[0]]
        if name in self._whole:
            return ()
        return self._parts[name].left if name in self._parts else own_ids

    def holds(self, shard: tuple[str, ...]) -> bool:
        """Whether the planned shard of these ids is whole."""
        return self._shard_of[shard[0]] in self._whole

    def join(self) -> None:
        """Makes whole shards of the parts of several processes, when all of them are written.

        Each process joins those whose first image is its own.
        """
        for name, members in self._shards.items():
            if (self._own is None or members[0] in self._own) and name not in self._whole:
                parts = join_parts(self.writer, name, members, self.class_names, self.meaning)
                records = ((image_id, packed(record)) for image_id, record in parts)
                self.writer.write_bytes(f"{FOLDER}/{name}", write_shard(name, records, self.class_names, self.meaning))
                self._whole.add(name)

    def add(
        self,
        image_id: str,
        scores: np.ndarray,
        classes: np.ndarray | Sequence[int],
        *,
        size: tuple[int, int],
        stride: int,
    ) -> None:
        """Store the maps of one planned image; those of a shard that is already whole are skipped. Threads may call it.

        scores: (K, ceil(H / stride), ceil(W / stride)) of any float dtype, 0..1, K may be 0. classes: (K,) distinct
        class ids. size: (H, W) of the image. Probabilities hold class 0 and every class that wins a position. Raises
        ValueError for maps that break these rules (NaN among them).
        """
        name = self._shard_of.get(image_id)
        if name is None:
            raise ValueError(f"image id {image_id!r} is not in the plan; call plan(ids) with all ids first")
        part = self._parts.get(name)
        members = part.left if part else self._shards[name]
        if name in self._whole or image_id not in members:
            return
        record = self._checked(image_id, np.asarray(scores), np.asarray(classes).astype(np.int64), size, stride)
        ready = packed(record)
        with self._lock:
            waiting = self._waiting.setdefault(name, {})
            if image_id in waiting:
                raise ValueError(f"image id {image_id!r} was added twice")
            waiting[image_id] = ready
            if len(waiting) < len(members):
                return
            del self._waiting[name]
        # in the order of their ids, so that the bytes do not depend on the order of adding
        ordered = ((image_id, waiting[image_id]) for image_id in members)
        content = write_shard(name, ordered, self.class_names, self.meaning)
        self.writer.write_bytes(part.item if part else f"{FOLDER}/{name}", content)
        with self._lock:
            if part:
                self._parts[name] = dataclasses.replace(part, left=())
            else:
                self._whole.add(name)

    def __enter__(self) -> ScoreMapWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        unfinished = {
            name: len(self._parts[name].left if name in self._parts else self._shards[name]) - len(waiting)
            for name, waiting in sorted(self._waiting.items())
        }
        self._waiting.clear()
        if kind is None and unfinished:
            raise ValueError(f"{sum(unfinished.values())} images were never added to {', '.join(unfinished)}")

    def _checked(
        self, image_id: str, scores: np.ndarray, classes: np.ndarray, size: tuple[int, int], stride: int
    ) -> MapRecord:
        if fault := shape_fault(scores.shape, tuple(size), stride):
            raise ValueError(f"{image_id}: {fault}")
        if classes.shape != scores.shape[:1]:
            raise ValueError(f"{image_id}: classes are (K,), got {classes.shape} for scores {scores.shape}")
        if scores.size > MOST_SCORES:
            raise DataError(
                f"{image_id}: {scores.shape[0]} maps of {scores.shape[1]} x {scores.shape[2]} scores; "
                f"at most {MOST_SCORES:,} scores of an image are kept",
                "set a larger stride, or make the image smaller",
            )
        order = np.argsort(classes)
        record = MapRecord(scores[order].astype(np.float16), classes[order], (int(size[0]), int(size[1])), int(stride))
        if fault := fault_of(record, len(self.class_names), self.meaning):
            raise ValueError(f"{image_id}: {fault}")
        return dataclasses.replace(record, classes=record.classes.astype(np.uint8))

    def _write_index(self) -> None:
        index = {
            "schema": SCHEMA,
            "class_names": list(self.class_names),
            "meaning": self.meaning,
            "shards": {name: list(members) for name, members in self._shards.items()},
        }
        earlier = json_items.read_record(self.writer.path / INDEX, _Index)  # a damaged index is written again
        if earlier is not None and earlier.model_dump(by_alias=True) != index:
            raise ArtifactError(
                f"{self.writer.path / INDEX} plans other images, classes or shards than this run",
                "delete the unfinished work and start again",
            )
        self.writer.write_json(INDEX, index)


class ScoreMaps(Mapping[str, ScoreMap]):
    """Reads score maps: a mapping from image id to ScoreMap.

    Files are opened at their first use in each process, so an instance may be pickled or forked into workers.
    """

    def __init__(self, artifact_or_path: Artifact | Path | str) -> None:
        """artifact_or_path: the artifact (its folder or `Artifact`). Raises ArtifactError without a readable index."""
        self.path = artifact_folder(artifact_or_path) / FOLDER
        index = read_item(artifact_or_path, INDEX, _Index, "give an artifact with score maps, or rerun its stage")
        self.class_names: tuple[str, ...] = tuple(index.class_names)
        self.meaning: Meaning = index.meaning
        members = (index.shards[shard_name(number)] for number in range(len(index.shards)))
        found = sorted((image_id, number) for number, part in enumerate(members) for image_id in part)
        self._ids = SortedIds([image_id for image_id, _ in found])
        self._shards = np.array([number for _, number in found], np.int32)  # of each id
        self._files: dict[str, h5py.File] = {}
        self._pid = os.getpid()

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._ids

    def __getitem__(self, image_id: str) -> ScoreMap:
        """Raises ArtifactError for an id that is not there and for a missing or damaged shard or chunk."""
        row = self._ids.row(image_id)
        if row is None:
            raise ArtifactError(
                f"score maps {self.path} have no image {image_id!r} ({len(self._ids)} images, e.g. {self._ids[:1]})",
                "make the score maps again for the split that holds this image",
            )
        name = shard_name(int(self._shards[row]))
        file = self._file(name)
        try:
            found = read_record(file, image_id, len(self.class_names), self.meaning)
        except Exception as error:  # for damaged bytes HDF5 raises errors of any type
            raise self._damaged(name, f"image {image_id!r} cannot be read ({error})") from error
        scores = found.scores.astype(np.float32)
        return ScoreMap(image_id, scores, found.classes, found.size, found.stride, self.meaning)

    def close(self) -> None:
        """Close the files; they open again when needed."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "ids"} | {"_files": {}}

    def _file(self, name: str) -> h5py.File:
        if self._pid != os.getpid():  # after a fork the handles of the parent share its file position
            self.close()
            self._pid = os.getpid()
        if name not in self._files:
            if len(self._files) >= _OPEN_SHARDS:
                self._files.pop(next(iter(self._files))).close()
            self._files[name] = self._open(name)
        return self._files[name]

    def _open(self, name: str) -> h5py.File:
        if not (self.path / name).is_file():
            raise self._damaged(name, "the file is missing")
        try:
            return open_shard(self.path / name, self.class_names, self.meaning)
        except Exception as error:  # HDF5 raises errors of any type
            raise self._damaged(name, f"the file cannot be opened ({error})") from error

    def _damaged(self, name: str, what: str) -> ArtifactError:
        return ArtifactError(
            f"score maps {self.path}: shard {name} is damaged: {what}",
            "rerun the stage that made them",
        )
