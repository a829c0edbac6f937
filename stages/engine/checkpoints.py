"""Checkpoints written from a thread, so that a step waits for a copy of the weights and not for the disk.

with CheckpointWriter(path) as checkpoints:
    for ...:
        step()
        checkpoints.check()              # raises what went wrong in the thread
        checkpoints.write(step, state)   # copies; the file appears later, all or nothing
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from artifacts import checkpoint


class CheckpointWriter:
    """Writes the states of a training to one file, one after the other.

    At most one copy of a state is in memory: a new one waits until the one before is on the disk. At the end of the
    block it is waited for; what went wrong in the thread is raised there, unless the block has an error of its own.

    Attributes:
        written: the step of the checkpoint that lies on the disk, or None.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.written: int | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
            self.wait()
        self._thread.shutdown()

    def write(self, step: int, state: Any) -> None:
        """Copies `state` and leaves it to the thread. On a GPU the copies are only begun: its next step comes after."""
        self.wait()
        copy = checkpoint.snapshot(state, non_blocking=True)
        copied = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None
        self._pending = self._thread.submit(self._write, step, copy, copied)

    def _write(self, step: int, state: Any, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        checkpoint.write(self.path, state)
        self.written = step

    def check(self) -> None:
        """Raises what went wrong in the thread, if it is known by now: ArtifactError when the disk is full."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last state is on the disk; raises as `check`."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
