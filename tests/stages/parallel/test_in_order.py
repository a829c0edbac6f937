"""stages/parallel/in_order.py: results in the order of the tasks, which are made while others run."""

from __future__ import annotations

import os
import time

import pytest

from artifacts.errors import DataError
from stages.parallel.in_order import WAITING, results_in_order


def work(number: int, seconds: float) -> tuple[int, int, str | None]:
    time.sleep(seconds)
    return number, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def refuse(number: int) -> int:
    if number == 2:
        raise DataError("number 2 is damaged")
    return number


def test_slow_tasks_do_not_change_the_order():
    tasks = ((number, 0.2 if number == 0 else 0.0) for number in range(12))
    found = list(results_in_order(work, tasks, 2))
    assert [number for number, _, _ in found] == list(range(12))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {"1"}


def test_one_worker_is_this_process():
    found = list(results_in_order(work, ((number, 0.0) for number in range(3)), 1))
    assert {process for _, process, _ in found} == {os.getpid()}


def test_tasks_are_made_a_few_ahead_only():
    """A boundary map of each of a million images does not fit into the memory."""
    made = []

    def tasks():
        for number in range(100):
            made.append(number)
            yield number, 0.0

    results = results_in_order(work, tasks(), 2)
    for done in range(1, 20):
        next(results)
        assert len(made) <= done + 2 * WAITING
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_ends_the_work(workers):
    results = results_in_order(refuse, ((number,) for number in range(20)), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="number 2 is damaged"):
        next(results)
