"""Artifacts on disk: named folders of a workspace, published whole or not at all.

A stage writes below a hidden partial folder, item by item (each by a temporary name and `os.replace`). Publishing
writes `manifest.json` last and then renames three times: the partial folder to `.NAME.new` (from here on the new
artifact counts), the old artifact to `.NAME.old`, `.NAME.new` to `NAME`. Whoever comes next completes renames that were
cut off. A process that dies at any line so leaves either the old artifact or the new one, and a partial folder that
the next run of the same work continues. docs/formats.md holds the specification.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, cast, overload

from artifacts.canonical import json_ready, pretty_json
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, BusyError
from artifacts.json_items import MAKE_AGAIN, Anything, Count, Seconds, Shape, Text, read_json, read_record, shaped
from artifacts.locks import Lock, artifact_lock
from artifacts.manifest import (
    KINDS,
    LOCAL,
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    InputRecord,
    MadeBy,
    Manifest,
    check_relative,
    content_digest,
    has_manifest,
    list_items,
    read_manifest,
)
from artifacts.provenance import made_by, utc_now

SCRATCH = ".scratch"
PROGRESS = ".progress.json"
RECORD = ".work.json"
ASKED = ".asked.json"
TEMPORARY = ".tmp-"

T = TypeVar("T")


def check_name(name: str) -> str:
    """An artifact name is one plain folder name; anything else could escape the workspace."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ArtifactError(
            f"{name!r} cannot name an artifact",
            "use up to 100 letters, digits, '-', '_' and '.', first a letter or digit",
        )
    return name


class Artifact:
    """A published artifact: its folder and its manifest."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = self.path.absolute().name
        self.manifest: Manifest = read_manifest(self.path)

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest.config

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    def file(self, relative: str) -> Path:
        """Path of an item; ArtifactError names it when it is missing."""
        path = self.path / check_relative(relative)
        if not path.is_file():
            raise ArtifactError(
                f"artifact {self.name!r} ({self.kind}) has no {relative}",
                f"rerun the stage {self.manifest.stage!r} that made {self.path}",
            )
        return path

    @overload
    def json(self, relative: str) -> dict[str, Any]: ...

    @overload
    def json(self, relative: str, shape: type[T]) -> T: ...

    def json(self, relative: str, shape: Any = Anything) -> Any:
        """A JSON item as a value of `shape` (see artifacts.json_items).

        ArtifactError when it is missing, damaged, or not what was published.
        """
        path = self.file(relative)
        if relative not in self.manifest.items:
            raise ArtifactError(f"{path} was added since {self.name!r} was published", "take it away: semiseg verify")
        return read_json(path, shape, MAKE_AGAIN, self.manifest.items[relative]["sha256"])

    def recorded(self, part: Literal["config", "summary"], key: str, shape: type[T]) -> T:
        """A value of the manifest's config or summary; ArtifactError where it is missing or no `shape`."""
        values = self.config if part == "config" else self.summary
        return shaped(values.get(key), shape, f"{part}.{key} in {self.path / MANIFEST_NAME}")

    def verify(self) -> list[str]:
        """Problems of the content against the manifest, in words; empty when every byte is as published."""
        try:
            found = list_items(self.path)
        except OSError as error:
            return [f"{error.filename} cannot be read: {error.strerror}"]
        expected = self.manifest.items
        problems = [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
        problems += [f"{path} was added" for path in sorted(found.keys() - expected.keys())]
        problems += [
            f"{path} was changed"
            for path in sorted(expected.keys() & found.keys())
            if expected[path]["sha256"] != found[path]["sha256"]
        ]
        if content_digest(expected) != self.manifest.content:
            problems.append(f"{MANIFEST_NAME} was changed: its content digest does not belong to its items")
        return problems


def read_item(artifact_or_path: Artifact | Path | str, relative: str, shape: type[T], cure: str) -> T:
    """A JSON item of an artifact, or of a folder: compared with the manifest, if there is one.

    cure: the hint where a folder without manifest has no such item.
    """
    found = artifact_or_path
    if not isinstance(found, Artifact) and has_manifest(Path(found)):
        found = Artifact(found)
    return found.json(relative, shape) if isinstance(found, Artifact) else read_json(Path(found, relative), shape, cure)


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
    """Work that was cut off, as its folder tells of it; None and [] for what it does not tell."""

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

    def __init__(self, path: Path) -> None:
        self.path = path
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
        """Whether there is anything to go on from: an item, or something in `scratch`."""
        for path in self.path.rglob("*"):
            first, *rest = path.relative_to(self.path).parts
            parts = rest if first == SCRATCH else (first, *rest)
            visible = parts and first not in (LOCAL, MANIFEST_NAME) and not any(p.startswith(".") for p in parts)
            if visible and path.is_file():
                return True
        return False

    def _continue(self, work: Work) -> None:
        """Takes over what an earlier, killed run left: its count and time; drops its temporary files."""
        for leftover in self.path.rglob(f"*{TEMPORARY}*"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
        (self.path / MANIFEST_NAME).unlink(missing_ok=True)  # killed before the first rename of publish
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
        if first == MANIFEST_NAME or (first != SCRATCH and any(p.startswith(".") for p in relative.split("/"))):
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
        with _stays(self.path), disk_errors(self.path / relative):
            target = self._target(relative)
            temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
            with _removed_at_end(temporary), disk_errors(target):  # the disk is judged while the file is still there
                yield temporary
                os.replace(temporary, target)

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.item(relative) as temporary:
            temporary.write_bytes(data)

    def write_json(self, relative: str, value: Any) -> None:
        """A JSON item. NaN and infinity are refused: they are not JSON, `null` says "no value"."""
        try:
            data = pretty_json(value).encode()
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{relative} cannot be written as JSON: {error}") from error
        self.write_bytes(relative, data)

    @overload
    def read_json(self, relative: str) -> dict[str, Any]: ...

    @overload
    def read_json(self, relative: str, shape: type[T]) -> T: ...

    def read_json(self, relative: str, shape: Any = Anything) -> Any:
        """A JSON item written before, by this run or by an earlier one that was cut off."""
        path = self.path / check_relative(relative)
        return read_json(path, shape, f"delete {path} and run the same command again: it makes that part once more")

    def expect(self, total: int) -> None:
        """How many units of work there are in all; shown by `status` as "partial 412/1464"."""
        self._total = total
        self._report(force=True)

    def advance(self, count: int = 1) -> None:
        self.advance_to(self._done + count)

    def advance_to(self, done: int) -> None:
        self._done = done
        self._report(force=done == self._total)

    def _report(self, force: bool = False) -> None:
        if not force and time.monotonic() - self._last_report < 1.0:
            return
        self._last_report = time.monotonic()
        with contextlib.suppress(OSError):  # progress is for people; a full disk shows at the next item
            self._replace(PROGRESS, {"done": self._done, "total": self._total})
            self._save_record()  # or the time of a killed run would be lost


@contextlib.contextmanager
def _stays(folder: Path) -> Iterator[None]:
    """ArtifactError where `folder` is removed, by somebody else, while the block writes into it."""
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
        with contextlib.suppress(OSError):  # never in the way of the error that brought us here
            temporary.unlink(missing_ok=True)


def _drop(path: Path) -> None:
    """Deletes a folder or a link to one; what cannot be deleted stays for the next time."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _read_unfinished(folder: Path) -> Unfinished | None:
    """What the records in a folder of unfinished work say, a damaged one counts as absent; None when it is gone."""
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
    """The work; None where a version with other fields wrote the record, or it is damaged."""
    try:
        return shaped(record, Work, ASKED)
    except ArtifactError:
        return None


class Workspace:
    """A folder of artifacts, one sub-folder each."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    def names(self) -> list[str]:
        """Names of the published artifacts, sorted."""
        self._recover_all()
        return sorted(entry.name for entry in self._entries() if not entry.name.startswith(".") and has_manifest(entry))

    def _entries(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.is_dir() else []

    def _recover_all(self) -> None:
        for entry in self._entries():  # publishes and removals that were cut off
            if cut_off := re.fullmatch(r"\.(\w[\w.-]*)\.(new|old|removed)", entry.name):
                self._recover_if_free(cut_off[1])

    def folder(self, name: str) -> Path:
        return self.path / check_name(name)

    def partial_folder(self, name: str, fingerprint: str) -> Path:
        """Where work with this fingerprint is collected: other settings never touch it, so nothing is lost."""
        return self.path / f".{check_name(name)}.{fingerprint[:12]}.partial"

    def _lock(self, name: str) -> Lock:
        return artifact_lock(self.path, check_name(name))

    def holder(self, name: str) -> dict[str, Any] | None:
        """Who writes the artifact `name` ({"pid", "host", "since", "argv"}), or None."""
        return self._lock(name).holder()

    def partials(self, name: str) -> list[Path]:
        """Folders of unfinished work of `name`, sorted."""
        pattern = re.compile(rf"\.{re.escape(check_name(name))}\.[^.]{{1,12}}\.partial")
        return sorted(entry for entry in self._entries() if pattern.fullmatch(entry.name))

    def progress(self, name: str, fingerprint: str) -> dict[str, int | None] | None:
        """{"done", "total"} of unfinished work with this fingerprint; None when none was begun."""
        folder = self.partial_folder(name, fingerprint)
        if not folder.is_dir():
            return None
        record = read_record(folder / PROGRESS, _Progress)
        return {"done": record.done, "total": record.total} if record else {"done": 0, "total": None}

    def unfinished(self, name: str) -> list[Unfinished]:
        """What the folders of unfinished work of `name` tell of it, sorted by folder."""
        return [found for folder in self.partials(name) if (found := _read_unfinished(folder))]

    def artifact(self, name: str) -> Artifact:
        """The published artifact; ArtifactError when there is none (or only unfinished work)."""
        folder = self.folder(name)
        for attempt in range(100):  # a publish by another process takes the name away for an instant
            self._recover_if_free(name)
            try:
                return Artifact(folder)
            except ArtifactError:
                if attempt and not self._unsettled(name):
                    if has_manifest(folder):
                        raise
                    break
                time.sleep(0.01 if self._unsettled(name) else 0)
        unfinished = " (only unfinished work)" if self.partials(name) else ""
        raise ArtifactError(
            f"workspace {self.path} has no artifact {name!r}{unfinished}",
            f"it has: {', '.join(self.names()) or 'nothing yet'}",
        )

    @contextlib.contextmanager
    def reading(self, names: Iterable[str]) -> Iterator[dict[str, Artifact]]:
        """Published artifacts under shared locks: nobody can replace them while the block runs."""
        with contextlib.ExitStack() as stack:
            found = {}
            for name in dict.fromkeys(names):
                self._recover_if_free(name)  # needs the exclusive lock, so before the shared one
                if not self.path.is_dir():
                    self.artifact(name)  # raises; a mistyped workspace must not be created by reading it
                stack.enter_context(self._lock(name).held(exclusive=False))
                found[name] = self.artifact(name)
            yield found

    # --- publishing ---

    @contextlib.contextmanager
    def writing(self, name: str, work: Work) -> Iterator[Writer]:
        """A writer under the exclusive lock of `name`. Leaving the block does not publish: see `publish`.

        What the block leaves unpublished is kept for the next run of the same work, if there is anything to go on from.
        """
        with self._lock(name).held(exclusive=True):
            self._recover(name)
            self._refuse_foreign(name)
            folder = self.partial_folder(name, work.fingerprint)
            with disk_errors(folder):
                folder.mkdir(exist_ok=True)
                writer = Writer(folder)
                writer._continue(work)
            try:
                yield writer
            finally:
                with contextlib.suppress(OSError):
                    if folder.is_dir() and writer.has_work():
                        writer._report(force=True)
                    else:
                        writer.discard()

    def publish(
        self,
        name: str,
        writer: Writer,
        work: Work,
        summary: Mapping[str, Any],
        device: str | None = None,
        processes: int = 1,
    ) -> Artifact:
        """Turns the partial folder into the artifact `name`; call inside `writing`. The old one goes last."""
        readable = json_ready(summary, "summary")
        self._refuse_foreign(name)
        with _stays(writer.path), disk_errors(writer.path):
            items = list_items(writer.path)
            manifest = Manifest(
                schema_version=MANIFEST_SCHEMA,
                kind=work.kind,
                kind_version=KINDS[work.kind],
                stage=work.stage,
                stage_version=work.stage_version,
                fingerprint=work.fingerprint,
                content=content_digest(items),
                config=work.config,
                inputs=work.inputs,
                externals=work.externals,
                items=items,
                summary=readable,
                made_by=cast(MadeBy, made_by(device, processes)),
                started=writer.started,
                finished=utc_now(),
                seconds=round(writer.seconds, 3),
                resumed=writer.resumed,
                argv=list(sys.argv),
            )
            temporary = writer.path / f"{TEMPORARY}{MANIFEST_NAME}"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(manifest.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, writer.path / MANIFEST_NAME)
            os.rename(writer.path, self._new_folder(name))
            self._complete(name)
        return Artifact(self.folder(name))

    def _new_folder(self, name: str) -> Path:
        return self.path / f".{check_name(name)}.new"

    def _old_folder(self, name: str) -> Path:
        return self.path / f".{check_name(name)}.old"

    def _removed_folder(self, name: str) -> Path:
        return self.path / f".{check_name(name)}.removed"

    def _unsettled(self, name: str) -> bool:
        """Whether a publish or a removal is under way, or was cut off."""
        return any(f(name).exists() for f in (self._new_folder, self._old_folder, self._removed_folder))

    def _complete(self, name: str) -> None:
        """Puts `.NAME.new` in the place of the artifact; can be cut off and repeated anywhere."""
        folder, new, old = self.folder(name), self._new_folder(name), self._old_folder(name)
        for record in (PROGRESS, RECORD, ASKED):
            (new / record).unlink(missing_ok=True)
        _drop(new / SCRATCH)  # before the last rename: what a kill left behind it nobody would look for
        if os.path.lexists(folder):
            _drop(old)
            os.rename(folder, old)
        os.rename(new, folder)
        _drop(old)

    def _recover(self, name: str) -> None:
        """Completes a publish or a removal that was cut off. Needs the exclusive lock."""
        folder, old = self.folder(name), self._old_folder(name)
        with disk_errors(folder):
            _drop(self._removed_folder(name))
            if self._new_folder(name).exists():
                self._complete(name)
            elif old.exists() and not folder.exists():  # somebody deleted the new one: the old one is better than none
                os.rename(old, folder)
            else:
                _drop(old)

    def _recover_if_free(self, name: str) -> None:
        """Recovers unless a living process is at it, or nothing can be written here."""
        if self._unsettled(name):
            with contextlib.suppress(BusyError, ArtifactError), self._lock(name).held(exclusive=True, patience_s=0):
                self._recover(name)

    def _refuse_foreign(self, name: str) -> None:
        """Publishing replaces artifacts, never a person's own folder that happens to have the name."""
        folder = self.folder(name)
        with disk_errors(folder):
            if folder.exists() and not has_manifest(folder):
                if folder.is_dir() and not any(folder.iterdir()):
                    return
                raise ArtifactError(
                    f"{folder} is not an artifact (it has no {MANIFEST_NAME}) and is not overwritten",
                    "move it away, or write under another name (--name)",
                )

    def discard_partials(self, name: str, keep: str | None = None) -> list[Path]:
        """Deletes unfinished work of `name` except the folder for the fingerprint `keep`; returns what went."""
        with self._lock(name).held(exclusive=True):
            kept = self.partial_folder(name, keep) if keep else None
            gone = [path for path in self.partials(name) if path != kept]
            for path in gone:
                shutil.rmtree(path, ignore_errors=True)
        return gone

    def remove(self, name: str) -> None:
        """Deletes an artifact and its unfinished work."""
        with self._lock(name).held(exclusive=True):
            self._recover(name)
            self._refuse_foreign(name)
            folder, removed = self.folder(name), self._removed_folder(name)
            with disk_errors(folder):
                if os.path.lexists(folder):
                    os.rename(folder, removed)  # at once: a removal that is cut off leaves no half artifact
                for path in (*self.partials(name), removed):
                    _drop(path)
