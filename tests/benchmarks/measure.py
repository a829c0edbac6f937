"""Two ways to do the same work, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Baseline = TypeVar("Baseline")
Ours = TypeVar("Ours")

SCALES = ("tiny", "quick", "full")  # tiny: only that everything runs (the tests)


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one side: every run, in order."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Result:
    """One benchmark.

    Attributes:
        what: both sides in words. input: what they worked on.
        baseline: None where only our own time is asked for.
        target_ratio: baseline / ours wanted at least; target_seconds: ours at most. None: nothing was promised.
        ratio_of_pairs: baseline / ours of each pair of neighbouring runs.
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
    target_seconds: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> tuple[float, ...]:
        """baseline / ours of each pair of neighbouring runs."""
        if self.baseline is None:
            return ()
        return tuple(theirs / ours for theirs, ours in zip(self.baseline.runs, self.ours.runs, strict=True))

    @property
    def ratio(self) -> float | None:
        """Median of the ratios: a load that comes and goes hits both sides of a pair alike."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def reached(self) -> bool:
        """The compared results are equal and the target, if there is one, is reached."""
        fast_enough = self.target_ratio is None or (self.ratio or 0.0) >= self.target_ratio
        return self.equal and fast_enough and self.ours.median <= (self.target_seconds or float("inf"))

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for side, timing in (("baseline", self.baseline), ("ours", self.ours)):
            values[side] = None if timing is None else {"median_s": timing.median, "runs_s": list(timing.runs)}
        return values | {"ratio": self.ratio, "ratios": list(self.ratios), "reached": self.reached}


def in_turn(
    baseline: Callable[[], Baseline], ours: Callable[[], Ours], repeats: int
) -> tuple[Timing, Timing, Baseline, Ours]:
    """Times both sides `repeats` times, ours first in every second pair; returns their last results too."""
    theirs_s, ours_s = [], []
    for repeat in range(repeats):
        for side in ("baseline", "ours") if repeat % 2 == 0 else ("ours", "baseline"):
            begin = time.perf_counter()
            if side == "baseline":
                expected = baseline()
                theirs_s.append(time.perf_counter() - begin)
            else:
                found = ours()
                ours_s.append(time.perf_counter() - begin)
    return Timing(tuple(theirs_s)), Timing(tuple(ours_s)), expected, found


def alone(ours: Callable[[], Ours], repeats: int) -> tuple[Timing, Ours]:
    """Times one function `repeats` times; returns its last result too."""
    runs = []
    for _ in range(repeats):
        begin = time.perf_counter()
        found = ours()
        runs.append(time.perf_counter() - begin)
    return Timing(tuple(runs)), found
