"""The same work for every image of a data set, in several processes; errors of single images are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from artifacts.errors import DataError
from artifacts.text import SHOWN, amount
from stages.parallel.processes import map_in_processes, preload

Shared = TypeVar("Shared")
Result = TypeVar("Result")


def for_each_image(
    function: Callable[[Shared, Any], Result],
    shared: Shared,
    ids: Sequence[str],
    workers: int,
    carry: Callable[[str], Any] | None = None,
) -> Iterator[tuple[str, Result]]:
    """(id, function(shared, id)) as the results become ready; see `map_in_processes` for the arguments.

    A DataError does not stop the work: the remaining images are processed, and at the end one DataError gives the
    number of images that failed and the reasons for the first few.
    """
    errors: dict[str, DataError] = {}
    preload([function.__module__])
    for image_id, result in map_in_processes(_attempt, (function, shared), ids, workers, carry):
        if isinstance(result, DataError):
            errors[image_id] = result
        else:
            yield image_id, result
    if not errors:
        return
    first = [errors[image_id] for image_id in sorted(errors)[:SHOWN]]
    if len(errors) == 1:
        raise first[0]
    shown = "\n".join(f"  {error.message}" for error in first)
    more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    hints = list(dict.fromkeys(error.hint for error in first if error.hint))
    cures = [hint for hint in hints if not any(hint != longer and hint in longer for longer in hints)]
    raise DataError(f"{amount(len(errors), 'image')} cannot be used:\n{shown}{more}", "; ".join(cures) or None)


def _attempt(task: tuple[Callable[[Shared, Any], Result], Shared], item: Any) -> Result | DataError:
    function, shared = task
    try:
        return function(shared, item)
    except DataError as error:
        return error
