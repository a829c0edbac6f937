"""The log of a training: means of its losses between two reports, and the files they are written to."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError
from artifacts.item_list import LOCAL
from artifacts.json_items import Count, Shape, parse_json
from artifacts.store import Writer
from stages.engine import distributed


class _Line(Shape):
    """The part of a line of metrics.jsonl that a continued training must know."""

    step: Count


NEVER = 2**62  # stands for no step: no training reaches it


class Means:
    """Losses, and figures that the method observed, of the steps since the last report.

    They stay on the device until the report, since reading a value makes the GPU wait. `losses` and `observed` are
    the means of the last report over its steps and all processes.
    """

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.observed: dict[str, float] = {}
        self._names: list[str] = []  # what is summed; losses and observed figures
        self._sums = torch.empty(0)  # (names,)
        self._first_bad = torch.empty(0)  # (names,), int64: the first step when it was not finite
        self._steps = 0
        self._terms: set[str] = set()  # which of the names are losses

    @torch.no_grad()
    def add(self, step: int, losses: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> None:
        """The losses after `step` steps and what the method observed in the last of them, scalars."""
        values = {**losses, **observed}
        self._terms |= losses.keys()
        if list(values) != self._names:
            known, zero = len(self._names), next(iter(values.values())).new_zeros(())
            self._names += [name for name in values if name not in self._names]
            sums = zero.new_zeros(len(self._names), dtype=torch.float32)
            first_bad = torch.full_like(sums, NEVER, dtype=torch.int64)
            if known:
                sums[:known], first_bad[:known] = self._sums, self._first_bad
            self._sums, self._first_bad = sums, first_bad
            values = {name: values.get(name, zero) for name in self._names}
        found = torch.stack(list(values.values())).float()
        self._sums = self._sums + found
        self._first_bad = torch.minimum(self._first_bad, torch.where(torch.isfinite(found), NEVER, step))
        self._steps += 1

    def close(self, step: int) -> tuple[int, list[str]] | None:
        """Means of the steps since the last time; the first step and the terms where a loss was not finite, or None.

        Every process calls it at the same `step`, and all get the same.
        """
        values = distributed.sum_over_processes(self._sums[self._sorted()])
        shares = values / (self._steps * distributed.world_size())
        means = dict(zip(sorted(self._names), shares.tolist(), strict=True))
        self.losses = {name: value for name, value in means.items() if name in self._terms}
        self.observed = {name: value for name, value in means.items() if name not in self._terms}
        bad = self._not_finite(step, self.losses)
        self._names, self._steps = [], 0
        return bad

    def not_finite(self, step: int) -> tuple[int, list[str]] | None:
        """As `close`, for the steps that are not closed yet."""
        sums = dict(zip(self._names, self._sums.tolist(), strict=True)) if self._steps else {}
        return self._not_finite(step, {name: value for name, value in sums.items() if name in self._terms})

    def _not_finite(self, step: int, losses: Mapping[str, float]) -> tuple[int, list[str]] | None:
        if all(math.isfinite(value) for value in losses.values()):
            return None
        firsts = distributed.least_over_processes(self._first_bad[self._sorted()]).tolist()
        steps = {name: bad for name, bad in zip(sorted(self._names), firsts, strict=True) if name in losses}
        first = min(steps.values())
        if first == NEVER:  # every loss is finite, but their sum is not
            return step, [name for name, value in losses.items() if not math.isfinite(value)]
        return first, [name for name, bad in steps.items() if bad == first]

    def _sorted(self) -> list[int]:
        """The places of the names in their alphabetic order: processes may have met them in different ones."""
        return sorted(range(len(self._names)), key=lambda place: self._names[place])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; `restore` takes it back."""
        sums = {}
        if self._steps:
            sums = dict(zip(self._names, self._sums.unbind(), strict=True)) | {
                "steps": torch.tensor(float(self._steps))
            }
        return {"sums": sums, "last_losses": self.losses, "last_observed": self.observed}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Raises KeyError where the state is not one of `state`."""
        self.losses, self.observed = state["last_losses"], state["last_observed"]
        sums = {name: value for name, value in state["sums"].items() if name != "steps"}
        self._names = list(sums)
        if sums:
            self._sums = torch.stack(list(sums.values())).to(device)
            self._first_bad = torch.full_like(self._sums, NEVER, dtype=torch.int64)
        self._steps = int(state["sums"].get("steps", 0))


class TrainingLog:
    """metrics.jsonl and TensorBoard below `local/`; lines after the resumed step are dropped."""

    def __init__(self, writer: Writer, step: int) -> None:
        self.folder = writer.path / LOCAL
        self.path = self.folder / "metrics.jsonl"
        self.step = step

    def __enter__(self) -> TrainingLog:
        from torch.utils.tensorboard import SummaryWriter

        with disk_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                text = self.path.read_text(encoding="utf-8", errors="replace")
                lines = [line for line in text.splitlines() if _step_of(line) <= self.step]
                temporary = self.path.with_name(f".{self.path.name}.partial")
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                os.replace(temporary, self.path)
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        with disk_errors(self.path):
            rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
            self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        self.board.close()
        self.file.close()


def _step_of(line: str) -> float:
    with contextlib.suppress(ArtifactError):  # the last line of a killed run may be cut
        return parse_json(line, _Line, "a line").step
    return math.inf
