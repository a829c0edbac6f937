"""Work spread over processes, results in order, errors of single items gathered."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from artifacts.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16  # items a process takes at a time
SHOWN = 5  # items named in a message before "and n more"


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) for each item, in order, computed in `workers` processes.

    `function` must be picklable. A DataError stops nothing: the other items are still done, and when all are
    done one DataError tells how many failed and why the first few did.
    """
    errors: list[DataError] = []
    attempt = partial(_attempt, function)
    if workers <= 1 or len(items) <= CHUNK:
        yield from _good(items, map(attempt, items), errors)
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
            yield from _good(items, pool.map(attempt, items, chunksize=CHUNK), errors)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "\n".join(f"  {error.message}" for error in errors[:SHOWN])
        more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise DataError(f"{len(errors)} files are wrong:\n{shown}{more}", errors[0].hint)


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | DataError:
    try:
        return function(item)
    except DataError as error:
        return error


def _good(
    items: Sequence[Item], results: Iterator[Result | DataError], errors: list[DataError]
) -> Iterator[tuple[Item, Result]]:
    for item, result in zip(items, results, strict=True):
        if isinstance(result, DataError):
            errors.append(result)
        else:
            yield item, result


def named(ids: Sequence[str]) -> str:
    """The first few ids and how many more: "a, b, c, d, e and 7 more"."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
