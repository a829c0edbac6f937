"""Work in a pool on tasks that are made one after the other, such as results that a GPU has just computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from stages.parallel.processes import preload, process_pool

Result = TypeVar("Result")
WAITING = 4  # tasks made in advance for each process


def results_in_order(
    function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """function(*task) for every task, in the order of the tasks; with one worker, in this process.

    `function` is a module-level function. Tasks are made as processes become free, a few in advance for each process.
    """
    if workers <= 1:
        for task in tasks:
            yield function(*task)
        return
    preload([function.__module__])
    pool = process_pool(workers)
    try:
        yield from in_order(pool, function, tasks, WAITING * workers)
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: Executor, function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], most: int
) -> Iterator[Result]:
    """function(*task) for every task, by a pool, in the order of the tasks; at most `most` wait for one another."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(function, *task))
        while waiting and (waiting[0].done() or len(waiting) >= most):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
