"""Digests of folders of a person's own files, kept in the workspace: a million images are not read again to find out
that none has changed.

A digest depends on the names and bytes of the files alone. It is taken again unless every file has the size, the times
and the number on its disk that it had, and was written some time before it was read.

    KnownFolders(Path("runs/default/.folders.json")).digest(Path("photos"))
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from functools import partial
from pathlib import Path

from pydantic import Field

from artifacts.canonical import pretty_json
from artifacts.in_threads import in_threads
from artifacts.item_list import ContentDigest, item_of
from artifacts.json_items import Shape, read_record

NAME = ".folders.json"
_SETTLED_S = 2.0  # a file that was written longer ago is not written again without its times changing


class _Known(Shape):
    state: str
    digest: str


class _Record(Shape):
    """.folders.json: what is known of each folder, by its path."""

    folders: dict[str, _Known] = Field(default_factory=dict)


class KnownFolders:
    """The digests of folders, as far as they are known.

    Attributes: threads (how many read the files).
    """

    def __init__(self, file: Path | None = None, threads: int = 1) -> None:
        """file: where the digests are kept; None: nowhere."""
        self._file, self.threads = file, threads
        self._taken: dict[str, _Known] = {}

    def digest(self, folder: Path) -> str:
        """The digest of {file name: SHA-256} of the files directly in it. OSError where one cannot be read."""
        place, begin = os.path.abspath(folder), time.time()
        state, newest = _state_of(folder)
        record = (read_record(self._file, _Record) if self._file is not None else None) or _Record()
        if (known := record.folders.get(place)) is not None and known.state == state:
            return known.digest
        found = self._read(folder)
        if newest < begin - _SETTLED_S:
            self._taken[place] = _Known(state=state, digest=found)
            self.keep()
        return found

    def _read(self, folder: Path) -> str:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if _is_file(entry))
        content = ContentDigest()
        for name, item in zip(names, in_threads(partial(item_of, folder), names, self.threads), strict=True):
            content.add(name, item)
        return content.hexdigest()

    def keep(self) -> None:
        """Writes down what was taken; called again when a workspace is there that was not made yet."""
        if self._file is None or not self._taken:
            return
        record = read_record(self._file, _Record) or _Record()
        temporary = self._file.with_name(f".tmp-{os.getpid()}{self._file.name}")
        with contextlib.suppress(OSError):  # no such folder yet, or nothing can be written in it
            folders = {**record.folders, **self._taken}
            temporary.write_text(pretty_json(_Record(folders=folders).model_dump()), encoding="utf-8")
            os.replace(temporary, self._file)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link may lead to itself: Path.is_file says no, where that of an entry is an error."""
    return Path(entry).is_file() if entry.is_symlink() else entry.is_file()


def _state_of(folder: Path) -> tuple[str, float]:
    """What shows whether a file was changed, without reading it; and when the last one was."""
    total, count, newest = 0, 0, 0.0
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_file(entry):
                found = entry.stat()
                facts = (entry.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
                # a sum, so that the files need not be sorted, nor be in memory together
                total += int.from_bytes(hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).digest())
                count, newest = count + 1, max(newest, found.st_mtime, found.st_ctime)
    return f"{count}:{total % 2**256:x}", newest
