"""Runs nodes of a recipe that do not need each other side by side, each in a process of its own.

The cores are divided: each process computes with its part of the threads, whatever runs beside it, since on a CPU a
training is the same to the bit for the same number of threads only. Processes for reading and CRF, whose number changes
no result, are as many as there are cores for the nodes that run. Where there are several GPUs each process has one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from artifacts.errors import SemisegError
from artifacts.store import Workspace
from stages.contract import STAGE_MODULES, Execution, PlainProgress, Progress, Tracker
from stages.engine.interruption import Interruption
from stages.parallel.processes import death, preload, server
from stages.pipeline.graph import upstream
from stages.pipeline.node_process import LOADED, Order, make_node
from stages.pipeline.observer import Observer, RunReport
from stages.pipeline.recipe import Node
from stages.pipeline.run_stage import fresh_artifact, remark_on_disk

LOOKS_EVERY_S = 0.5  # whether the user ends the run
ENDS_WITHIN_S = 10.0  # a process that has told its last


def threads_of_each(jobs: int, cores: int) -> int:
    """The threads of each of `jobs` processes; OMP_NUM_THREADS is what the user wants of each."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, cores // jobs)


class _Running:
    """A node that is being made: its process, and what is shown of it."""

    def __init__(self, node: Node, order: Order, observer: Observer, progress: Progress) -> None:
        self.node, self.place = node, order.place
        self._observer, self._progress = observer, progress
        self._trackers: dict[int, tuple[Tracker, contextlib.ExitStack]] = {}
        self._line = b""  # written, but not ended yet
        self.last: tuple[Any, ...] | None = None  # the message that ends it
        context = server()
        self.messages, theirs = context.Pipe(duplex=False)
        self.written, writing = context.Pipe(duplex=False)
        os.set_blocking(self.written.fileno(), False)
        self.process = context.Process(target=make_node, args=(order, theirs, writing), name=node.name)
        self.process.start()
        theirs.close()
        writing.close()

    def hear(self) -> None:
        """Shows what the process tells, up to its last message, and what it and its libraries have written."""
        has_ended = not self.process.is_alive()
        self._read()
        try:
            while self.last is None and self.messages.poll():
                self._show(self.messages.recv())
        except (EOFError, ConnectionResetError):
            has_ended = True
        if has_ended and self.last is None:
            self.last = ("died",)

    def _show(self, message: tuple[Any, ...]) -> None:
        match message:
            case "started", resumed:
                self._observer.started(self.node, resumed)
            case "replacing", finished, changes:
                self._observer.replacing(self.node, finished, changes)
            case "note", text:
                self._progress.note(f"{self.node.name}: {text}")
            case "track", number, total, description, unit, done:
                shown, what = contextlib.ExitStack(), f"{self.node.name}: {description}"
                self._trackers[number] = shown.enter_context(self._progress.track(total, what, unit, done)), shown
            case "advance", number, count, fields:
                self._trackers[number][0].advance(count, **fields)
            case "tracked", number:
                self._trackers.pop(number)[1].close()
            case _:
                self.last = message

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while read := os.read(self.written.fileno(), 1 << 16):
                *lines, self._line = (self._line + read).split(b"\n")
                self._note(*lines)

    def _note(self, *lines: bytes) -> None:
        for line in filter(bytes.strip, lines):
            self._progress.note(f"{self.node.name}: {line.decode(errors='backslashreplace').rstrip()}")

    def close(self) -> None:
        """Waits for the process, which has told its last, and takes its progress away."""
        self.process.join(ENDS_WITHIN_S)
        self.process.kill()  # where it does not end by itself
        self._read()
        self._note(self._line)
        for _, shown in self._trackers.values():
            shown.close()
        self.messages.close()
        self.written.close()


@dataclass
class _Nodes:
    """The nodes of one run: those that wait, those that run, and the report of the others."""

    waiting: dict[str, Node]
    reads: Mapping[str, list[str]]
    workspace: Workspace
    execution: Execution
    observer: Observer
    force: Collection[str]
    jobs: int
    running: dict[str, _Running] = field(default_factory=dict)
    report: RunReport = field(default_factory=RunReport)
    ending: bool = False

    def start_ready(self) -> None:
        """Starts what can start, in the order of the recipe; passes over what is fresh, or needs what has failed."""
        while len(self.running) < self.jobs and (ready := self._ready()):
            node = self.waiting.pop(ready[0])
            if lost := sorted(upstream(self.reads, node.name) & self.report.failed.keys()):
                self.report.skipped.append(node.name)
                self.observer.skipped(node, lost)
            elif not self._is_settled(node):
                beside = min(self.jobs, len(self.running) + len(ready))
                self._start(node, max(1, self.execution.workers // beside))

    def _ready(self) -> list[str]:
        unmade = self.waiting.keys() | self.running.keys()
        return [name for name in self.waiting if unmade.isdisjoint(self.reads[name])]

    def _is_settled(self, node: Node) -> bool:
        """Whether there is nothing to make: the node is fresh, or its inputs are not those of the stage."""
        if node.name in self.force:
            return False
        try:
            artifact = fresh_artifact(node.stage, node.config, self.workspace, node.name, node.inputs)
        except Exception as error:
            self._failed(node, error)
            return True
        if artifact is not None:
            self.report.fresh.append(node.name)
            self.observer.fresh(node, artifact)
        return artifact is not None

    def _start(self, node: Node, workers: int) -> None:
        order = Order(
            module=STAGE_MODULES[node.stage.name],
            config=node.config,
            workspace=str(self.workspace.path),
            name=node.name,
            inputs=node.inputs,
            execution=replace(self.execution, workers=workers, progress=PlainProgress()),
            force=node.name in self.force,
            threads=threads_of_each(self.jobs, self.execution.workers),
            place=min(set(range(self.jobs)) - {one.place for one in self.running.values()}),
        )
        self.running[node.name] = _Running(node, order, self.observer, self.execution.progress)

    def listen(self) -> None:
        """Waits a moment for what the processes tell, and shows it; reports those that have told their last."""
        with selectors.DefaultSelector() as selector:
            for one in self.running.values():
                for source in (one.messages, one.written, one.process.sentinel):
                    selector.register(source, selectors.EVENT_READ)
            selector.select(LOOKS_EVERY_S)
        for name, one in list(self.running.items()):
            one.hear()
            if one.last is not None:
                del self.running[name]
                one.close()
                self._ended(one)

    def _ended(self, one: _Running) -> None:
        match one.last:
            case "ended", ran:
                (self.report.made if ran else self.report.fresh).append(one.node.name)
                tell = self.observer.finished if ran else self.observer.fresh
                tell(one.node, self.workspace.artifact(one.node.name))
            case "failed", error:
                self._failed(one.node, error)
            case "broken", kind, text, traceback:
                error = type(kind, (Exception,), {})(text)
                error.add_note(traceback)
                self._failed(one.node, error)
            case ("interrupted",) if self.ending:
                pass
            case ("interrupted",):
                self._failed(one.node, SemisegError("its process was told to end", "the same command continues"))
            case _:
                self._failed(one.node, death(one.process.exitcode, f"the process of {one.node.name}"))

    def _failed(self, node: Node, error: Exception) -> None:
        self.report.failed[node.name] = error
        self.observer.failed(node, error)

    def end(self) -> None:
        """Ends the run, once the processes have saved their work."""
        self.ending = True
        self.waiting.clear()
        for one in self.running.values():
            one.process.terminate()
        while self.running:
            self.listen()


def run_side_by_side(
    nodes: Mapping[str, Node],
    reads: Mapping[str, list[str]],
    workspace: Workspace,
    execution: Execution,
    observer: Observer,
    force: Collection[str],
    jobs: int,
) -> RunReport:
    """Makes the nodes, each after those of them that it reads, up to `jobs` at a time.

    A signal ends the run by KeyboardInterrupt, or by the end of this process, as without processes: after these have
    saved their work, or at once if it comes a second time.
    """
    preload(LOADED)
    remark_on_disk(workspace, execution)
    run = _Nodes(dict(nodes), reads, workspace, execution, observer, force, jobs)
    try:
        with Interruption() as interruption:
            while run.waiting or run.running:
                if interruption.asked is not None:
                    run.end()
                    break
                run.start_ready()
                run.listen()
    finally:
        for one in run.running.values():  # after a second signal, or a mistake of ours
            one.process.kill()
            one.close()
    return run.report
