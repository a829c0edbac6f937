"""The curves of the trainings of a workspace: what `local/metrics.jsonl` logged, thinned.

metrics.jsonl of a training that is not finished lies in its partial folder, and is read there.
"""

from __future__ import annotations

import contextlib
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError
from artifacts.item_list import LOCAL
from artifacts.json_items import Anything, parse_json

MOST_POINTS = 300  # of a curve
FEWEST_POINTS = 10  # of a curve whose ends are compared
SEED = re.compile(r"-s[0-9]+$")  # ends the names of trainings that differ by their seed alone

Points = list[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Training:
    """The logged figures of one training.

    Attributes:
        curves: quantity -> points, at most MOST_POINTS.
        losses: the quantities that are terms of the loss.
        steps: the last step that was logged.
        unread: lines of the log that could not be read.
    """

    artifact: str
    curves: dict[str, Points]
    losses: frozenset[str]
    steps: int
    finished: bool
    unread: int = 0

    @property
    def fell(self) -> bool | None:
        """Whether a term of the loss is lower at the end than at the beginning; None where that is not known."""
        known = [ends(self.curves[term]) for term in self.losses if len(self.curves.get(term, [])) >= FEWEST_POINTS]
        return any(last < first for first, last in known) if known else None


def ends(points: Points) -> tuple[float, float]:
    """The means of the first and of the last tenth of the values."""
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    return statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])


def read_training(name: str, folder: Path, summary: Mapping[str, Any] | None) -> Training | None:
    """The training in an artifact or in a partial folder (`summary` None); None where nothing was logged."""
    path = folder / LOCAL / "metrics.jsonl"
    with contextlib.suppress(OSError):
        curves, unread = curves_of(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if curves:
            losses = (summary or {}).get("losses")
            return Training(
                name,
                {quantity: thinned(points) for quantity, points in curves.items()},
                frozenset(losses if isinstance(losses, Mapping) else ()),
                max(points[-1][0] for points in curves.values()),
                summary is not None,
                unread,
            )
    return None


def curves_of(lines: Iterable[str]) -> tuple[dict[str, Points], int]:
    """The points of each logged quantity, and how many lines are damaged (the last line of a killed run is cut)."""
    curves: dict[str, Points] = {}
    unread = 0
    for line in lines:
        try:
            found = parse_json(line, Anything, "a line")
        except ArtifactError:
            unread += 1
            continue
        step = found.get("step")
        if type(step) is not int:
            unread += 1
            continue
        for quantity, value in found.items():
            if quantity not in ("step", "time") and type(value) in (int, float) and math.isfinite(value):
                curves.setdefault(quantity, []).append((step, float(value)))
    return curves, unread


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> Points:
    """At most `most` points: consecutive ones become their mean, at the last of their steps."""
    shares = min(most, len(points))
    parts = [points[len(points) * k // shares : len(points) * (k + 1) // shares] for k in range(shares)]
    return [(part[-1][0], math.fsum(value for _, value in part) / len(part)) for part in parts]


def series_of(names: Sequence[str]) -> dict[str, int]:
    """The number of the series of each training: trainings that differ by their seed alone share one."""
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(SEED.sub("", name), len(numbers)) for name in names}
