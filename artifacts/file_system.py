"""What the file system of a workspace can do: tried before the first write, and told by how it is mounted.

Locks must exclude, and folders must be renamed as a whole; network disks and mounts of object stores differ in both.
docs/shared-disks.md says what is promised on which.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from artifacts.disk_errors import disk_error, disk_errors
from artifacts.errors import ArtifactError

PROBE = ".locks/.probe"
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a space or tab in the name of a mount
ELSEWHERE = "choose a workspace on a different disk (--workspace, SEMISEG_WORKSPACE); docs/shared-disks.md"

# Mount options with which a lock excludes the processes of one machine alone, by type of file system.
LOCAL_LOCKS = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "lustre": {"localflock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
}
WITH_LOCAL_LOCKS = {"fuse.sshfs"}  # whatever the options
OF_OBJECTS = {"fuse.s3fs", "fuse.goofys", "fuse.geesefs", "fuse.gcsfuse", "fuse.blobfuse", "fuse.blobfuse2"}
LOSING = {"fuse.rclone"}  # a file that is renamed while it is uploaded


@functools.cache
def check_file_system(folder: Path) -> None:
    """ArtifactError where a lock in the folder excludes nobody, or what is renamed does not stay whole.

    Tried once a process; of some disks it is known, and a trial does not show it.
    """
    refuse_losing(folder, _mount(folder))
    place = folder / f"{PROBE}-{socket.gethostname()}-{os.getpid()}"
    with disk_errors(folder):
        try:
            place.mkdir(parents=True, exist_ok=True)
            _try_lock(folder, place / "lock")
            _try_rename(folder, place)
        except OSError as error:
            if disk_error(error, folder) is not error:
                raise
            raise ArtifactError(f"{folder} cannot be written as a workspace is: {error}", ELSEWHERE) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)


def refuse_losing(folder: Path, mount: Mount | None) -> None:
    """ArtifactError for a folder of a mount that is known to lose files."""
    if mount is not None and mount.kind in LOSING:
        raise ArtifactError(
            f"{folder} is a mount of {mount.kind}, which loses files that are renamed while it uploads them", ELSEWHERE
        )


def _try_lock(folder: Path, file: Path) -> None:
    with open(file, "a+b") as first, open(file, "a+b") as second:  # as locks are
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArtifactError(f"{folder} cannot be locked: {error.strerror}", ELSEWHERE) from error
        with contextlib.suppress(OSError):
            fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
            raise ArtifactError(
                f"the locks of {folder} exclude nobody: two commands could write one artifact at a time", ELSEWHERE
            )


def _try_rename(folder: Path, place: Path) -> None:
    """As in publishing: a file over another one, a folder with a file in it."""
    before, after = place / "before", place / "after"
    before.mkdir()
    for name in ("new", "old"):
        (before / name).write_bytes(name.encode())
    try:
        os.replace(before / "new", before / "old")
        os.rename(before, after)
    except OSError as error:
        raise ArtifactError(f"nothing can be renamed in {folder}: {error.strerror}", ELSEWHERE) from error
    try:
        content = (after / "old").read_bytes()
    except OSError as error:
        raise ArtifactError(f"what is renamed in {folder} cannot be read: {error.strerror}", ELSEWHERE) from error
    if content != b"new":
        raise ArtifactError(f"what is renamed in {folder} does not stay whole", ELSEWHERE)


@dataclass(frozen=True)
class Mount:
    """How a folder is mounted: the type of the file system, and its options."""

    kind: str
    options: frozenset[str]


def mount_of(folder: Path, table: str) -> Mount | None:
    """The mount that holds the folder; table: the content of /proc/self/mountinfo (proc(5))."""
    best, found = -1, None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        place, kind = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4])), after.split()[0]
        if folder.is_relative_to(place) and len(place.parts) >= best:
            options = ",".join([before.split()[5], after.split()[-1]]).split(",")
            best, found = len(place.parts), Mount(kind, frozenset(options))
    return found


def remarks_on(folder: Path, mount: Mount | None, several_machines: bool) -> list[str]:
    """Sentences on what is not promised in a folder that is mounted like this."""
    if mount is None:
        return []
    found = []
    if mount.kind in OF_OBJECTS:
        found.append(
            f"{folder} is a mount of {mount.kind}: renames may be copies, and locks hold on this machine alone; let "
            "one command write there at a time, or write elsewhere and copy (docs/shared-disks.md)"
        )
    local = sorted(mount.options & LOCAL_LOCKS.get(mount.kind, frozenset()))
    if local or mount.kind in WITH_LOCAL_LOCKS:
        how = f"is mounted with {', '.join(local)}" if local else f"is a mount of {mount.kind}"
        found.append(
            f"{folder} {how}: its locks hold on this machine alone, so two machines could write one artifact at a time "
            "(docs/shared-disks.md)"
        )
    late = not mount.options & {"lookupcache=pos", "lookupcache=positive", "lookupcache=none", "noac"}
    if several_machines and mount.kind in ("nfs", "nfs4") and late:
        found.append(
            f"{folder} is mounted without lookupcache=positive: a machine may not see for a minute what another has "
            "written, and end with an error; the same command continues (docs/shared-disks.md)"
        )
    return found


def _mount(folder: Path) -> Mount | None:
    """The mount that holds the folder; None where the system does not tell."""
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return mount_of(folder.resolve(), table)


def remarks(folder: Path, several_machines: bool) -> list[str]:
    """What is not promised in this folder, by how it is mounted; [] where the system does not tell."""
    return remarks_on(folder, _mount(folder), several_machines)
