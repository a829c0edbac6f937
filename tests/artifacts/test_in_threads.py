"""Threads give what one gives, in order; after an error nothing new is begun."""

from __future__ import annotations

import threading

import pytest

from artifacts.artifact import Artifact
from artifacts.in_threads import AT_A_TIME, in_threads
from artifacts.item_list import MOST_IN_MANIFEST, list_items
from artifacts.store import Workspace
from tests.artifacts.small_artifacts import work


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_results_come_in_order(threads):
    items = range(5 * AT_A_TIME + 3)
    assert list(in_threads(lambda number: number * number, items, threads)) == [number * number for number in items]
    assert list(in_threads(str, [], threads)) == []


def test_items_are_taken_as_they_are_needed():
    taken, before = 0, set(threading.enumerate())

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    found = in_threads(str, endless(), 2)
    assert [next(found) for _ in range(3)] == ["1", "2", "3"]
    assert taken <= 6 * AT_A_TIME
    found.close()
    assert set(threading.enumerate()) <= before


def test_an_error_ends_the_work():
    begun = []

    def fail(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise OSError(5, "Input/output error", "c.png")
        return number

    with pytest.raises(OSError, match=r"c\.png"):
        list(in_threads(fail, range(100 * AT_A_TIME), 2))
    assert len(begun) < 50 * AT_A_TIME


@pytest.mark.parametrize("count", [3, MOST_IN_MANIFEST + 40])
def test_threads_publish_and_verify_what_one_thread_does(tmp_path, count):
    artifacts = []
    for threads in (1, 3):
        workspace = Workspace(tmp_path / str(threads))
        with workspace.writing("toy", work()) as writer:
            for number in range(count):
                writer.write_bytes(f"items/{number}", str(number).encode())
            artifacts.append(workspace.publish("toy", writer, work(), {}, workers=threads))
    one, several = artifacts
    assert several.manifest.content == one.manifest.content
    assert several.manifest.items == one.manifest.items
    assert dict(several.items) == list_items(one.path)
    assert several.verify(3) == []
    (several.path / "items/2").write_bytes(b"3")
    (several.path / "items/1").unlink()
    (several.path / "added").write_bytes(b"")
    found = ["items/1 is missing", "added was added", "items/2 was changed"]
    assert Artifact(several.path).verify(3) == Artifact(several.path).verify() == found
