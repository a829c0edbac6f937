"""Clear messages for errors of the disk: full, read-only, without permission, or a file that is too large.

with disk_errors(path):
    path.write_bytes(data)          # ArtifactError: the disk is full: ... could not be written
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from artifacts.errors import ArtifactError


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Gives disk errors in the block a clear message; `target` is what it writes. All other errors pass unchanged."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        mended = disk_error(error, target)
        if mended is error:
            raise
        raise mended from error


def disk_error(error: Exception, target: Path) -> Exception:
    """A clear error for a full disk or a read-only folder; any other error unchanged."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT) or (code is None and _is_full(error, target)):
        return ArtifactError(
            f"the disk is full: {target} could not be written",
            "free some space and run the same command again: finished items are kept and it continues",
        )
    named = getattr(error, "filename", None)
    if isinstance(named, str | bytes):
        path = Path(os.fsdecode(named))
        if not (path.is_relative_to(target) or path in target.parents or path.parent == target.parent):
            # the error is about a file that was read, not about `target`
            return error
    if code == errno.EFBIG:
        return ArtifactError(f"{target} could not be written: it exceeds the file size limit", "raise it: ulimit -f")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "name a folder elsewhere" if code == errno.EROFS else "check the permissions"
        return ArtifactError(f"{target} cannot be written: {os.strerror(code)}", hint)
    if code in (errno.ENOTDIR, errno.EEXIST):
        return ArtifactError(f"{target} cannot be made: a file is where a folder should be", "choose another folder")
    if code == errno.EISDIR:
        return ArtifactError(f"{target} cannot be written: a folder is where a file should be", f"remove {named}")
    return error


def _is_full(error: Exception, target: Path) -> bool:
    """HDF5 and torch report a failed write without an error number: then the free space of the disk decides."""
    if "No space left" in str(error):
        return True
    try:
        return isinstance(error, OSError | RuntimeError) and shutil.disk_usage(target.parent).free < 64 * 1024
    except OSError:
        return False
