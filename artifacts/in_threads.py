"""Work on many files in threads: reading and hashing let other threads run.

for item in in_threads(read, names, threads=4):
    ...  # read(name) of each name, in order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")
MOST = 8  # more threads wait for the interpreter
AT_A_TIME = 16  # items of one task: handing over a task takes longer than reading a small file


def in_threads(function: Callable[[Given], Result], items: Iterable[Given], threads: int) -> Iterator[Result]:
    """function(item) of every item, in order; few items wait for one another. With one thread, in this one.

    The first error ends the work: what is begun is ended, and nothing else is begun.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    rest, waiting = iter(items), deque[Future[list[Result]]]()
    pool = ThreadPoolExecutor(min(threads, MOST))
    try:
        while some := list(islice(rest, AT_A_TIME)):
            waiting.append(pool.submit(lambda task: list(map(function, task)), some))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
