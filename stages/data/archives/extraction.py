"""The folder in a published tar archive, extracted whole or not at all.

The archives are those of published.py, and their digest is checked before they are opened: what they hold is known, so
no bounds are set on its size, and tarfile's `data` filter is enough for names, links and rights.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from artifacts.errors import DataError
from stages.contract import Progress
from stages.data.archives.disk import check_space, every_disk_error, size_of
from stages.data.archives.files import EXTRACTED_MARK, check_whole, is_extracted, write_record
from stages.data.archives.megabytes import megabytes
from stages.data.archives.published import Archive


def extract(archive: Archive, file: Path, folder: Path, progress: Progress) -> Path:
    """`folder / archive.unpacks_to`, extracted whole or not at all from `file` (tar, plain or gzip) unless it is there.

    Call inside `alone`. Files are not forced to the disk one by one: that takes longer than to extract again after a
    power cut.

    Raises DataError for a file with another digest, a damaged archive, a folder of the same name that was not
    extracted here, and a disk that is too small; ArtifactError as `fetch`.
    """
    target = folder / archive.unpacks_to
    if is_extracted(archive, folder):
        return target
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python cannot extract safely", "use Python 3.11.4 or newer")
    check_whole(archive, file, progress)
    check_space(folder, _unpacked_bytes(file), f"extracting {file.name}")
    partial = folder / f".{archive.file}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        with every_disk_error(partial):
            partial.mkdir()
            members = _extract_all(file, partial, PurePosixPath(archive.unpacks_to), progress)
            whole = partial / archive.unpacks_to
            write_record(whole / EXTRACTED_MARK, {"file": archive.file, "digest": archive.digest, "members": members})
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(whole, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _unpacked_bytes(file: Path) -> int:
    """About how much an archive holds. gzip ends with the size of what it holds, modulo 4 GiB (RFC 1952)."""
    with every_disk_error(file), open(file, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if size < 18 or stream.read(2) != b"\x1f\x8b":
            return size
        stream.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", stream.read(4))[0])


def _extract_all(file: Path, root: Path, kept: PurePosixPath, progress: Progress) -> int:
    """Writes the members of `file` that lie in its folder `kept` below `root`; returns the number of all members."""
    members = 0
    try:
        with (
            open(file, "rb") as raw,
            megabytes(progress, size_of(file), f"extracting {file.name}") as count,
            tarfile.open(fileobj=raw, mode="r:*") as tar,
        ):
            for members, member in enumerate(tar, start=1):  # noqa: B007 -- the number of the last one is returned
                if PurePosixPath(member.name).is_relative_to(kept):
                    tar.extract(member, root, filter="data")
                count.reach(raw.tell())
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}", "delete it and download it again") from error
    if not (root / kept).is_dir():
        raise DataError(f"{file} is not extracted: it holds no folder {kept}", "get the archive from another source")
    return members
