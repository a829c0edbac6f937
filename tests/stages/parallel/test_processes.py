"""The pool: same results, errors as they are, and the name of the image at which a process died."""

from __future__ import annotations

import os
import signal
import time

import pytest

from artifacts.errors import DataError, SemisegError
from stages.parallel.processes import map_in_processes, process_pool

ITEMS = [f"image{number:02d}" for number in range(20)]


def _length(shared: int, item: str) -> int:
    return shared + len(item)


def _crash(shared: str, item: str) -> int:
    if item == shared:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _fail(shared: type[Exception], item: str) -> int:
    if item == "image07":
        raise shared(f"cannot read {item}")
    return 0


def _sleep(shared: float, item: str) -> int:
    time.sleep(shared)
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_item_once(workers: int) -> None:
    found = dict(map_in_processes(_length, 100, ITEMS, workers))
    assert found == {item: 100 + len(item) for item in ITEMS}
    assert list(map_in_processes(_length, 0, [], workers)) == []


@pytest.mark.parametrize("count", [2, 3, 5])
def test_fewer_items_than_the_processes_could_hold(count: int) -> None:
    # once all went to the first process, and the parent waited for ever for the others
    assert len(dict(map_in_processes(_length, 0, ITEMS[:count], 4))) == count


def test_work_is_spread_over_other_processes() -> None:
    pids = {pid for _, pid in map_in_processes(_sleep, 0.01, ITEMS, 2)}
    assert len(pids) == 2
    assert os.getpid() not in pids


def _threads(shared: None, item: str) -> int:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((300, 300)) @ np.ones((300, 300))
    return max(library["num_threads"] for library in threadpool_info())


def test_each_process_computes_with_one_thread() -> None:
    assert {threads for _, threads in map_in_processes(_threads, None, ITEMS[:4], 2)} == {1}


@pytest.mark.parametrize("victim", ["image00", "image11", "image19"])
def test_a_process_that_dies_names_its_image(victim: str) -> None:
    with pytest.raises(SemisegError, match=rf"working on '{victim}' was killed by signal 9 \(SIGKILL\)") as caught:
        list(map_in_processes(_crash, victim, ITEMS, 2))
    assert "memory" in str(caught.value.hint)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_a_person_can_mend_arrives_unchanged(workers: int) -> None:
    with pytest.raises(DataError, match=r"^cannot read image07$"):
        list(map_in_processes(_fail, DataError, ITEMS, workers))


def test_any_other_error_names_the_image_and_the_line() -> None:
    with pytest.raises(RuntimeError, match=r"image07:\n[\s\S]*ZeroDivisionError: cannot read image07"):
        list(map_in_processes(_fail, ZeroDivisionError, ITEMS, 2))


def test_leaving_early_ends_the_processes() -> None:
    results = map_in_processes(_sleep, 0.01, ITEMS, 2)
    _, pid = next(results)
    results.close()
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process still runs")


# --- pools whose work carries arrays: seeds, CRF, pseudo labels ---


def test_results_and_errors_of_a_pool_arrive_as_they_are() -> None:
    with process_pool(2) as pool:
        assert list(pool.map(_length, [100] * 3, ITEMS)) == [107] * 3
        with pytest.raises(DataError, match=r"^cannot read image07$"):
            pool.submit(_fail, DataError, "image07").result()


@pytest.mark.parametrize("victim", ["image00", "image19"])
def test_a_pool_of_which_a_process_was_killed_says_so_and_that_memory_may_be_short(victim: str) -> None:
    with process_pool(2) as pool:
        answers = [pool.submit(_crash, victim, item) for item in ITEMS]
        with pytest.raises(SemisegError, match=r"a process of the pool was killed by signal 9 \(SIGKILL\)") as caught:
            [answer.result() for answer in answers]
        assert "memory" in str(caught.value.hint)
        with pytest.raises(SemisegError, match="was killed by signal 9"):
            pool.submit(_length, 0, "late")


def test_the_work_that_waits_in_a_pool_is_dropped_on_request() -> None:
    pool = process_pool(1)
    answers = [pool.submit(_sleep, 0.2, item) for item in ITEMS]
    assert answers[0].result()
    pool.shutdown(cancel_futures=True)
    assert answers[-1].cancelled()
