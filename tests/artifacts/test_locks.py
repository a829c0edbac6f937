"""artifacts/locks.py: writers and readers of one artifact, processes that die, probes for an instant."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from artifacts.errors import BusyError
from tests.artifacts.small_artifacts import make, python, work


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process after it printed its first line; killed at the end."""
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = """
with Workspace(path).writing("m", w) as writer:
    writer.write_bytes("x.txt", b"new")
    print("holding", flush=True)
    time.sleep(60)
"""


def test_two_writers_on_one_artifact(workspace):
    make(workspace, "m", "old")
    with running(python(HOLD, workspace.path)) as process:
        with pytest.raises(BusyError, match=f"being written by process {process.pid} on") as caught:
            make(workspace, "m")
        assert caught.value.exit_code == 4
        assert (workspace.holder("m") or {})["pid"] == process.pid
        assert workspace.artifact("m").file("x.txt").read_text() == "old"  # to look at it needs no lock
        with pytest.raises(BusyError), workspace.reading(["m"]):
            pass
        with pytest.raises(BusyError):
            workspace.remove("m")
        make(workspace, "other")
    assert workspace.holder("m") is None
    assert workspace.artifact("m").file("x.txt").read_text() == "old"
    with workspace.writing("m", work("b" * 64)) as writer:
        assert writer.has("x.txt")
        assert writer.resumed == 1


def test_a_writer_waits_for_no_reader(workspace):
    make(workspace, "m")
    reading = """
    with Workspace(path).reading(["m", "m"]) as found:
        print(found["m"].name, flush=True)
        time.sleep(60)
    """
    with running(python(reading, workspace.path)), workspace.reading(["m"]):  # readers share
        with pytest.raises(BusyError, match="in use as an input by another process"):
            make(workspace, "m", "two")
        assert workspace.holder("m") is None
    make(workspace, "m", "two")


def test_the_lock_dies_with_its_process_though_its_children_live(workspace):
    """A forked pool worker inherits the open lock file and outlives a killed parent: the artifact once stayed busy."""
    code = """
    with Workspace(path).writing("m", w) as writer:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)
    """
    process = python(code, workspace.path)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # alive
        deadline = time.monotonic() + 5  # the child closes its copy right after the fork
        while workspace.holder("m") is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        make(workspace, "m")
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_status_that_probes_a_lock_for_an_instant_makes_no_writer_busy(workspace):
    make(workspace, "m")
    probe = """
    import fcntl
    file = open(Path(path) / ".locks" / "m.lock", "rb")
    fcntl.flock(file, fcntl.LOCK_SH)
    print("probing", flush=True)
    time.sleep(0.1)
    file.close()
    time.sleep(60)
    """
    with running(python(probe, workspace.path)):
        make(workspace, "m", "two")


def test_a_writer_in_this_process_is_busy_too(workspace):
    with workspace.writing("m", work()), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        make(workspace, "m")
