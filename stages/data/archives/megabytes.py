"""Progress in megabytes of work that is counted in bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from stages.contract import Progress, Tracker

MEGABYTE = 1_000_000


@dataclass
class Megabytes:
    """Reports whole megabytes to a tracker, from counts in bytes."""

    tracker: Tracker
    told: int

    def reach(self, position: int) -> None:
        if position // MEGABYTE > self.told:
            self.tracker.advance(position // MEGABYTE - self.told)
            self.told = position // MEGABYTE


@contextlib.contextmanager
def megabytes(progress: Progress, total: int, description: str, done: int = 0) -> Iterator[Megabytes]:
    with progress.track(total // MEGABYTE, description, unit="MB", done=done // MEGABYTE) as tracker:
        yield Megabytes(tracker, done // MEGABYTE)
