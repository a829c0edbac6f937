"""The first pass of `refine` over all images, of refiners that decide on the whole data set. Loads no torch.

Each rank surveys its share, rank 0 decides, all ranks read the decision. Both are kept in the scratch folder of the
artifact until it is published: a run that was interrupted continues. Memory holds what is asked for, not all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from artifacts.store import SCRATCH, Writer
from stages.contract import Execution
from stages.parallel.meeting import barrier
from stages.parallel.share import counted, pieces_of

if TYPE_CHECKING:
    from stages.engine.known import Known

FOLDER = f"{SCRATCH}/first-pass"
DECISION = f"{FOLDER}/decision.npz"
FIGURES = f"{FOLDER}/figures.json"  # written last: where it is, all is decided
PIECE = 500  # images that are surveyed and kept together


@dataclass(frozen=True)
class Surveys:
    """What was surveyed: N rows, those of an image one after the other.

    Attributes:
        ids: the images; counts: int64, how many rows each has.
        arrays: for each name the parts (n, ...), one after the other; on disk.
    """

    ids: Sequence[str]
    counts: NDArray[np.int64]
    arrays: Mapping[str, Sequence[NDArray]]

    def rows(self, name: str, chosen: NDArray[np.int64] | None = None) -> NDArray:
        """The chosen rows of an array, by ascending numbers, or all of them, in memory."""
        parts = self.arrays[name]
        if chosen is None:
            return np.concatenate(parts)
        ends = np.cumsum([len(part) for part in parts])
        places = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        return np.concatenate([part[own - end + len(part)] for part, own, end in zip(parts, places, ends, strict=True)])


@dataclass(frozen=True)
class Decided:
    """What was decided of each image: rows of arrays, as many and in the order as they were surveyed."""

    ids: Sequence[str]
    counts: NDArray[np.int64]
    arrays: Mapping[str, NDArray]

    def __getitem__(self, image_id: str) -> dict[str, NDArray]:
        own = self._rows[image_id]
        return {name: values[own] for name, values in self.arrays.items()}

    @cached_property
    def _rows(self) -> dict[str, slice]:
        ends = np.cumsum(self.counts).tolist()
        return {i: slice(end - count, end) for i, end, count in zip(self.ids, ends, self.counts.tolist(), strict=True)}


def decide_first(
    refiner: Any,
    ids: Sequence[str],
    batches_of: Callable[[Sequence[str]], Iterable[Sequence[Known]]],
    writer: Writer,
    execution: Execution,
) -> dict[str, float]:
    """Gives the refiner its `decided`; returns the figures of the decision."""
    pieces, mine = pieces_of(len(ids), PIECE, execution, lambda piece: writer.has(_item(piece, ".json")))
    if not writer.has(FIGURES):
        with counted(writer, execution, "survey", mine) as advance:
            for piece in mine.left:
                _survey(refiner, piece, batches_of(ids[piece.start : piece.stop]), writer, advance)
    barrier()  # all is surveyed
    if execution.rank == 0 and not writer.has(FIGURES):
        surveys = _surveys(writer, pieces)
        arrays, figures = refiner.decide(surveys, execution.progress)
        with writer.item(DECISION) as temporary, temporary.open("wb") as file:
            content: dict[str, Any] = {"/ids": np.array(surveys.ids), "/counts": surveys.counts, **arrays}
            np.savez(file, **content)
        writer.write_json(FIGURES, figures)
    barrier()  # all is decided
    with np.load(writer.path / DECISION, allow_pickle=False) as content:
        found = dict(content)
    refiner.decided = Decided(found.pop("/ids").tolist(), found.pop("/counts"), found)
    return writer.read_json(FIGURES)


def _item(piece: range, end: str) -> str:
    return f"{FOLDER}/{piece.start:07d}-{piece.stop:07d}{end}"


def _survey(
    refiner: Any, piece: range, batches: Iterable[Sequence[Known]], writer: Writer, advance: Callable[[], None]
) -> None:
    """Writes what is surveyed of some images: a file for each array, and at last the numbers of rows of its images."""
    counts: dict[str, int] = {}
    parts: dict[str, list[NDArray]] = {}
    for image_id, arrays in refiner.survey(batches):
        counts[image_id] = len(next(iter(arrays.values())))
        for name, values in arrays.items():
            parts.setdefault(name, []).append(values)
        advance()
    for name, values in parts.items():
        with writer.item(_item(piece, f"-{name}.npy")) as temporary:
            np.save(temporary, np.concatenate(values))
    index = {"ids": list(counts), "counts": list(counts.values()), "arrays": sorted(parts)}
    writer.write_json(_item(piece, ".json"), index)


def _surveys(writer: Writer, pieces: Sequence[range]) -> Surveys:
    ids: list[str] = []
    counts: list[int] = []
    arrays: dict[str, list[NDArray]] = {}
    for piece in pieces:
        index = writer.read_json(_item(piece, ".json"))
        ids, counts = ids + index["ids"], counts + index["counts"]
        for name in index["arrays"]:
            part = np.load(writer.path / _item(piece, f"-{name}.npy"), mmap_mode="r", allow_pickle=False)
            arrays.setdefault(name, []).append(part)
    return Surveys(ids, np.array(counts, np.int64), arrays)
