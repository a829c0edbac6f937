"""A pool of processes for work on single images, which reports the image at which a process died.

The standard library's pool only reports that one of its processes died. Here the parent knows the items of each
process, so an image that crashes a C library, or that exhausts the memory, is named. Processes are copies of a clean
server process, which has loaded what they need: a copy of a process that has used CUDA or threads is not safe. Each
computes with one thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from artifacts.errors import SemisegError

Shared = TypeVar("Shared")
Result = TypeVar("Result")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
IN_HAND = 4  # items given to a process at a time, so that it never waits for the parent
ENDING = (signal.SIGINT, signal.SIGTERM)

_preloaded: set[str] = set()


def preload(modules: Iterable[str]) -> None:
    """Names modules that the server process is to load when it starts, so that no copy of it has to."""
    _preloaded.update(modules)


def server() -> ForkServerContext:
    """The context of processes that are copies of the server, which is started where it does not run yet.

    It loads what was named to `preload` until then. It begins with one thread, and without the signals that end
    processes, which its copies listen to by `hear_ending`: a signal to all processes of a job must not end the server
    before those that are to save their work.
    """
    forkserver.set_forkserver_preload(sorted(_preloaded))
    before = {name: os.environ.get(name) for name in THREADS}
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    return multiprocessing.get_context("forkserver")


def hear_ending() -> None:
    """Lets SIGTERM end a copy of the server. Ctrl-C stays unheard: the parent gets it, and ends its children."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


class _Pool(ProcessPoolExecutor):
    """The standard pool with a clear error when one of its processes dies."""

    _death: SemisegError | None = None

    def submit(self, function: Callable[..., Result], /, *arguments: Any, **named: Any) -> Future[Result]:
        answer: Future[Result] = Future()

        def pass_on(done: Future[Result]) -> None:
            if done.cancelled():
                answer.cancel()
            elif isinstance(error := done.exception(), BrokenProcessPool):
                answer.set_exception(self._died())
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        try:
            super().submit(function, *arguments, **named).add_done_callback(pass_on)
        except BrokenProcessPool:
            raise self._died() from None
        return answer

    def _died(self) -> SemisegError:
        """The message about the process that ended first; read before the pool ends the remaining ones."""
        if self._death is None:
            processes = list((getattr(self, "_processes", None) or {}).values())
            ended = wait([process.sentinel for process in processes], timeout=1) if processes else []
            codes = [process.exitcode for process in processes if process.sentinel in ended]
            self._death = death(codes[0] if codes else None, "a process of the pool")
        return self._death


def process_pool(workers: int, initializer: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A pool for tasks that contain arrays; SemisegError if one of its processes dies. Each computes with one thread.

    Its processes end when the process that made it ends. Otherwise a killed stage would leave them behind forever:
    each of them holds the pipe that the others wait on.
    """
    return _Pool(workers, mp_context=server(), initializer=_start, initargs=(initializer, arguments))


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    hear_ending()
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def end_with_parent() -> None:
    """Ends this process as soon as the one that made it has ended."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def map_in_processes(
    function: Callable[[Shared, Any], Result],
    shared: Shared,
    items: Sequence[str],
    workers: int,
    carry: Callable[[str], Any] | None = None,
) -> Iterator[tuple[str, Result]]:
    """(item, function(shared, item)) for every item, in the order in which they become ready.

    `function` is a module-level function; `shared` is sent to each process once. With `carry`, the function gets
    (item, carry(item)) instead of the item: data for this item only, made when it is sent. With one worker, or one
    item, everything runs in this process. The first error stops the work: a SemisegError is raised as it is, any other
    error as RuntimeError with the name of the item and the traceback of the process; for a process that dies a
    SemisegError names the item.
    """
    if workers <= 1 or len(items) <= 1:
        for item in items:
            yield item, function(shared, item if carry is None else (item, carry(item)))
        return
    preload([function.__module__])
    context = server()
    todo = deque(items)
    processes: dict[Connection, tuple[BaseProcess, deque[str]]] = {}
    try:
        for _ in range(min(workers, len(items))):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = (process, deque())
        for connection in processes:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; the next receive reports that
                connection.send((function, shared))
        for most in range(1, IN_HAND + 1):  # one process after the other, so that a few items are spread over them, too
            for connection, (_, in_hand) in processes.items():
                _refill(connection, in_hand, todo, carry, most)
        while processes:
            for ready in wait(list(processes)):
                assert isinstance(ready, Connection)
                worker, in_hand = processes[ready]
                try:
                    good, answer = ready.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(worker, in_hand) from None
                item = in_hand.popleft()
                if not good:
                    raise _failure(item, answer)
                if not _refill(ready, in_hand, todo, carry):
                    del processes[ready]
                    ready.close()
                yield item, answer
    finally:
        for connection, (unfinished, _) in processes.items():
            unfinished.terminate()
            connection.close()


def _refill(
    connection: Connection,
    in_hand: deque[str],
    todo: deque[str],
    carry: Callable[[str], Any] | None,
    most: int = IN_HAND,
) -> bool:
    """Sends items until the process holds `most`; False when it has nothing left to do."""
    while todo and len(in_hand) < most:
        item = todo.popleft()
        in_hand.append(item)
        try:
            connection.send(item if carry is None else (item, carry(item)))
        except (BrokenPipeError, ConnectionResetError):
            break  # it died; the next receive reports that
    return bool(in_hand)


def _died(process: BaseProcess, in_hand: deque[str]) -> SemisegError:
    process.join(5)
    return death(process.exitcode, f"the process working on {in_hand[0]!r}")


def death(exit_code: int | None, who: str) -> SemisegError:
    """The message for a process `who` that died; exit_code: negative for a signal, None if unknown."""
    how = "was killed" if exit_code is None else f"ended with {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return SemisegError(
        f"{who} {how}",
        "signal 9 usually means too little memory: use fewer workers; finished images are kept, the next run continues",
    )


def _failure(item: str, answer: SemisegError | str) -> Exception:
    return answer if isinstance(answer, SemisegError) else RuntimeError(f"{item}:\n{answer}")


def _work(connection: Connection) -> None:
    hear_ending()
    try:
        function, shared = connection.recv()
    except EOFError:
        return  # the parent has ended
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return  # the parent has no more work, or has ended
        try:
            answer = (True, function(shared, item))
        except SemisegError as error:
            answer = (False, error)
        except Exception:
            answer = (False, traceback.format_exc())
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
