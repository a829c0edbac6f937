"""Where a step works, and how it runs stages there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from artifacts.store import Artifact, Workspace
from stages.config import build
from stages.contract import Execution, default_workers, load_stage
from stages.pipeline.run_stage import run_stage
from tests.gpu.rows import Rows

T = TypeVar("T")


class Flow(NamedTuple):
    """Of a task: the share of its units done in a second between `begin`, when a quarter was done, and `end`.

    first: the seconds until the first one was done.
    """

    rate: float
    first: float
    begin: float
    end: float


class Watch:
    """Progress that notes when each unit of every task was done, and calls `at[n]` after step n of a training."""

    def __init__(self, at: Mapping[int, Callable[[], None]] | None = None) -> None:
        self.at = at or {}
        self.tasks: list[tuple[str, str, dict[int, float]]] = []  # description, unit, when so many were done
        self.notes: list[str] = []

    @contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Watch]:
        self.done = done
        self.tasks.append((description, unit, {done: time.perf_counter()}))
        yield self

    def advance(self, count: int = 1, **fields: Any) -> None:
        self.done += count
        _, unit, times = self.tasks[-1]
        times[self.done] = time.perf_counter()
        if unit == "steps" and self.done in self.at:
            self.at[self.done]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def seconds(self, first: int, last: int) -> float:
        """Of a training, from the end of step `first` to the end of step `last`."""
        steps = next(times for _, unit, times in self.tasks if unit == "steps")
        return steps[last] - steps[first]

    def flow(self, description: str) -> Flow:
        times = next(times for words, _, times in self.tasks if words == description)
        done = list(times)
        early = next((n for n in done[1:-1] if n >= done[-1] / 4), done[0])
        rate = (done[-1] - early) / done[-1] / (times[done[-1]] - times[early])
        return Flow(rate, times[done[min(1, len(done) - 1)]] - times[done[0]], times[early], times[done[-1]])


@dataclass(frozen=True)
class Place:
    """What a step is given.

    Attributes:
        folder: of all steps: workspaces, rows, logs.
        device: "cuda" or "cpu". tiny: only whether it runs.
    """

    folder: Path
    device: str
    tiny: bool
    rows: Rows

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def voc(self) -> Workspace:
        """The workspace of the images of VOC's sizes."""
        return Workspace(self.folder / "voc")

    def size(self, full: T, tiny: T) -> T:
        return tiny if self.tiny else full

    def run(
        self,
        workspace: Workspace,
        stage: str,
        output: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str | None],
        progress: Any = None,
        **how: Any,
    ) -> Artifact:
        """Runs a stage as the command line would."""
        record = load_stage(stage)
        how = {"device": self.device, "workers": self.size(default_workers(), 1), "checkpoint_every_s": 1e9} | how
        execution = Execution(progress=progress or Watch(), **how)
        return run_stage(
            record, build(record.config, config, stage), workspace, output, inputs, execution, force=True
        ).artifact

    def taken(self, items: Iterable[str]) -> Iterator[str]:
        """The items that no other process of this step has taken."""
        for item in items:
            with suppress(FileExistsError):
                (self.folder / f"{self.rows.step}.{item}.taken").touch(exist_ok=False)
                yield item

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """GiB of tensors on the device since `forget_peak`."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None

    def seconds(self, work: Callable[[], Any], repeats: int, warm: int = 3) -> float:
        """Seconds of one call on the device, the mean of several after some that are not counted."""
        for _ in range(self.size(warm, 1)):
            work()
        self.wait()
        begin, count = time.perf_counter(), self.size(repeats, 1)
        for _ in range(count):
            work()
        self.wait()
        return (time.perf_counter() - begin) / count
