"""The lock on an archive in a folder: who downloads or extracts it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from artifacts.errors import BusyError, DataError
from stages.data.archives.disk import every_disk_error
from stages.data.archives.published import Archive


@contextlib.contextmanager
def alone(archive: Archive, folder: Path) -> Iterator[None]:
    """One process at a time works on an archive in a folder. The lock dies with its process."""
    path = folder / f".{archive.file}.lock"
    with every_disk_error(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by the next line)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"{archive.file} in {folder} is being downloaded or extracted by process {lock.read().decode() or '?'}",
                "wait for it; the same command then finds it done, or continues it",
            ) from None
        except OSError as error:
            raise DataError(
                f"{folder} cannot be locked: {error.strerror}", "choose a folder on a file system with flock"
            ) from None
        with contextlib.suppress(OSError):  # the number is for people
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        yield
