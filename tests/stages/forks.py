"""Work in copies of this process, which need not load torch again: two ranks, and one that is killed."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import forkserver

_context = multiprocessing.get_context("fork")


def _begun(act: Callable[..., object], *given: object) -> None:
    """In a copy, which is not the parent of the server of processes that this one may have started."""
    forkserver._forkserver.__init__()
    act(*given)


def as_ranks(act: Callable[[int], object], ranks: int, seconds: float = 60) -> list[int | None]:
    """Runs `act(rank)` in as many processes, and waits for all of them; their exit codes."""
    children = [_context.Process(target=_begun, args=(act, rank)) for rank in range(ranks)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(child.exitcode is None for child in children):
        time.sleep(0.02)
    for child in children:
        child.kill()  # where it goes on
        child.join()
    return [child.exitcode for child in children]


def by_two_processes(act: Callable[[], object], seconds: float = 500) -> None:
    """Runs `act` in two processes that are told what torchrun tells: their ranks, and where they meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank: int) -> None:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} | meeting)
        act()

    children = [_context.Process(target=_begun, args=(ranked, rank)) for rank in range(2)]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(c.is_alive() for c in children) and not any(c.exitcode for c in children):
        time.sleep(0.02)
    for child in children:
        child.kill()  # where the other one failed
        child.join()
    assert [child.exitcode for child in children] == [0, 0]  # what they raised stands in the captured output


def killed_when(enough: Callable[[], object], act: Callable[[], object], seconds: float = 120) -> bool:
    """Runs `act` in a process that gets SIGKILL once there is `enough`; False if it ended before."""
    child = _context.Process(target=act)
    child.start()
    end = time.monotonic() + seconds
    while child.is_alive():
        reached = enough()
        if reached or time.monotonic() > end:
            child.kill()
            child.join()
            return bool(reached)
        time.sleep(0.002)
    return False
