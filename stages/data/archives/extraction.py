"""The folder in a tar archive, extracted whole or not at all, and nothing that a member could smuggle past it.

tarfile's `data` filter stands behind checks of our own: it strips the root off absolute names instead of refusing them,
and Python releases before June 2025 let chains of links pass it (CVE-2025-4517, CVE-2025-4330, CVE-2025-4138).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from artifacts.errors import DataError
from stages.contract import Progress
from stages.data.archives.disk import check_space, every_disk_error, size_of
from stages.data.archives.files import EXTRACTED_MARK, check_whole, is_extracted, write_record
from stages.data.archives.megabytes import Megabytes, megabytes
from stages.data.archives.published import Archive

MOST_BYTES = 16 * 1024**3  # in one archive, extracted: eight times VOC 2012
MOST_MEMBERS = 500_000  # VOC 2012 has about 40,000
MOST_AT_ONCE = 16 * 1024**2  # in one read of a tar: only a header that lies asks for more


def extract(
    archive: Archive,
    file: Path,
    folder: Path,
    progress: Progress,
    most_bytes: int = MOST_BYTES,
    most_members: int = MOST_MEMBERS,
) -> Path:
    """`folder / archive.unpacks_to`, extracted whole or not at all from `file` (tar, plain or gzip) unless it is there.

    Call inside `alone`. Files are not forced to the disk one by one: that takes longer than to extract again after a
    power cut.

    Raises DataError for a file with another digest, a damaged archive, one with more than `most_bytes` bytes or
    `most_members` members, a member that would land outside or is neither file nor folder nor link, a folder of the
    same name that was not extracted here, and a disk that is too small; ArtifactError as `fetch`.
    """
    target = folder / archive.unpacks_to
    if is_extracted(archive, folder):
        return target
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python cannot extract safely", "use Python 3.11.4 or newer")
    check_whole(archive, file, progress)
    check_space(folder, min(_unpacked_bytes(file), most_bytes), f"extracting {file.name}")
    partial = folder / f".{archive.file}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        with every_disk_error(partial):
            partial.mkdir()
            kept = PurePosixPath(archive.unpacks_to)
            members = _Extraction(file, partial.resolve(), kept, most_bytes, most_members).run(progress)
            whole = partial / kept
            write_record(whole / EXTRACTED_MARK, {"file": archive.file, "digest": archive.digest, "members": members})
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(whole, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _is_gzip(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _unpacked_bytes(file: Path) -> int:
    """About how much an archive holds. gzip ends with the size of what it holds, modulo 4 GiB (RFC 1952)."""
    with every_disk_error(file), open(file, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size < 18 or not _is_gzip(file):
            return size
        stream.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", stream.read(4))[0])


@dataclass(frozen=True)
class _Extraction:
    """The members of `file` that lie in its folder `kept`, written below `root`. DataError for what is not trusted."""

    file: Path
    root: Path  # without links in its own path
    kept: PurePosixPath
    most_bytes: int
    most_members: int

    def run(self, progress: Progress) -> int:
        """Extracts; returns the number of members."""
        headers = 4096 * (self.most_members + 1)  # a header, a long name and padding for each
        with open(self.file, "rb") as raw, self._megabytes(progress) as count:
            stream = gzip.GzipFile(fileobj=raw) if _is_gzip(self.file) else raw
            bounded: Any = _BoundedStream(stream, self.file, self.most_bytes + headers)
            try:
                with tarfile.open(fileobj=bounded, mode="r:") as tar:
                    members = self._extract_all(tar, lambda: count.reach(raw.tell()))
            except tarfile.FilterError as error:
                _refuse(self.file, str(error))
            except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
                raise DataError(f"{self.file} is damaged: {error}", "delete it and download it again") from error
        if not (self.root / self.kept).is_dir():
            _refuse(self.file, f"it holds no folder {self.kept}")
        return members

    def _megabytes(self, progress: Progress) -> contextlib.AbstractContextManager[Megabytes]:
        return megabytes(progress, size_of(self.file), f"extracting {self.file.name}")

    def _extract_all(self, tar: tarfile.TarFile, advance: Callable[[], None]) -> int:
        members = total = 0
        for member in tar:
            members, total = members + 1, total + member.size
            if members > self.most_members:
                _refuse(self.file, f"it has more than {self.most_members:,} members")
            if total > self.most_bytes:
                _refuse(self.file, f"it holds more than {self.most_bytes:,} bytes")
            if problem := self._problem(member):
                _refuse(self.file, f"its member {member.name!r} {problem}")
            if PurePosixPath(member.name).is_relative_to(self.kept):
                tar.extract(member, self.root, filter="data")
            advance()
        return members

    def _problem(self, member: tarfile.TarInfo) -> str | None:
        """What is wrong with a member, or None.

        A link may point up, not further than to the folder that is kept, and from there down without ".." in between;
        and nothing may lie behind a link. So no chain of links leads out, in whatever order its links appear.
        """
        path = PurePosixPath(member.name)
        if path.is_absolute():
            return "has an absolute name"
        if ".." in path.parts:
            return "has '..' in its name"
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            return "is a device, a pipe or of an unknown kind"
        if member.size < 0:
            return f"has a size of {member.size} bytes"
        if os.path.realpath(self.root / path.parent) != str(self.root / path.parent):
            return "lies behind a link"
        if not self._stays_inside(member, path):
            return f"is a link that leaves the folder: {member.linkname!r}"
        return None

    def _stays_inside(self, member: tarfile.TarInfo, path: PurePosixPath) -> bool:
        """Whether a link stays inside; anything but a link does."""
        target = PurePosixPath(member.linkname)
        if member.issym():
            up = next((index for index, part in enumerate(target.parts) if part != ".."), len(target.parts))
            depth = len(path.parent.parts) - len(self.kept.parts)
            return not target.is_absolute() and up <= depth and ".." not in target.parts[up:]
        return not member.islnk() or (target.is_relative_to(self.kept) and ".." not in target.parts)


class _BoundedStream:
    """A tar's bytes as tarfile wants them; refuses to go further than `most` bytes, whatever the headers say."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, file: Path, most: int) -> None:
        self.stream, self.file, self.most = stream, file, most

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            _refuse(self.file, f"one of its headers says that it is {size:,} bytes long")
        self._check(self.stream.tell() + size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def _check(self, position: int) -> None:
        if position > self.most:
            _refuse(self.file, f"it holds more than {self.most:,} bytes")


def _refuse(file: Path, what: str) -> NoReturn:
    raise DataError(f"{file} is not extracted: {what}", "nothing was written; get the archive from another source")
