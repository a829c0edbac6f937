"""artifacts/file_system.py: locks that exclude nobody, folders that cannot be renamed, and what mounts tell."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError
from artifacts.file_system import Mount, check_file_system, mount_of, refuse_losing, remarks, remarks_on
from artifacts.store import Workspace
from tests.artifacts.small_artifacts import make

TABLE = r"""22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw,relatime - nfs4 server:/home rw,vers=4.2,local_lock=none,lookupcache=pos
31 30 0:41 / /home/old\040data rw,relatime shared:9 master:1 - nfs server:/old rw,vers=3,nolock,local_lock=all
32 22 0:42 / /mnt/bucket rw,nosuid - fuse.s3fs s3fs rw,user_id=0
33 22 0:43 / /scratch rw - lustre mds:/scratch rw,localflock
34 22 0:44 / /far rw,nosuid - fuse.sshfs me@far:/runs rw,user_id=0
"""


def test_a_local_disk_passes_and_keeps_nothing_of_the_trial(tmp_path):
    check_file_system(tmp_path)
    assert [*tmp_path.rglob("*")] == [tmp_path / ".locks"]
    assert remarks(tmp_path, several_machines=True) == []


def test_a_lock_that_excludes_nobody_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)
    with pytest.raises(ArtifactError, match="exclude nobody: two commands could write one artifact") as caught:
        make(Workspace(tmp_path), "m")
    assert "shared-disks.md" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArtifactError, match="cannot be locked: Function not implemented"):
        check_file_system(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE, errno.EXDEV])
def test_folders_that_cannot_be_renamed_are_an_error(tmp_path, monkeypatch, number):
    """As on mounts of object stores: a folder is a prefix of many names there."""

    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ArtifactError, match=f"nothing can be renamed in {tmp_path}: {os.strerror(number)}"):
        make(Workspace(tmp_path), "m")
    assert [*(tmp_path / ".locks").iterdir()] == []


def test_a_folder_that_cannot_be_read_once_it_is_renamed_is_an_error(tmp_path, monkeypatch):
    """As on a mount of rclone that has not uploaded the files yet."""
    read = Path.read_bytes

    def refuse(path):
        if path.parent.name == "after":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ArtifactError, match=f"what is renamed in {tmp_path} cannot be read: Input/output error"):
        make(Workspace(tmp_path), "m")


def test_a_mount_that_loses_files_is_refused():
    """One of rclone passed the trial, and masks that were written were not there afterwards."""
    folder = Path("/mnt/remote/runs")
    with pytest.raises(ArtifactError, match=f"{folder} is a mount of fuse.rclone, which loses files") as caught:
        refuse_losing(folder, Mount("fuse.rclone", frozenset()))
    assert "shared-disks.md" in (caught.value.hint or "")
    for mount in (None, Mount("ext4", frozenset()), Mount("fuse.sshfs", frozenset())):
        refuse_losing(folder, mount)


def test_any_failure_of_the_trial_is_told(tmp_path, monkeypatch):
    """On a mount of rclone without a cache, which opens no file twice at a time, it ended with a traceback."""

    def refuse(file, mode="r"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ArtifactError, match=f"{tmp_path} cannot be written as a workspace is: .*No such file"):
        check_file_system(tmp_path)


@pytest.mark.parametrize(
    ("folder", "kind", "option"),
    [
        ("/var/runs", "ext4", "relatime"),
        ("/home/me/runs", "nfs4", "lookupcache=pos"),
        ("/home/old data/runs", "nfs", "nolock"),
        ("/home/older", "nfs4", "local_lock=none"),
        ("/mnt/bucket", "fuse.s3fs", "nosuid"),
    ],
)
def test_the_mount_that_holds_a_folder_is_found(folder, kind, option):
    found = mount_of(Path(folder), TABLE)
    assert found.kind == kind
    assert option in found.options


@pytest.mark.parametrize(
    ("folder", "several", "said"),
    [
        ("/var", True, []),
        ("/home", True, []),
        ("/home/old data", False, ["local_lock=all, nolock: its locks hold on this machine alone"]),
        ("/home/old data", True, ["its locks hold on this machine alone", "without lookupcache=positive"]),
        ("/mnt/bucket", False, ["a mount of fuse.s3fs: renames may be copies"]),
        ("/scratch", False, ["mounted with localflock: its locks hold on this machine alone"]),
        ("/far", False, ["a mount of fuse.sshfs: its locks hold on this machine alone"]),
    ],
)
def test_what_a_mount_does_not_promise_is_said(folder, several, said):
    found = remarks_on(Path(folder), mount_of(Path(folder), TABLE), several)
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))


def test_nothing_is_said_of_what_is_not_known():
    assert remarks_on(Path("/a"), None, True) == []
    assert remarks_on(Path("/a"), Mount("zfs", frozenset()), True) == []
    assert mount_of(Path("/a"), "") is None


def test_a_mount_whose_name_is_not_plain_is_found() -> None:
    table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /mnt/größere\\040platte rw - fuse.rclone r: rw\n"
    assert mount_of(Path("/mnt/größere platte/runs"), table) == Mount("fuse.rclone", frozenset({"rw"}))
