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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from artifacts.store import Writer
from stages.contract import Execution

Part = TypeVar("Part")


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
    return _share(own, sum(map(images, parts)), made, images)


def alone(parts: Sequence[Part], made: Callable[[Part], bool] = lambda part: False) -> Share[Part]:
    """All parts, each an image, as the share of a rank that does this work alone."""
    return _share(parts, len(parts), made, lambda part: 1)


def images_of(shards: Share[tuple[str, ...]], made: Callable[[str], bool]) -> Share[str]:
    """The images in the shards of this rank, for work on each image that follows the making of its shard."""
    return _share([image_id for shard in shards.own for image_id in shard], shards.total, made, lambda part: 1)


def _share(own: Sequence[Part], total: int, made: Callable[[Part], bool], images: Callable[[Part], int]) -> Share[Part]:
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
