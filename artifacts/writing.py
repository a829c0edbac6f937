"""Work that is not published yet: written item by item into a hidden partial folder, and continued after a kill.

Each item is written under a temporary name and then renamed by `os.replace`, so every item is whole. Small records next
to the items hold which work it is, its progress and its time; publishing drops them (see artifacts/store.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, overload

from artifacts.canonical import write_pretty_json
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError
from artifacts.item_list import ITEMS_NAME, LOCAL, MANIFEST_NAME, check_relative
from artifacts.json_items import Anything, Count, Seconds, Shape, Text, read_json, read_record, shaped
from artifacts.manifest import InputRecord
from artifacts.provenance import utc_now

SCRATCH = ".scratch"
PROGRESS = ".progress.json"
RECORD = ".work.json"
ASKED = ".asked.json"
TEMPORARY = ".tmp-"
_LAST = (MANIFEST_NAME, ITEMS_NAME)  # written by publishing

T = TypeVar("T")


class _Asked(Shape):
    """.asked.json: the work, and the command line of its last run."""

    work: Anything
    argv: list[Text]


class _Progress(Shape):
    """.progress.json: units of work done and planned."""

    done: Count
    total: Count | None


class _Runs(Shape):
    """.work.json: when the first run began, and how long and how often it was worked on."""

    started: str
    seconds: Seconds
    runs: Count


@dataclass(frozen=True)
class Work:
    """What is about to be made: everything a manifest needs before the work starts."""

    stage: str
    stage_version: int
    kind: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, InputRecord]
    externals: dict[str, str]


@dataclass(frozen=True)
class Unfinished:
    """Work that was cut off, by the records in its folder; None and [] for what they lack."""

    folder: Path
    work: Work | None
    argv: list[str]  # the command line of its last run
    done: int
    total: int | None
    seconds: float | None  # wall time of its runs
    written: str  # when it last advanced: UTC, ISO 8601


class Writer:
    """Writes one artifact into its hidden partial folder. Made by `Workspace.writing`.

    Attributes:
        path: the partial folder; items live at `path / relative`.
        scratch: a folder for the writer's own use (resume checkpoints), dropped at publish.
        resumed: how many earlier runs of the same work were cut off.
    """

    def __init__(self, path: Path, reports: bool = True) -> None:
        self.path = path
        self._reports = reports
        self.scratch = path / SCRATCH
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.resumed = 0
        self.started = utc_now()
        self._seconds_before = 0.0
        self._begin = time.monotonic()
        self._done = 0
        self._total: int | None = None
        self._last_report = float("-inf")

    @property
    def seconds(self) -> float:
        """Wall time of this run and of the earlier, cut off ones, in seconds."""
        return self._seconds_before + time.monotonic() - self._begin

    def has_work(self) -> bool:
        """Whether there is anything to continue from: an item, or something in `scratch`."""
        for path in self.path.rglob("*"):
            first, *rest = path.relative_to(self.path).parts
            parts = rest if first == SCRATCH else (first, *rest)
            visible = parts and first not in (LOCAL, *_LAST) and not any(p.startswith(".") for p in parts)
            if visible and path.is_file():
                return True
        return False

    def take_over(self, work: Work) -> None:
        """Takes over what an earlier, killed run left: its count and time; drops its temporary files."""
        for leftover in self.path.rglob(f"*{TEMPORARY}*"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
        for name in _LAST:  # killed before the first rename of publish
            (self.path / name).unlink(missing_ok=True)
        if self.has_work():
            self._take_over_record()
        self._save_record()
        self._replace(ASKED, {"work": asdict(work), "argv": list(sys.argv)})

    def _take_over_record(self) -> None:
        if earlier := read_record(self.path / RECORD, _Runs):  # a damaged record counts as none
            self.started, self._seconds_before, self.resumed = earlier.started, earlier.seconds, earlier.runs

    def _save_record(self) -> None:
        self._replace(RECORD, {"started": self.started, "seconds": self.seconds, "runs": self.resumed + 1})

    def _replace(self, name: str, record: Mapping[str, Any]) -> None:
        temporary = self.path / f"{TEMPORARY}{os.getpid()}{name}"
        temporary.write_text(json.dumps(record))
        os.replace(temporary, self.path / name)

    def _target(self, relative: str) -> Path:
        first = PurePosixPath(check_relative(relative)).parts[0]
        if first in _LAST or (first != SCRATCH and any(p.startswith(".") for p in relative.split("/"))):
            raise ArtifactError(f"{relative!r} is a name of the store, an item cannot have it")
        if not self.path.is_dir():  # a worker that outlived its killed process must not begin new unfinished work
            raise ArtifactError(f"{self.path} is gone: the work was published or removed meanwhile")
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def has(self, relative: str) -> bool:
        """Whether an item is already whole, written by this run or by an earlier one that was cut off."""
        return (self.path / check_relative(relative)).is_file()

    def discard(self) -> None:
        """Deletes the unfinished work; the writer is of no further use."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def item(self, relative: str) -> Iterator[Path]:
        """A temporary path that becomes the item when the block ends without an error.

        The temporary name keeps the item's suffix, since writers choose formats by it.
        """
        with stays(self.path), disk_errors(self.path / relative):
            target = self._target(relative)
            temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
            with _removed_at_end(temporary), disk_errors(target):  # free space is checked while the file is still there
                yield temporary
                os.replace(temporary, target)

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.item(relative) as temporary:
            temporary.write_bytes(data)

    def write_json(self, relative: str, value: Any) -> None:
        """A JSON item. NaN and infinity are refused, since they are not JSON; `null` means "no value"."""
        with self.item(relative) as temporary:
            try:
                write_pretty_json(temporary, value)
            except (TypeError, ValueError) as error:
                raise ArtifactError(f"{relative} cannot be written as JSON: {error}") from error

    @overload
    def read_json(self, relative: str) -> dict[str, Any]: ...

    @overload
    def read_json(self, relative: str, shape: type[T]) -> T: ...

    def read_json(self, relative: str, shape: Any = Anything) -> Any:
        """A JSON item written before, by this run or by an earlier one that was cut off."""
        path = self.path / check_relative(relative)
        return read_json(path, shape, f"delete {path} and run the same command again: it makes that part once more")

    def expect(self, total: int) -> None:
        """Sets the number of all units of work; shown by `status` as "partial 412/1464"."""
        self._total = total
        self.report(force=True)

    def advance(self, count: int = 1) -> None:
        self.advance_to(self._done + count)

    def advance_to(self, done: int) -> None:
        self._done = done
        self.report(force=done == self._total)

    def report(self, force: bool = False) -> None:
        """Saves how far the work is, at most once a second unless forced."""
        if not self._reports or (not force and time.monotonic() - self._last_report < 1.0):
            return
        self._last_report = time.monotonic()
        with contextlib.suppress(OSError):  # progress is for people only; a full disk is reported at the next item
            self._replace(PROGRESS, {"done": self._done, "total": self._total})
            self._save_record()  # otherwise the time of a killed run would be lost


@contextlib.contextmanager
def stays(folder: Path) -> Iterator[None]:
    """ArtifactError if somebody removes `folder` while the block writes into it."""
    try:
        yield
    except FileNotFoundError:
        if folder.is_dir():
            raise
        raise ArtifactError(
            f"{folder} is gone, removed by somebody while it was being written",
            "run the same command again, in a workspace that stays",
        ) from None


@contextlib.contextmanager
def _removed_at_end(temporary: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # must not hide the error that ended the block
            temporary.unlink(missing_ok=True)


def read_unfinished(folder: Path) -> Unfinished | None:
    """The records in a folder of unfinished work; a damaged one counts as absent. None if the folder is gone."""
    asked = read_record(folder / ASKED, _Asked)
    progress = read_record(folder / PROGRESS, _Progress)
    runs = read_record(folder / RECORD, _Runs)
    times = [_modified(path) for path in (folder / RECORD, folder)]
    written = next((time for time in times if time is not None), None)
    if written is None:
        return None
    return Unfinished(
        folder,
        None if asked is None else _work_of(asked.work),
        [] if asked is None else asked.argv,
        0 if progress is None else progress.done,
        None if progress is None else progress.total,
        None if runs is None else runs.seconds,
        datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
    )


def _modified(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None


def _work_of(record: dict[str, Any]) -> Work | None:
    """The work; None if the record is damaged, or was written by a version with different fields."""
    try:
        return shaped(record, Work, ASKED)
    except ArtifactError:
        return None
