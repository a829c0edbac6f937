"""The disk that archives are written to: its free space, and clear errors for its failures."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from artifacts.disk_errors import disk_errors
from artifacts.errors import DataError


def check_space(folder: Path, needed: int, what: str) -> None:
    """DataError unless the disk of `folder`, which may not exist yet, has so many bytes free."""
    with every_disk_error(folder):
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{what} needs {in_gb(needed)} in {folder}, {in_gb(free)} are free",
            f"free {in_gb(needed - free)}, or choose a folder on another disk",
        )


def in_gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def size_of(path: Path) -> int:
    """Bytes of a file, 0 for one that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def every_disk_error(target: Path) -> Iterator[None]:
    """Turns errors such as a full disk or a read-only folder into clear ones, also those `disk_errors` lets pass."""
    try:
        with disk_errors(target):
            yield
    except OSError as error:
        raise DataError(f"{target} cannot be used: {error.strerror or error}", "choose another folder") from error
