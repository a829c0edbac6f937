"""artifacts/store.py: names, items, locks, full disks, read-only folders, unfinished work."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError, BusyError
from artifacts.store import Artifact, Work, Workspace, Writer

ROOT = Path(__file__).parents[2]


def work(fingerprint: str = "a" * 64) -> Work:
    return Work("toy", 1, "masks", fingerprint, {}, {}, {})


def make(workspace: Workspace, name: str = "m", text: str = "one", fingerprint: str = "a" * 64) -> Artifact:
    with workspace.writing(name, work(fingerprint)) as writer:
        writer.write_bytes("x.txt", text.encode())
        return workspace.publish(name, writer, work(fingerprint), {})


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code` with the workspace's path as `path`."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom artifacts.store import *\npath = sys.argv[1]\n"
    body = f"w = Work('toy', 1, 'masks', 'b' * 64, {{}}, {{}}, {{}})\n{textwrap.dedent(code)}"
    return subprocess.Popen(
        [sys.executable, "-c", head + body, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Such a process after it printed its first line; killed at the end."""
    process = python(code, *arguments)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


# --- names ---


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "a/b", "../x", "/x", "a\\b", " a", "a ", "a\n", "a\0b", "-rf", "*", "a*", "[a]", "x" * 101],
)
def test_names_that_could_escape_or_confuse_are_refused(workspace, name):
    for act in (workspace.artifact, workspace.partials, workspace.folder, workspace.remove, workspace.holder):
        with pytest.raises(ArtifactError, match="cannot name an artifact"):
            act(name)
    with pytest.raises(ArtifactError, match="cannot name"), workspace.writing(name, work()):
        pass
    with pytest.raises(ArtifactError, match="cannot name"), workspace.reading([name]):
        pass
    assert not workspace.path.exists()


@pytest.mark.parametrize("name", ["m", "seeds-v1.2", "2007_x", "größe", "a.partial", "b.old"])
def test_plain_names_work(workspace, name):
    make(workspace, name)
    assert workspace.names() == [name]
    assert workspace.artifact(name).name == name


@pytest.mark.parametrize("relative", ["", "/etc/x", "../x", "a/../../x", "a\\x", "manifest.json", ".hidden", "a/.b/c"])
def test_items_cannot_leave_the_folder_or_take_names_of_the_store(workspace, relative):
    with workspace.writing("m", work()) as writer:
        with pytest.raises(ArtifactError, match=r"leaves the artifact|name of the store"):
            writer.write_bytes(relative, b"x")
        assert sorted(p.name for p in writer.path.iterdir()) == [".scratch", ".work.json"]
    artifact = make(workspace, "n")
    for outside in ("../m/x.txt", "/etc/passwd"):
        with pytest.raises(ArtifactError, match="leaves the artifact"):
            artifact.file(outside)


def test_work_of_one_name_is_not_taken_for_work_of_a_longer_one(workspace):
    """`.a.*.partial` once matched the unfinished work of `a.b`: cleaning `a` deleted it."""
    with workspace.writing("a.b", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    with workspace.writing("a", work()):
        pass
    assert [p.name for p in workspace.partials("a")] == [".a.aaaaaaaaaaaa.partial"]
    workspace.discard_partials("a")
    workspace.remove("a")
    assert workspace.leftovers() == {"a.b": workspace.partials("a.b")}
    assert (workspace.partials("a.b")[0] / "x.txt").exists()


# --- items and unfinished work ---


def test_an_item_is_there_whole_or_not_at_all(workspace):
    with workspace.writing("m", work()) as writer:

        def broken() -> None:
            with writer.item("a/x.bin") as temporary:
                temporary.write_bytes(b"half")
                assert temporary.suffix == ".bin"
                assert not writer.has("a/x.bin")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            broken()
        assert not writer.has("a/x.bin")
        assert list((writer.path / "a").iterdir()) == []
        writer.write_bytes("a/x.bin", b"whole")
        assert writer.has("a/x.bin")


def test_an_error_of_another_file_inside_an_item_is_not_taken_for_the_disk(workspace, tmp_path):
    (tmp_path / "there").mkdir()
    for other, expected in ((tmp_path / "nothing", FileNotFoundError), (tmp_path / "there", IsADirectoryError)):
        with workspace.writing("m", work()) as writer, pytest.raises(expected) as caught, writer.item("x.txt"):
            other.read_bytes()
        assert caught.value.__cause__ is None


def test_unfinished_work_is_continued_and_counted(workspace):
    for run in range(3):
        with workspace.writing("m", work()) as writer:
            assert writer.resumed == run
            assert [writer.has(f"{i}.txt") for i in range(3)] == [i < run for i in range(3)]
            writer.write_bytes(f"{run}.txt", b"x")
            writer.scratch.joinpath("state").write_text("s")
    with workspace.writing("m", work()) as writer:
        assert (writer.scratch / "state").exists()
        artifact = workspace.publish("m", writer, work(), {})
    assert artifact.manifest.resumed == 3
    assert sorted(p.name for p in artifact.path.iterdir()) == ["0.txt", "1.txt", "2.txt", "manifest.json"]
    assert workspace.leftovers() == {}


def test_work_with_other_settings_keeps_the_first_partial_work(workspace):
    with workspace.writing("m", work("a" * 64)) as writer:
        writer.write_bytes("x.txt", b"first")
    make(workspace, "m", "second", "b" * 64)
    with workspace.writing("m", work("a" * 64)) as writer:
        assert writer.has("x.txt")
        assert (writer.path / "x.txt").read_bytes() == b"first"


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"started": 1}', '{"started": "x", "seconds": "y", "runs": 1}', "\0"]
)
def test_a_record_torn_by_a_kill_does_not_lose_the_work(workspace, record):
    """Publishing after a kill inside the record's write once failed with FileNotFoundError."""
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    (writer.path / ".work.json").write_text(record)
    with workspace.writing("m", work()) as writer:
        assert writer.has("x.txt")
        artifact = workspace.publish("m", writer, work(), {})
    assert artifact.manifest.started.startswith("20")


def test_temporary_files_of_a_killed_run_are_dropped(workspace):
    with workspace.writing("m", work()) as writer:
        (writer.path / "a").mkdir()
        (writer.path / "a" / ".tmp-1-x.txt").write_text("half")
    with workspace.writing("m", work()) as writer:
        assert not list(writer.path.rglob("*x.txt"))


def test_progress_is_shown_while_unfinished(workspace):
    assert workspace.progress("m", "a" * 64) is None
    with workspace.writing("m", work()) as writer:
        assert workspace.progress("m", "a" * 64) == {"done": 0, "total": None}
        writer.expect(3)
        writer.advance_to(3)
        assert workspace.progress("m", "a" * 64) == {"done": 3, "total": 3}
        (writer.path / ".progress.json").write_text("[")
        assert workspace.progress("m", "a" * 64) == {"done": 0, "total": None}


def test_json_items_refuse_what_json_cannot_hold(workspace):
    with workspace.writing("m", work()) as writer:
        writer.write_json("a.json", {"b": [1, None], "a": "é"})
        assert json.loads((writer.path / "a.json").read_text()) == {"a": "é", "b": [1, None]}
        for value in ({"x": float("nan")}, {"x": {1}}, {"x": Path("p")}):
            with pytest.raises(ArtifactError, match=r"b\.json cannot be written as JSON"):
                writer.write_json("b.json", value)
        assert not writer.has("b.json")


def test_a_json_item_is_read_back_by_the_run_that_continues(workspace):
    value = {"a": [1, None, "é"], "b": 0.1}
    with workspace.writing("m", work()) as writer:
        writer.write_json("part/x.json", value)
        assert writer.read_json("part/x.json") == value
    with workspace.writing("m", work()) as writer:
        assert writer.read_json("part/x.json") == value
        with pytest.raises(ArtifactError, match="leaves the artifact folder"):
            writer.read_json("../x.json")


def test_a_summary_that_is_not_json_stops_the_publish_before_it_begins(workspace):
    make(workspace, "m", "old")
    with workspace.writing("m", work("b" * 64)) as writer:
        writer.write_bytes("x.txt", b"new")
        with pytest.raises(ArtifactError, match=r"summary\.a is a set"):
            workspace.publish("m", writer, work("b" * 64), {"a": {1}})
    assert workspace.artifact("m").file("x.txt").read_text() == "old"
    assert not (writer.path / "manifest.json").exists()
    with workspace.writing("m", work("b" * 64)) as writer:
        artifact = workspace.publish("m", writer, work("b" * 64), {"iou": [0.5, float("nan")]})
    assert artifact.summary == {"iou": [0.5, None]}
    assert artifact.file("x.txt").read_text() == "new"


def test_a_persons_own_folder_with_the_name_is_never_overwritten(workspace):
    own = workspace.path / "m"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("years")
    with pytest.raises(ArtifactError, match=r"is not an artifact .* not overwritten"):
        make(workspace, "m")
    with pytest.raises(ArtifactError, match="not overwritten"):
        workspace.remove("m")
    assert (own / "thesis.txt").read_text() == "years"
    (own / "thesis.txt").unlink()
    make(workspace, "m")  # an empty folder may be filled


def test_a_link_to_an_artifact_is_replaced_and_its_target_kept(workspace, tmp_path):
    target = make(Workspace(tmp_path / "other"), "m", "linked").path
    workspace.path.mkdir(parents=True)
    (workspace.path / "m").symlink_to(target)
    assert workspace.artifact("m").file("x.txt").read_text() == "linked"
    make(workspace, "m", "mine", "b" * 64)
    make(workspace, "m", "again", "c" * 64)
    assert workspace.artifact("m").file("x.txt").read_text() == "again"
    assert (target / "x.txt").read_text() == "linked"


def test_missing_artifacts_and_items_are_named(workspace):
    with pytest.raises(ArtifactError, match="has no artifact 'm'") as caught:
        workspace.artifact("m")
    assert caught.value.hint == "it has: nothing yet"
    with workspace.writing("m", work()):
        pass
    make(workspace, "n")
    with pytest.raises(ArtifactError, match="only unfinished work") as caught:
        workspace.artifact("m")
    assert caught.value.hint == "it has: n"
    with pytest.raises(ArtifactError, match=r"'n' \(masks\) has no y\.txt"):
        workspace.artifact("n").file("y.txt")
    (workspace.folder("n") / "x.txt").write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.txt is damaged"):
        workspace.artifact("n").json("x.txt")


def test_reading_from_a_mistyped_workspace_does_not_create_it(tmp_path):
    with pytest.raises(ArtifactError, match="has no artifact"), Workspace(tmp_path / "tpyo").reading(["m"]):
        pass
    assert not (tmp_path / "tpyo").exists()


def test_a_file_where_the_workspace_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="a file is where a folder should be"):
        make(Workspace(tmp_path / "file"))


def test_remove_and_leftovers(workspace):
    make(workspace, "m")
    with workspace.writing("m", work("b" * 64)):
        pass
    assert list(workspace.leftovers()) == ["m"]
    assert workspace.discard_leftovers("m") == [workspace.partial_folder("m", "b" * 64)]
    assert workspace.names() == ["m"]
    workspace.remove("m")
    assert workspace.names() == []
    assert sorted(p.name for p in workspace.path.iterdir()) == [".locks"]


def test_a_worker_that_outlives_its_process_begins_no_new_unfinished_work(workspace):
    with workspace.writing("m", work()) as writer:
        workspace.publish("m", writer, work(), {})
        with pytest.raises(ArtifactError, match="published or removed meanwhile"):
            writer.write_bytes("masks/x.txt", b"late")
    assert workspace.leftovers() == {}
    assert workspace.artifact("m").verify() == []


# --- locks ---

HOLD = """
with Workspace(path).writing("m", w) as writer:
    writer.write_bytes("x.txt", b"new")
    print("holding", flush=True)
    time.sleep(60)
"""


def test_two_writers_on_one_artifact(workspace):
    make(workspace, "m", "old")
    with running(HOLD, workspace.path) as process:
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
    with running(reading, workspace.path), workspace.reading(["m"]):  # readers share
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
    with running(probe, workspace.path):
        make(workspace, "m", "two")


def test_a_writer_in_this_process_is_busy_too(workspace):
    with workspace.writing("m", work()), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        make(workspace, "m")


# --- full disks, limits, permissions ---


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def write_all(workspace: Workspace, size: int = 64 * 1024) -> tuple[Artifact, int]:
    made = 0
    with workspace.writing("m", work()) as writer:
        for index in range(8):
            if not writer.has(f"{index}.bin"):
                writer.write_bytes(f"{index}.bin", bytes([index]) * size)
                made += 1
        return workspace.publish("m", writer, work(), {}), made


def test_a_full_disk_is_told_nothing_is_lost_and_work_continues(small_disk):
    workspace = Workspace(small_disk / "runs")
    old = make(workspace, "old", "keep")
    (small_disk / "ballast").write_bytes(b"\0" * 700 * 1024)
    with pytest.raises(ArtifactError, match="the disk is full") as caught:
        write_all(workspace)
    assert "finished items are kept" in (caught.value.hint or "")
    (partial,) = workspace.partials("m")
    kept = sorted(partial.glob("*.bin"))
    assert 0 < len(kept) < 8
    assert all(len(set(path.read_bytes())) == 1 and path.stat().st_size == 64 * 1024 for path in kept)
    assert old.verify() == []
    (small_disk / "ballast").unlink()
    artifact, made = write_all(workspace)
    assert made == 8 - len(kept)
    assert artifact.verify() == []
    assert artifact.manifest.content == write_all(Workspace(small_disk.parent / "whole"))[0].manifest.content


def test_a_disk_that_is_full_from_the_start_or_at_publish(small_disk):
    workspace = Workspace(small_disk / "runs")
    make(workspace, "m", "old")
    with workspace.writing("m", work("b" * 64)) as writer:
        writer.write_bytes("x.txt", b"new")
        fill(small_disk / "ballast")
        with pytest.raises(ArtifactError, match="the disk is full"):
            workspace.publish("m", writer, work("b" * 64), {"long": "x" * 50_000})
        assert workspace.artifact("m").file("x.txt").read_text() == "old"
    with pytest.raises(ArtifactError, match="the disk is full"):
        make(workspace, "m", "x" * 10_000, "c" * 64)
    assert workspace.artifact("m").file("x.txt").read_text() == "old"
    (small_disk / "ballast").unlink()
    with workspace.writing("m", work("b" * 64)) as writer:
        assert writer.has("x.txt")
        workspace.publish("m", writer, work("b" * 64), {})
    assert workspace.artifact("m").file("x.txt").read_text() == "new"


def test_libraries_that_hide_the_error_number_of_a_full_disk(small_disk):
    """torch raises RuntimeError for a write that failed; the disk itself then tells why."""
    workspace = Workspace(small_disk / "runs")
    with workspace.writing("m", work()) as writer:
        fill(small_disk / "ballast")
        with pytest.raises(ArtifactError, match="the disk is full"), writer.item("x.pt"):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        (small_disk / "ballast").unlink()
        with pytest.raises(RuntimeError, match="shapes"), writer.item("x.pt"):
            raise RuntimeError("shapes differ")


def test_a_file_size_limit_is_told(workspace):
    code = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with Workspace(path).writing("m", w) as writer:
        writer.write_bytes("small.bin", b"1" * 10_000)
        try:
            writer.write_bytes("large.bin", b"1" * 100_000)
        except Exception as error:
            print(type(error).__name__, error.message)
    """
    assert resource.RLIM_INFINITY  # the limit is set in the child alone
    out, err = python(code, workspace.path).communicate(timeout=60)
    assert out.startswith("ArtifactError"), err
    assert "file size limit" in out
    (partial,) = workspace.partials("m")
    assert [p.name for p in partial.glob("*.bin")] == ["small.bin"]


def test_a_read_only_workspace_can_be_read_and_says_that_it_cannot_be_written(small_disk):
    workspace = Workspace(small_disk / "runs")
    make(workspace, "m", "one")
    for name in ("locked", "never-locked"):
        make(workspace, name)
    (workspace.path / ".locks" / "never-locked.lock").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with workspace.reading(["m", "never-locked"]) as found:
        assert found["m"].verify() == []
    for name in ("m", "new"):
        with pytest.raises(ArtifactError, match="cannot be written: Read-only file system"):
            make(workspace, name)
    with pytest.raises(ArtifactError, match="cannot be written"):
        workspace.remove("m")
    assert workspace.names() == ["locked", "m", "never-locked"]


def test_a_folder_without_permission(workspace):
    code = """
    if os.geteuid() == 0:  # root may write everywhere
        os.setegid(65534)
        os.seteuid(65534)
    try:
        with Workspace(path).writing("m", w):
            pass
    except Exception as error:
        print(type(error).__name__, error.message)
    """
    workspace.path.mkdir(parents=True)
    workspace.path.chmod(0o500)
    out, err = python(code, workspace.path).communicate(timeout=60)
    workspace.path.chmod(0o700)
    assert "ArtifactError" in out, err
    assert "cannot be written: Permission denied" in out


def test_a_writer_of_another_rank_leaves_the_first_ones_files_alone(workspace):
    with workspace.writing("m", work()) as first:
        with first.item("x.txt") as temporary:
            temporary.write_text("x")
            Writer(first.path).write_bytes("y.txt", b"y")
        assert first.has("x.txt")
        assert first.has("y.txt")


def test_the_time_of_a_killed_run_is_counted(tmp_path, monkeypatch):
    """The first writer is left as a SIGKILL leaves it: nothing of it runs any more."""
    clock = [100.0]
    monkeypatch.setattr("artifacts.store.time.monotonic", lambda: clock[0])
    killed = Writer(tmp_path / ".a.0123456789ab.partial")
    killed._continue()
    killed.expect(3)
    clock[0] += 7.0
    killed.advance()
    again = Writer(killed.path)
    again._continue()
    clock[0] += 2.0
    assert again.seconds == 9.0
    assert again.resumed == 1
