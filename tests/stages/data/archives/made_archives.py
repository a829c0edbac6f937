"""What tests of downloads and extractions share: archives of their own, progress that remembers, processes that die."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stages.data.archives.published import Archive

ROOT = Path(__file__).parents[4]


@dataclass
class Seen:
    """Progress that remembers: notes, and for each task [description, unit, total, done]."""

    notes: list[str] = field(default_factory=list)
    tasks: list[list[Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[Any]:
        task = [description, unit, total, done]
        self.tasks.append(task)

        class Task:
            def advance(self, count: int = 1, **fields: Any) -> None:
                task[3] += count

        yield Task()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def said(self) -> str:
        return "\n".join(self.notes)


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def archive_of(data: bytes, *urls: str, bytes: int | None = -1, file: str = "a.tar", to: str = "kit") -> Archive:
    return Archive("kit", file, urls, len(data) if bytes == -1 else bytes, md5(data), to)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], zipped: bool = False, **options: Any) -> Archive:
    """A tar of these members, below kit or anywhere; its archive record."""
    with tarfile.open(path, "w:gz" if zipped else "w", **options) as tar:
        for member, data in members:
            member.size = len(data) if member.isreg() else member.size
            tar.addfile(member, io.BytesIO(data) if data else None)
    return archive_of(path.read_bytes(), file=path.name)


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in changes.items():
        setattr(member, key, value)
    return member, data


FOLDER = entry("kit", kind=tarfile.DIRTYPE, mode=0o755)
GOOD = (FOLDER, entry("kit/a.txt", b"alpha"), entry("kit/deep/er/b.txt", b"beta"), entry("README", b"not kept"))


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - free, free))


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own: `site` and `folder` are its arguments, `Dying` a progress that kills at the nth advance."""
    head = """
    import os, resource, signal, sys
    from contextlib import contextmanager
    from pathlib import Path
    from stages.contract import PlainProgress
    from stages.data.archives.download import alone, fetch
    from stages.data.archives.extraction import extract
    from stages.data.archives.published import Archive
    folder, address, digest = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    archive = Archive("kit", "a.tar", (address + "/a.tar",), None, digest, "kit")

    class Dying(PlainProgress):
        @contextmanager
        def track(self, total, description, unit="images", done=0):
            class Task:
                left = int(sys.argv[4]) if description.startswith(sys.argv[5]) else 10 ** 9
                def advance(self, count=1, **fields):
                    self.left -= count
                    if self.left <= 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            yield Task()
    """
    text = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
