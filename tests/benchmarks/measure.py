"""Two ways to do the same work, measured in turn."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Baseline = TypeVar("Baseline")
Ours = TypeVar("Ours")

SCALES = ("tiny", "quick", "full")  # tiny: only that everything runs (the tests)


@dataclass(frozen=True)
class Clock:
    """What is measured: `now` is read before and after the work. unit: "s", "CPU s", "calls"."""

    unit: str
    now: Callable[[], float]


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CPU = Clock("CPU s", _cpu_seconds)  # of all threads, and of children that have ended: other programs do not change it
WALL = Clock("s", time.perf_counter)  # where processes work side by side, or the wait itself is what counts


def usual_clock() -> Clock:
    """CPU seconds; with a GPU, whose work they do not count, the wall clock."""
    torch = sys.modules.get("torch")
    return WALL if torch is not None and torch.cuda.is_available() else CPU


@dataclass(frozen=True)
class Timing:
    """What one side took: every run, in order, in `unit`."""

    runs: tuple[float, ...]
    unit: str = WALL.unit

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Result:
    """One benchmark.

    Attributes:
        what: both sides in words. input: what they worked on.
        baseline: None where only our own time is asked for.
        target_ratio: baseline / ours wanted at least; target_most: ours at most, in its unit. None: no such target.
        ratios: baseline / ours of each pair of neighbouring runs.
        equality: what was compared; equal: whether it held.
        figures: further numbers, by name.
    """

    name: str
    what: str
    input: str
    baseline: Timing | None
    ours: Timing
    equality: str
    equal: bool
    target_ratio: float | None = None
    target_most: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> tuple[float, ...]:
        """baseline / ours of each pair of neighbouring runs; where ours is 0, that of one unit."""
        if self.baseline is None:
            return ()
        return tuple(theirs / (ours or 1.0) for theirs, ours in zip(self.baseline.runs, self.ours.runs, strict=True))

    @property
    def ratio(self) -> float | None:
        """Median of the ratios: a load that comes and goes hits both sides of a pair alike."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def reached(self) -> bool:
        """The compared results are equal and the targets, if there are any, are reached."""
        fast_enough = self.target_ratio is None or (self.ratio or 0.0) >= self.target_ratio
        little_enough = self.target_most is None or self.ours.median <= self.target_most
        return self.equal and fast_enough and little_enough

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for side, timing in (("baseline", self.baseline), ("ours", self.ours)):
            values[side] = timing and {"median": timing.median, "runs": list(timing.runs), "unit": timing.unit}
        return values | {"ratio": self.ratio, "ratios": list(self.ratios), "reached": self.reached}


def in_turn(
    baseline: Callable[[], Baseline],
    ours: Callable[[], Ours],
    repeats: int,
    clock: Clock | None = None,
    each: int = 1,
) -> tuple[Timing, Timing, Baseline, Ours]:
    """Measures both sides `repeats` times, ours first in every second pair; returns their last results too.

    clock: None is `usual_clock()`. each: of how many images or steps one run consists; the figures are of one.
    """
    clock = clock or usual_clock()
    theirs_took, ours_took = [], []
    for repeat in range(repeats):
        for side in ("baseline", "ours") if repeat % 2 == 0 else ("ours", "baseline"):
            begin = clock.now()
            if side == "baseline":
                expected = baseline()
                theirs_took.append((clock.now() - begin) / each)
            else:
                found = ours()
                ours_took.append((clock.now() - begin) / each)
    return Timing(tuple(theirs_took), clock.unit), Timing(tuple(ours_took), clock.unit), expected, found


def alone(ours: Callable[[], Ours], repeats: int, clock: Clock | None = None) -> tuple[Timing, Ours]:
    """Measures one function `repeats` times; returns its last result too."""
    clock = clock or usual_clock()
    runs = []
    for _ in range(repeats):
        begin = clock.now()
        found = ours()
        runs.append(clock.now() - begin)
    return Timing(tuple(runs), clock.unit), found
