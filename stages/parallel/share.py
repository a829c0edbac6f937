"""The share of one rank in the work of all ranks, the part of it that is not made yet, and the progress.

    masks = share_of(ids, execution, made=lambda image_id: writer.has(f"masks/{image_id}.png"))
    with counted(writer, execution, "crf", masks) as advance:
        for image_id in masks.left:
            ...
            advance()

Under torchrun all ranks write into one folder. The parts are divided before any rank checks which are already made:
ranks that check at different moments would otherwise divide different lists, and leave some parts out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from artifacts.store import SCRATCH, Writer
from stages.contract import Execution
from stages.parallel.meeting import barrier

if TYPE_CHECKING:
    from artifacts.score_maps import ScoreMapWriter

Part = TypeVar("Part")
PART = 10_000  # images of a record where each takes milliseconds: what a killed run looks at again


@dataclass(frozen=True)
class Share(Generic[Part]):
    """The parts of one rank. A part is an image, or several that are written together.

    Attributes:
        own: the parts of this rank, in the order of all parts.
        left: those of them that are not made yet.
        total, mine, done: how many images are in the parts of all ranks, in those of this rank, and in those of
            them that are already made.
    """

    own: Sequence[Part]
    left: Sequence[Part]
    total: int
    mine: int
    done: int


def share_of(
    parts: Sequence[Part],
    execution: Execution,
    made: Callable[[Part], bool],
    images: Callable[[Part], int] = lambda part: 1,
) -> Share[Part]:
    """The share of this rank: every `world_size`-th part. images: how many images a part has."""
    own = parts[execution.rank :: execution.world_size]
    return share_with(own, sum(map(images, parts)), made, images)


def dealt(count: int, rank: int, ranks: int) -> range:
    """The places of one rank in a list of so many: each has as many as any other, or one more."""
    return range(count * rank // ranks, count * (rank + 1) // ranks)


def pieces_of(
    count: int, most: int, execution: Execution, made: Callable[[range], bool]
) -> tuple[list[range], Share[range]]:
    """Places of images in a list, in pieces of at most `most`: those of all ranks in order, and the share of this one.

    For work on many images that is kept together, and that may be cut anywhere.
    """
    ranks = [dealt(count, rank, execution.world_size) for rank in range(execution.world_size)]
    pieces = [[places[at : at + most] for at in range(0, len(places), most)] for places in ranks]
    return [piece for some in pieces for piece in some], share_with(pieces[execution.rank], count, made, len)


def share_of_maps(
    scores: ScoreMapWriter,
    ids: Sequence[str],
    execution: Execution,
    batches: Callable[[tuple[str, ...]], Iterable[Sequence[str]]],
    size: Callable[[str], tuple[int, int]] | None = None,
) -> Share[tuple[str, ...]]:
    """Plans the score maps of the ids; the share of this rank, shard by shard, of which `left` may be a part.

    batches: those in which one process would compute the images of a shard. A batch is one rank's, since the last bits
    of its maps depend on who is in it. When all ranks have made theirs, `scores.join()` makes whole shards.
    size: the (H, W) of an image, where shards are to hold images of one size (see `ScoreMapWriter.plan`).
    """
    scores.plan(ids, index=execution.rank == 0, size=size)
    if execution.world_size > 1:
        scores.take(_dealt_batches([batch for shard in scores.shards for batch in batches(shard)], execution))
    left = [some for own in scores.own if (some := scores.left(own))]
    mine = sum(map(len, scores.own))
    return Share(scores.own, left, len(ids), mine, mine - sum(map(len, left)))


def _dealt_batches(batches: Sequence[Sequence[str]], execution: Execution) -> set[str]:
    """The images of this rank: of batches one after the other, those whose middle lies in its part of all images."""
    own: set[str] = set()
    before, total = 0, sum(map(len, batches))
    for batch in batches:
        if (2 * before + len(batch)) * execution.world_size // (2 * total) == execution.rank:
            own.update(batch)
        before += len(batch)
    return own


def alone(parts: Sequence[Part], made: Callable[[Part], bool] = lambda part: False) -> Share[Part]:
    """All parts, each an image, as the share of a rank that does this work alone."""
    return share_with(parts, len(parts), made, lambda part: 1)


def images_of(shards: Share[tuple[str, ...]], made: Callable[[str], bool]) -> Share[str]:
    """The images in the shards of this rank, for work on each image that follows the making of its shard."""
    return share_with([image_id for shard in shards.own for image_id in shard], shards.total, made, lambda part: 1)


def share_with(
    own: Sequence[Part], total: int, made: Callable[[Part], bool], images: Callable[[Part], int]
) -> Share[Part]:
    """A share of these parts, of `total` images that all ranks have."""
    left = [part for part in own if not made(part)]
    mine = sum(map(images, own))
    return Share(own, left, total, mine, mine - sum(map(images, left)))


@contextmanager
def counted(
    writer: Writer, execution: Execution, what: str, *shares: Share[Any], unit: str = "images"
) -> Iterator[Callable[..., None]]:
    """Shows the progress of the shares of one job; gives the function to call with each number of finished images.

    A bar shows the work of this rank, `status` that of all: the rest of the ranks are assumed to be equally far.
    """
    total, mine, done = (sum(getattr(share, name) for share in shares) for name in ("total", "mine", "done"))

    def report() -> None:
        writer.advance_to(total * done // mine if mine else total)

    report()
    writer.expect(total)
    with execution.progress.track(mine, what, unit, done) as tracker:

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            tracker.advance(count)
            report()

        yield advance


def record_pieces(
    writer: Writer,
    execution: Execution,
    what: str,
    ids: Sequence[str],
    most: int,
    look: Callable[[Sequence[str], Callable[..., None]], Any],
) -> list[str]:
    """Keeps what is found in images, in records of at most `most` of them; gives these, in the order of the ids.

    look: called with the images of a record, and the function to call with each number of finished ones; what it
    returns is written (JSON). Records of a run that was cut off are taken over. At the end all ranks' are there.
    """

    def record(piece: range) -> str:
        return f"{SCRATCH}/{what}-{piece.start}-{piece.stop}.json"

    pieces, mine = pieces_of(len(ids), most, execution, lambda piece: writer.has(record(piece)))
    with counted(writer, execution, what, mine) as advance:
        for piece in mine.left:
            writer.write_json(record(piece), look(ids[piece.start : piece.stop], advance))
    barrier()
    return [record(piece) for piece in pieces]
