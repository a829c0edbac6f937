"""The process of one node of a recipe that runs beside others: makes the artifact, and tells its parent what happens.

It is a copy of a server process that has loaded torch, so it starts at once. What it would show goes to the parent as
messages, and so does what it or a library writes to stdout and stderr: all of it appears as that of this node.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from artifacts.errors import SemisegError
from artifacts.store import Artifact, Workspace
from stages.config import Config
from stages.contract import Execution
from stages.parallel.processes import THREADS, end_with_parent, hear_ending
from stages.pipeline.changes import Change
from stages.pipeline.run_stage import REMARKED, run_stage

LOADED = (  # by the server: what most stages that compute need, and what takes long to load
    "torch",
    "torchvision",
    "torch.utils.tensorboard",
    "stages.networks",
    "stages.engine.loop",
    "stages.localization.activation_maps",
)
TELLS_EVERY_S = 0.2  # of progress


@dataclass(frozen=True)
class Order:
    """What a process is to make, and how.

    Attributes:
        module: of the stage.
        execution: without its progress.
        threads: so many compute.
        place: which of the processes that run at a time this is, from 0: several GPUs are shared out by it.
    """

    module: str
    config: Config
    workspace: str
    name: str
    inputs: dict[str, str]
    execution: Execution
    force: bool
    threads: int
    place: int


class Messages:
    """The parent's end of the line: a message is a tuple whose first part says what it is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def tell(self, *message: Any) -> None:
        """Sends a message; nothing if the parent has ended, which ends this process, too."""
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)


class ToldProgress:
    """Progress that the parent shows."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[ToldTracker]:
        number = next(self._numbers)
        self._messages.tell("track", number, total, description, unit, done)
        tracker = ToldTracker(self._messages, number)
        try:
            yield tracker
        finally:
            tracker.tell()
            self._messages.tell("tracked", number)

    def note(self, text: str) -> None:
        self._messages.tell("note", text)


class ToldTracker:
    """A running task; the parent is told of it a few times a second."""

    def __init__(self, messages: Messages, number: int) -> None:
        self._messages, self._number = messages, number
        self._count, self._fields = 0, dict[str, Any]()
        self._last = time.monotonic()

    def advance(self, count: int = 1, **fields: Any) -> None:
        self._count += count
        self._fields |= fields
        if time.monotonic() - self._last >= TELLS_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._last = time.monotonic()
        if self._count or self._fields:
            self._messages.tell("advance", self._number, self._count, self._fields)
        self._count, self._fields = 0, {}


def make_node(order: Order, connection: Connection, written: Connection) -> None:
    """Runs a stage. Its last message is "ended" (and whether there was work), "failed", "broken" or "interrupted".

    written: takes the place of stdout and stderr.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which the parent hears alone
    hear_ending()
    end_with_parent()
    for number in (1, 2):
        os.dup2(written.fileno(), number)
    written.close()
    messages = Messages(connection)
    try:
        compute_with(order.threads)
        _take_gpu(order.execution.device, order.place)
        messages.tell("ended", _make(order, messages))
    except KeyboardInterrupt:
        messages.tell("interrupted")
    except SemisegError as error:
        messages.tell("failed", error)
    except Exception as error:  # which other processes may not be able to read
        messages.tell("broken", type(error).__name__, str(error), traceback.format_exc())


def _make(order: Order, messages: Messages) -> bool:
    def replacing(artifact: Artifact, changes: list[Change]) -> None:
        messages.tell("replacing", artifact.manifest.finished, changes)

    workspace = Workspace(order.workspace)
    REMARKED.add(workspace.path)  # by the parent
    outcome = run_stage(
        importlib.import_module(order.module).STAGE,
        order.config,
        workspace,
        order.name,
        order.inputs,
        replace(order.execution, progress=ToldProgress(messages)),
        order.force,
        lambda writer: messages.tell("started", writer.resumed),
        replacing,
    )
    return outcome.ran


def compute_with(threads: int) -> None:
    os.environ.update(dict.fromkeys(THREADS, str(threads)))  # read by libraries that are not loaded yet
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _take_gpu(device: str, place: int) -> None:
    """Makes one GPU the only one of this process, where there are several and the user names none of them."""
    if device not in ("auto", "cuda"):
        return
    import torch

    if (count := torch.cuda.device_count()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of(place, count, os.environ.get("CUDA_VISIBLE_DEVICES"))


def gpu_of(place: int, count: int, visible: str | None) -> str:
    """The GPU of a place, as CUDA_VISIBLE_DEVICES names it; `visible`: its present value."""
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return names[place % count].strip()
