"""Parts of a shard of score maps, where its images are the work of several processes.

Each process writes its part as an HDF5 file of the same layout into the scratch folder. When all parts are there, one
process makes the shard of them: its bytes do not depend on who made which part. A run that is continued, by any number
of processes, takes the parts that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from artifacts.errors import ArtifactError
from artifacts.score_shards import MapRecord, open_shard, read_record
from artifacts.writing import SCRATCH, Writer

PARTS = f"{SCRATCH}/score-parts"


@dataclass(frozen=True)
class Part:
    """What one process makes of a shard.

    Attributes:
        item: where it is written.
        left: the ids that no part holds yet.
    """

    item: str
    left: tuple[str, ...]


def part_of(writer: Writer, shard: str, members: Sequence[str], own: tuple[str, ...]) -> Part | None:
    """What is left of the `own` ids of a shard with these members; None if that is all of the shard."""
    held = {image_id for file in _files(writer, shard) for image_id in _ids(file)}
    left = tuple(image_id for image_id in own if image_id not in held)
    if len(left) == len(members):
        return None
    # No other part begins with this id: one that did would hold it.
    first = members.index(left[0]) if left else 0
    return Part(f"{PARTS}/{Path(shard).stem}-{first:05d}.h5", left)


def join_parts(
    writer: Writer, shard: str, members: Sequence[str], class_names: Sequence[str], meaning: str
) -> Iterator[tuple[str, MapRecord]]:
    """The records of all members, in their order. ArtifactError where no part holds one of them."""
    files: list[h5py.File] = []
    try:
        for file in _files(writer, shard):
            files.append(open_shard(file, class_names, meaning))
        part_with = {image_id: file for file in files for image_id in file}
        for image_id in members:
            if image_id not in part_with:
                raise KeyError(image_id)
            yield image_id, read_record(part_with[image_id], image_id, len(class_names), meaning)
    except Exception as error:  # of damaged bytes HDF5 raises errors of any type
        raise ArtifactError(
            f"{writer.path / PARTS}: the parts of {shard} are damaged ({error!r})",
            "delete this folder and run the same command again",
        ) from error
    finally:
        for file in files:
            file.close()


def _files(writer: Writer, shard: str) -> list[Path]:
    return sorted((writer.path / PARTS).glob(f"{Path(shard).stem}-*.h5"))


def _ids(file: Path) -> list[str]:
    try:
        with h5py.File(file, "r", locking=False) as content:
            return list(content)
    except OSError:  # damaged: it holds nothing, and is made again
        return []
