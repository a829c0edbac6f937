"""The files of an archive on disk, and which of them are complete: small records remember what was checked.

a.tar                       whole and checked; one copied there by hand is checked and used
a.tar.verified              size, time and digest of that file, so that it is hashed once
FOLDER/.extracted.json      in the extracted folder: from which archive it comes
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts import json_items
from artifacts.canonical import pretty_json
from artifacts.errors import DataError
from stages.contract import Progress
from stages.data.archives.disk import every_disk_error, size_of
from stages.data.archives.megabytes import megabytes
from stages.data.archives.published import Archive

BLOCK = 1 << 20  # bytes a read
EXTRACTED_MARK = ".extracted.json"


def check_whole(archive: Archive, file: Path, progress: Progress) -> None:
    """DataError unless the file has the archive's size and digest. It is hashed once: a record remembers."""
    try:
        seen = as_verified(archive, file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "download it again") from None
    if read_record(verified_of(file)) == seen:
        return
    wrong = f"{file} is not {archive.file} of {archive.name}"
    cure = "delete it or move it away, then run the same command again"
    if archive.bytes not in (None, seen["size"]):
        raise DataError(f"{wrong}: it has {seen['size']:,} bytes, expected {archive.bytes:,}", cure)
    found = file_digest(archive, file, progress)
    if found != archive.digest:
        raise DataError(f"{wrong}: its digest is {found}, expected {archive.digest}", cure)
    with contextlib.suppress(OSError):  # a folder that cannot be written: then it is hashed each time
        write_record(verified_of(file), seen)


def verified_of(file: Path) -> Path:
    """The record of what was checked."""
    return file.with_name(f"{file.name}.verified")


def as_verified(archive: Archive, file: Path) -> dict[str, Any]:
    """The record by which a file with the right digest is distinguished from one that was changed since."""
    stat = file.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": archive.digest}


def file_digest(archive: Archive, file: Path, progress: Progress) -> str:
    """ "md5:..." of the file, by the algorithm of the archive's digest."""
    algorithm = archive.digest.partition(":")[0]
    state = hashlib.new(algorithm, usedforsecurity=False)
    total = file.stat().st_size
    with (
        every_disk_error(file),
        open(file, "rb") as stream,
        megabytes(progress, total, f"checking {archive.file}") as count,
    ):
        while block := stream.read(BLOCK):
            state.update(block)
            count.reach(stream.tell())
    return f"{algorithm}:{state.hexdigest()}"


def is_extracted(archive: Archive, folder: Path) -> bool:
    """Whether the extracted folder is there and whole. DataError for a folder that was not extracted by semiseg."""
    target = folder / archive.unpacks_to
    mark = read_record(target / EXTRACTED_MARK)
    if mark.get("digest") == archive.digest:
        return True
    with every_disk_error(target):
        vacant = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    if not vacant:
        known = "file" in mark and "digest" in mark
        what = f"comes from {mark['file']} ({mark['digest']})" if known else f"has no whole {EXTRACTED_MARK}"
        raise DataError(
            f"{target} exists, but was not extracted from {archive.file} here: it {what}",
            "give it as source instead of downloading, or move it away",
        )
    return False


def bytes_needed(archive: Archive, folder: Path, size: int) -> int:
    """The disk space that an archive of `size` bytes still needs: the rest of it, and its content.

    A gzipped one is taken to hold half as much again: JPEG and compressed .mat files hardly shrink.
    """
    if read_record(folder / archive.unpacks_to / EXTRACTED_MARK):
        return 0
    there = size_of(folder / archive.file) or size_of(folder / f"{archive.file}.part")
    return max(size - there, 0) + (size if archive.file.endswith(".tar") else size * 3 // 2)


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON record; a missing or damaged one counts as empty."""
    return json_items.read_record(path, json_items.Anything) or {}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(pretty_json(dict(record)), encoding="utf-8")
    os.replace(temporary, path)
