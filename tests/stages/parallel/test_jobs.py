from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.parallel.jobs import CHUNK, WAITING, Jobs

IDS = [str(number) for number in range(40)]


def test_every_image_is_worked_on_once_and_counted():
    seen: list[str] = []
    counts: list[int] = []

    def work(ids):
        seen.extend(ids)
        return len(ids)

    with ThreadPoolExecutor(1) as pool:
        jobs = Jobs(pool, counts.append)
        jobs.submit(work, IDS)
        jobs.submit(work, [])
        jobs.finish()
    assert seen == IDS
    assert counts == [CHUNK, CHUNK, len(IDS) - 2 * CHUNK]


def test_no_more_portions_wait_than_the_bound():
    go, begun = threading.Event(), []

    def wait(ids):
        begun.append(ids)
        go.wait()
        return len(ids)

    with ThreadPoolExecutor(1) as pool:
        jobs = Jobs(pool, lambda count: None)
        jobs.submit(wait, [""] * CHUNK * WAITING)
        late = threading.Thread(target=jobs.submit, args=(wait, [""]))
        late.start()
        late.join(0.2)
        assert late.is_alive()  # one too many: it waits for the first
        assert len(begun) == 1
        go.set()
        late.join()
        jobs.finish()
    assert len(begun) == WAITING + 1


def test_the_first_error_ends_the_work():
    def fail(ids):
        raise ValueError(ids[0])

    def all_of_them(jobs):
        jobs.submit(fail, IDS)
        jobs.finish()

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="0"):
        all_of_them(Jobs(pool, lambda count: None))
