"""Artifacts on disk: named folders of a workspace, published whole or not at all.

A stage writes below a hidden partial folder, item by item (each by a temporary name and `os.replace`). Publishing
writes `manifest.json` last and renames the folder. A process that dies at any line leaves either the old artifact or
the new one, and a partial folder that the next run of the same work continues. Locks are `flock`: they die with the
process that holds them. docs/formats.md holds the specification.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts.canonical import pretty_json
from artifacts.errors import ArtifactError, BusyError
from artifacts.manifest import (
    KINDS,
    LOCAL,
    MANIFEST_NAME,
    Manifest,
    content_digest,
    list_items,
    read_manifest,
)
from artifacts.provenance import made_by

SCRATCH = ".scratch"
PROGRESS = ".progress.json"
TEMPORARY = ".tmp-"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_name(name: str) -> str:
    """An artifact name is one plain folder name; anything else could escape the workspace."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or name != name.strip():
        raise ArtifactError(f"{name!r} cannot name an artifact", "use letters, digits, '-', '_' and '.'")
    return name


class Artifact:
    """A published artifact: its folder and its manifest."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = self.path.name
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
        path = self.path / relative
        if not path.is_file():
            raise ArtifactError(
                f"artifact {self.name!r} ({self.kind}) has no {relative}",
                f"rerun the stage {self.manifest.stage!r} that made {self.path}",
            )
        return path

    def json(self, relative: str) -> Any:
        """A JSON item; ArtifactError when it is missing or damaged."""
        path = self.file(relative)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}", "rerun the stage that made it") from None

    def verify(self) -> list[str]:
        """Problems of the content against the manifest, in words; empty when every byte is as published."""
        found = list_items(self.path)
        expected = self.manifest.items
        problems = [f"{path} is missing" for path in sorted(expected.keys() - found.keys())]
        problems += [f"{path} was added" for path in sorted(found.keys() - expected.keys())]
        problems += [
            f"{path} was changed"
            for path in sorted(expected.keys() & found.keys())
            if expected[path]["sha256"] != found[path]["sha256"]
        ]
        return problems


@dataclass(frozen=True)
class Work:
    """What is about to be made: everything a manifest needs before the work starts."""

    stage: str
    stage_version: int
    kind: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    externals: dict[str, str]


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
        self._done = 0
        self._total: int | None = None
        self._last_report = 0.0

    def _target(self, relative: str) -> Path:
        target = self.path / relative
        if target.resolve() != target.absolute().resolve() or ".." in Path(relative).parts:
            raise ArtifactError(f"{relative!r} leaves the artifact folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def has(self, relative: str) -> bool:
        """Whether an item is already whole, written by this run or by an earlier one that was cut off."""
        return (self.path / relative).is_file()

    @contextlib.contextmanager
    def item(self, relative: str) -> Iterator[Path]:
        """A temporary path that becomes the item when the block ends without an error.

        The temporary name keeps the item's suffix, since writers choose formats by it.
        """
        target = self._target(relative)
        temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
        try:
            yield temporary
            os.replace(temporary, target)
        except OSError as error:
            raise disk_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write_bytes(self, relative: str, data: bytes) -> None:
        with self.item(relative) as temporary:
            temporary.write_bytes(data)

    def write_json(self, relative: str, value: Any) -> None:
        self.write_bytes(relative, pretty_json(value).encode())

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
            temporary = self.path / f"{PROGRESS}{TEMPORARY}{os.getpid()}"
            temporary.write_text(json.dumps({"done": self._done, "total": self._total}))
            os.replace(temporary, self.path / PROGRESS)


def disk_error(error: OSError, target: Path) -> OSError | ArtifactError:
    """A full disk or a read-only folder, in words; any other operating-system error unchanged."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtifactError(
            f"the disk is full: {target} could not be written",
            "free some space and run the same command again: finished items are kept and it continues",
        )
    if error.errno in (errno.EACCES, errno.EROFS):
        return ArtifactError(f"{target} cannot be written: {error.strerror}", "check the permissions")
    return error


class Workspace:
    """A folder of artifacts, one sub-folder each."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    def names(self) -> list[str]:
        """Names of the published artifacts, sorted."""
        if not self.path.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.path.iterdir()
            if not entry.name.startswith(".") and (entry / MANIFEST_NAME).is_file()
        )

    def folder(self, name: str) -> Path:
        return self.path / check_name(name)

    def partial_folder(self, name: str, fingerprint: str) -> Path:
        """Where work with this fingerprint is collected: other settings never touch it, so nothing is lost."""
        return self.path / f".{check_name(name)}.{fingerprint[:12]}.partial"

    def partials(self, name: str) -> list[Path]:
        return sorted(self.path.glob(f".{name}.*.partial"))

    def progress(self, name: str, fingerprint: str) -> dict[str, int | None] | None:
        """{"done", "total"} of unfinished work with this fingerprint; None when none was begun."""
        folder = self.partial_folder(name, fingerprint)
        if not folder.is_dir():
            return None
        try:
            return json.loads((folder / PROGRESS).read_text())
        except (OSError, json.JSONDecodeError):
            return {"done": 0, "total": None}

    def artifact(self, name: str) -> Artifact:
        """The published artifact; ArtifactError when there is none (or only unfinished work)."""
        folder = self.folder(name)
        if not folder.is_dir():
            self._recover_if_free(name)
        if not (folder / MANIFEST_NAME).is_file():
            unfinished = " (only unfinished work)" if self.partials(name) else ""
            raise ArtifactError(
                f"workspace {self.path} has no artifact {name!r}{unfinished}",
                f"it has: {', '.join(self.names()) or 'nothing yet'}",
            )
        return Artifact(folder)

    # --- locks ---

    def _lock_file(self, name: str) -> Path:
        locks = self.path / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return locks / f"{check_name(name)}.lock"

    def holder(self, name: str) -> dict[str, Any] | None:
        """Who holds the exclusive lock on `name` ({"pid", "host", "since", "argv"}), or None."""
        path = self.path / ".locks" / f"{name}.lock"
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(json.JSONDecodeError, OSError):
                    return json.loads(path.read_text() or "{}")
                return {}
        return None

    @contextlib.contextmanager
    def _locked(self, name: str, exclusive: bool) -> Iterator[None]:
        path = self._lock_file(name)
        with open(path, "a+b") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self.holder(name)
                doing = (
                    "in use as an input by another process"
                    if holder is None
                    else f"being written by process {holder.get('pid', '?')} on {holder.get('host', '?')} "
                    f"since {holder.get('since', '?')}"
                )
                raise BusyError(
                    f"artifact {name!r} of {self.path} is {doing}",
                    "wait for it, or write under another name (--name)",
                ) from None
            if exclusive:
                file.truncate(0)
                record = {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": utc_now(),
                    "argv": sys.argv,
                }
                file.write(json.dumps(record).encode())
                file.flush()
            yield

    @contextlib.contextmanager
    def reading(self, names: Iterable[str]) -> Iterator[dict[str, Artifact]]:
        """Published artifacts under shared locks: nobody can replace them while the block runs."""
        with contextlib.ExitStack() as stack:
            found = {}
            for name in dict.fromkeys(names):
                stack.enter_context(self._locked(name, exclusive=False))
                found[name] = self.artifact(name)
            yield found

    # --- publishing ---

    @contextlib.contextmanager
    def writing(self, name: str, work: Work) -> Iterator[Writer]:
        """A writer under the exclusive lock of `name`. Leaving the block does not publish: see `publish`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path) from error
        with self._locked(name, exclusive=True):
            self._recover(name)
            folder = self.partial_folder(name, work.fingerprint)
            begun = folder.is_dir()
            try:
                folder.mkdir(exist_ok=True)
                for leftover in folder.rglob(f"*{TEMPORARY}*"):
                    leftover.unlink(missing_ok=True)
                writer = Writer(folder)
                record = folder / ".work.json"
                earlier = json.loads(record.read_text()) if begun and record.is_file() else None
                started = earlier["started"] if earlier else utc_now()
                seconds = earlier["seconds"] if earlier else 0.0
                writer.resumed = earlier["runs"] if earlier else 0
                record_now = {"started": started, "seconds": seconds, "runs": writer.resumed + 1}
                record.write_text(json.dumps(record_now))
            except OSError as error:
                raise disk_error(error, folder) from error
            except (json.JSONDecodeError, KeyError):  # cut off while writing the record: begin the count anew
                record.unlink(missing_ok=True)
                writer, started, seconds, record_now = Writer(folder), utc_now(), 0.0, {"runs": 1}
            begin = time.monotonic()
            try:
                yield writer
            finally:
                with contextlib.suppress(OSError):
                    spent = seconds + time.monotonic() - begin
                    if folder.is_dir():
                        record.write_text(json.dumps({**record_now, "started": started, "seconds": spent}))

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
        record = json.loads((writer.path / ".work.json").read_text())
        record_age = time.time() - (writer.path / ".work.json").stat().st_mtime
        items = list_items(writer.path)
        manifest = Manifest(
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
            summary=dict(summary),
            made_by=made_by(device, processes),
            started=record["started"],
            finished=utc_now(),
            seconds=round(record["seconds"] + record_age, 3),
            resumed=writer.resumed,
            argv=list(sys.argv),
        )
        try:
            temporary = writer.path / f"{TEMPORARY}{MANIFEST_NAME}"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(manifest.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, writer.path / MANIFEST_NAME)
            folder, old = self.folder(name), self._old_folder(name)
            if folder.exists():
                os.rename(folder, old)
            os.rename(writer.path, folder)
        except OSError as error:
            raise disk_error(error, writer.path) from error
        self._tidy(name)
        return Artifact(folder)

    def _old_folder(self, name: str) -> Path:
        return self.path / f".{name}.old"

    def _tidy(self, name: str) -> None:
        """Drops what publishing leaves: the replaced artifact and the scratch of the new one."""
        folder = self.folder(name)
        shutil.rmtree(self._old_folder(name), ignore_errors=True)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        for record in (PROGRESS, ".work.json"):
            (folder / record).unlink(missing_ok=True)

    def _recover(self, name: str) -> None:
        """Completes a publish that was cut off between its two renames. Needs the exclusive lock."""
        folder, old = self.folder(name), self._old_folder(name)
        if not folder.exists() and old.exists():
            whole = [p for p in self.partials(name) if (p / MANIFEST_NAME).is_file()]
            newest = max(whole, key=lambda p: (p / MANIFEST_NAME).stat().st_mtime, default=old)
            os.rename(newest, folder)
        if folder.exists() and (old.exists() or (folder / SCRATCH).exists()):
            self._tidy(name)

    def _recover_if_free(self, name: str) -> None:
        if self._old_folder(name).exists():
            with contextlib.suppress(BusyError), self._locked(name, exclusive=True):
                self._recover(name)

    def discard_partials(self, name: str, keep: str | None = None) -> list[Path]:
        """Deletes unfinished work of `name` except the folder for the fingerprint `keep`; returns what went."""
        with self._locked(name, exclusive=True):
            kept = self.partial_folder(name, keep) if keep else None
            gone = [path for path in self.partials(name) if path != kept]
            for path in gone:
                shutil.rmtree(path, ignore_errors=True)
        return gone

    def remove(self, name: str) -> None:
        """Deletes an artifact and its unfinished work."""
        self.discard_partials(name)
        with self._locked(name, exclusive=True):
            folder, old = self.folder(name), self._old_folder(name)
            if folder.exists():
                os.rename(folder, old)
            shutil.rmtree(old, ignore_errors=True)


__all__ = ["LOCAL", "Artifact", "Work", "Workspace", "Writer", "check_name", "disk_error", "utc_now"]
