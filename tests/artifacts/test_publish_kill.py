"""Publishing is whole or not at all, wherever the process dies.

Each test forks a child that dies, without any cleaning up, right before its n-th change of the file system, for every
n until it survives. The interpreter's audit events tell the changes; the store is not touched for the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError
from artifacts.provenance import made_by
from artifacts.store import Work, Workspace

ROOT = Path(__file__).parents[2]
made_by()  # asks git once; the forked children then know
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
DIED = -signal.SIGKILL


def work(fingerprint: str) -> Work:
    return Work("toy", 1, "masks", fingerprint * 64, {}, {}, {})


def make(workspace: Workspace, fingerprint: str, count: int = 2) -> list[str]:
    """Publishes `m` with `count` items; returns those it really wrote."""
    made = []
    with workspace.writing("m", work(fingerprint)) as writer:
        for index in range(count):
            if not writer.has(f"items/{index}.txt"):
                made.append(f"items/{index}.txt")
                writer.write_bytes(f"items/{index}.txt", f"{fingerprint} {index}".encode())
        (writer.scratch / "checkpoint").write_text("x")
        writer.advance()
        workspace.publish("m", writer, work(fingerprint), {})
    return made


def die_at(change: int, act: Callable[[], object]) -> bool:
    """Runs `act` in a child that dies before its `change`-th change of the file system; whether it died."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            writes = event in CHANGES or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY
            )
            if writes:
                seen += 1
                if seen == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(hook)
            act()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DIED)
    return status == DIED


def contents(workspace: Workspace) -> str:
    """The fingerprint letter of the artifact `m`, after checking that every byte of it is as published; "" if none."""
    try:
        artifact = workspace.artifact("m")
    except ArtifactError as error:
        assert "has no artifact 'm'" in error.message  # noqa: PT017  (reading may succeed, too)
        assert workspace.names() == []
        return ""
    assert artifact.verify() == []
    assert workspace.names() == ["m"]
    letter = artifact.manifest.fingerprint[0]
    assert artifact.file("items/0.txt").read_text() == f"{letter} 0"
    return letter


def clean(workspace: Workspace) -> bool:
    """Nothing is left of work and publish but the artifact and the lock files."""
    entries = {path.name for path in workspace.path.iterdir()}
    hidden = list(workspace.folder("m").rglob(".*")) if "m" in entries else []
    return entries <= {"m", ".locks"} and not hidden


@pytest.mark.parametrize("old", ["", "a"])
def test_dying_at_every_point_of_write_and_publish(tmp_path, old):
    change, seen = 0, set()
    while True:
        change += 1
        workspace = Workspace(tmp_path / str(change))
        if old:
            make(workspace, old)
        if not die_at(change, lambda: make(workspace, "b")):  # noqa: B023  (called at once, in this round)
            break
        if old:  # taking the shared lock first once kept the recovery from its exclusive one: "has no artifact"
            with workspace.reading(["m"]) as inputs:
                assert inputs["m"].verify() == []
        found = contents(workspace)
        assert found in (old, "b"), f"change {change}"
        if found == "b":  # a kill behind the last rename once left the scratch, gigabytes of a training, for good
            assert clean(workspace), sorted(workspace.path.rglob("*"))
        seen.add(found)
        finished = [p.name for folder in workspace.partials("m") for p in folder.glob("items/[0-9].txt")]
        made = make(workspace, "b")
        if found != "b":
            assert sorted(made) == [f"items/{i}.txt" for i in range(2) if f"{i}.txt" not in finished]
        assert contents(workspace) == "b"
        assert clean(workspace), sorted(workspace.path.rglob("*"))
        assert workspace.artifact("m").manifest.content == expected(tmp_path)
    assert change > 20
    assert seen == {old, "b"}


def expected(tmp_path: Path) -> str:
    whole = Workspace(tmp_path / "whole")
    if not whole.path.exists():
        make(whole, "b")
    return whole.artifact("m").manifest.content


def test_dying_again_while_recovering(tmp_path):
    """A second death at every point of the recovery, which a mere look at the artifact begins."""
    change, deaths, states = 0, 0, set()
    while True:
        change += 1
        probe = Workspace(tmp_path / f"{change}")
        make(probe, "a")
        if not die_at(change, lambda: make(probe, "b")):  # noqa: B023  (called at once, in this round)
            break
        state = frozenset(path.name for path in probe.path.iterdir())
        if not probe._unsettled("m") or state in states:
            continue
        states.add(state)
        again = 0
        while True:
            again += 1
            workspace = Workspace(tmp_path / f"{change}-{again}")
            subprocess.run(["cp", "-a", probe.path, workspace.path], check=True)
            if not die_at(again, lambda: workspace.artifact("m")):  # noqa: B023  (called at once, in this round)
                break
            deaths += 1
            assert contents(workspace) == "b"
            with workspace.reading(["m"]) as found:
                assert found["m"].verify() == []
            assert make(workspace, "c") == ["items/0.txt", "items/1.txt"]
            assert contents(workspace) == "c"
            assert clean(workspace)
    assert len(states) == 3  # .new beside the old one, .new and .old, .old beside the new one
    assert deaths > 10


def test_dying_at_every_point_of_a_removal(tmp_path):
    change, seen = 0, set()
    while True:
        change += 1
        workspace = Workspace(tmp_path / str(change))
        make(workspace, "a")
        if not die_at(change, lambda: workspace.remove("m")):  # noqa: B023  (called at once, in this round)
            break
        seen.add(contents(workspace))
        make(workspace, "b")
        assert contents(workspace) == "b"
        assert clean(workspace)
    assert seen == {"a", ""}


def test_kills_at_random_moments_while_others_read():
    """The short form of `python -m tests.stress`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress", "--rounds", "20", "--seed", "1", "--seconds", "4", "--toy-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 torn, 0 redone" in done.stdout
