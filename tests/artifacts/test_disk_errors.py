"""artifacts/disk_errors.py: full disks, limits, read-only folders and missing permissions, as the store meets them."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from pathlib import Path

import pytest

from artifacts.disk_errors import disk_error
from artifacts.errors import ArtifactError
from artifacts.store import Artifact, Workspace
from tests.artifacts.small_artifacts import make, python, work


@pytest.fixture
def small_disk(small_disk) -> Path:
    """A file system of 1 MiB."""
    return small_disk("1m")


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


def test_a_file_where_the_workspace_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="a file is where a folder should be"):
        make(Workspace(tmp_path / "file"))


def test_an_error_of_another_file_inside_an_item_is_not_taken_for_the_disk(workspace, tmp_path):
    (tmp_path / "there").mkdir()
    for other, expected in ((tmp_path / "nothing", FileNotFoundError), (tmp_path / "there", IsADirectoryError)):
        with workspace.writing("m", work()) as writer, pytest.raises(expected) as caught, writer.item("x.txt"):
            other.read_bytes()
        assert caught.value.__cause__ is None


def test_a_disk_that_is_read_only_is_no_matter_of_permissions():
    error = disk_error(OSError(errno.EROFS, os.strerror(errno.EROFS), "w/a.png"), Path("w/a.png"))
    assert isinstance(error, ArtifactError)
    assert (error.message, error.hint) == (
        "w/a.png cannot be written: Read-only file system",
        "name a folder elsewhere",
    )
