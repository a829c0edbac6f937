"""Locks of artifacts and archives: `flock`, which ends with its process. Writers exclude everybody, readers share.

lock = artifact_lock(Path("runs/default"), "data")
with lock.held(exclusive=True):     # BusyError while somebody else holds it
    ...
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, BusyError
from artifacts.json_items import Count, Shape, Text, parse_json
from artifacts.provenance import utc_now

MAX_RECORD = 1 << 20  # bytes that are read of a lock file
PATIENCE_S = 0.25  # `status` probes a lock for an instant, which a writer must not report as busy

# A forked child inherits the open lock files, and a lock lasts until the last copy is closed: orphans of a killed
# process (pool and loader workers) would keep its locks. So every child closes its copies.
_held_locks: set[IO[bytes]] = set()


def _close_inherited_locks() -> None:
    for file in _held_locks:
        file.close()
    _held_locks.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)


class Holder(Shape):
    """The content of the file of an exclusive lock."""

    pid: Count
    host: str
    since: str
    argv: list[Text]


@dataclass(frozen=True)
class Lock:
    """A lock on something in a folder; docs/formats.md (3) specifies its file.

    Attributes:
        folder: a workspace, or a folder of archives; made where it is missing.
        file: the lock's file in that folder.
        what: what is locked, in words.
        doing: what the writer does to it.
        cure: what to do while somebody else holds it.
    """

    folder: Path
    file: Path
    what: str
    doing: str
    cure: str

    def holder(self) -> dict[str, Any] | None:
        """The process that holds it exclusively ({"pid", "host", "since", "argv"}), or None."""
        try:
            with open(self.file, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    with contextlib.suppress(ArtifactError):
                        holder = parse_json(file.read(MAX_RECORD), Holder, str(self.file))
                        return holder.model_dump(exclude_unset=True)
                    return {}
        except OSError:
            return None
        return None

    @contextlib.contextmanager
    def held(self, exclusive: bool, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Holds the lock while the block runs; a reader holds none if the workspace is read-only.

        Raises BusyError, which names the holder, if it is not free within `patience_s` seconds, and ArtifactError when
        the lock file cannot be written or locked.
        """
        file = self._open(exclusive)
        if file is None:
            yield
            return
        _held_locks.add(file)
        try:
            self._flock(file, exclusive, patience_s)
            if exclusive:
                record = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now(), "argv": sys.argv}
                with contextlib.suppress(OSError):  # for messages only: a full disk is reported at the first item
                    file.truncate(0)
                    file.write(json.dumps(record).encode())
            yield
        finally:
            _held_locks.discard(file)
            file.close()

    def _open(self, exclusive: bool) -> IO[bytes] | None:
        """The open lock file; None for a reader of a folder in which nothing can be written."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return open(self.file, "a+b", buffering=0)
        except OSError as error:
            if not exclusive and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                with contextlib.suppress(OSError):
                    return open(self.file, "rb", buffering=0)
                return None
            with disk_errors(self.folder):
                raise

    def _flock(self, file: IO[bytes], exclusive: bool, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
            except OSError as error:
                raise ArtifactError(
                    f"{self.folder} cannot be locked: {error.strerror}",
                    "choose a folder on a file system with flock",
                ) from error
            raise self._busy()

    def _busy(self) -> BusyError:
        holder = self.holder()
        doing = (
            "in use as an input by another process"
            if holder is None
            else f"being {self.doing} by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
            f"since {holder.get('since', '?')}"
        )
        return BusyError(f"{self.what} is {doing}", self.cure)


def artifact_lock(workspace: Path, name: str) -> Lock:
    """The lock of the artifact `name` of a workspace."""
    return Lock(
        workspace,
        workspace / ".locks" / f"{name}.lock",
        f"artifact {name!r} of {workspace}",
        "written",
        "wait for it, or write under another name (--name)",
    )
