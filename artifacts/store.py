"""Artifacts on disk: named folders of a workspace, published whole or not at all.

A stage writes below a hidden partial folder, item by item (each by a temporary name and `os.replace`). Publishing
writes `manifest.json` last and then renames three times: the partial folder to `.NAME.new` (from here on the new
artifact counts), the old artifact to `.NAME.old`, `.NAME.new` to `NAME`. The next process completes renames that
were cut off. So a process that dies at any line leaves either the old artifact or the new one, and a partial folder
with which the next run of the same work continues. docs/formats.md holds the specification.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from artifacts.artifact import Artifact, read_item
from artifacts.canonical import file_digest, json_ready
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, BusyError
from artifacts.file_system import check_file_system
from artifacts.folder_digests import NAME as FOLDERS
from artifacts.folder_digests import KnownFolders
from artifacts.in_threads import in_threads
from artifacts.item_list import (
    ITEMS_NAME,
    MANIFEST_NAME,
    MOST_IN_MANIFEST,
    ContentDigest,
    Item,
    item_of,
    list_files,
    write_lines,
)
from artifacts.locks import Lock, artifact_lock
from artifacts.manifest import KINDS, MadeBy, Manifest, has_manifest, is_listed
from artifacts.provenance import made_by, utc_now
from artifacts.writing import (
    ASKED,
    PROGRESS,
    RECORD,
    SCRATCH,
    TEMPORARY,
    Unfinished,
    Work,
    Writer,
    read_unfinished,
    stays,
)

# What all other modules import from here, although some of it is defined elsewhere.
__all__ = ["SCRATCH", "TEMPORARY", "Artifact", "Unfinished", "Work", "Workspace", "Writer", "check_name", "read_item"]


def check_name(name: str) -> str:
    """An artifact name is one plain folder name; anything else could escape the workspace."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ArtifactError(
            f"{name!r} cannot name an artifact",
            "use up to 100 letters, digits, '-', '_' and '.', first a letter or digit",
        )
    return name


def _drop(path: Path) -> None:
    """Deletes a folder or a link to one; what cannot be deleted stays for the next time."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _items_of(folder: Path, threads: int) -> tuple[dict[str, Any], str]:
    """The field `items` of the manifest, and the content digest. Many items are written into items.jsonl on the way."""
    files, content, size = list_files(folder), ContentDigest(), 0

    def each() -> Iterator[tuple[str, Item]]:
        nonlocal size
        for relative, item in zip(files, in_threads(partial(item_of, folder), files, threads), strict=True):
            content.add(relative, item)
            size += item["bytes"]
            yield relative, item

    if len(files) <= MOST_IN_MANIFEST:
        items: dict[str, Any] = dict(each())
    else:
        temporary = folder / f"{TEMPORARY}{ITEMS_NAME}"
        write_lines(temporary, each())
        os.replace(temporary, folder / ITEMS_NAME)
        items = {"count": len(files), "bytes": size, "sha256": file_digest(folder / ITEMS_NAME)}
    return items, content.hexdigest()


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

    def has(self, name: str) -> bool:
        """Whether there is a published artifact `name`."""
        self._recover_if_free(name)
        return has_manifest(self.folder(name))

    def _entries(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.is_dir() else []

    def _recover_all(self) -> None:
        for entry in self._entries():  # publishes and removals that were cut off
            if cut_off := re.fullmatch(r"\.(\w[\w.-]*)\.(new|old|removed)", entry.name):
                self._recover_if_free(cut_off[1])

    @property
    def folders(self) -> KnownFolders:
        """Digests of folders outside the workspace that were taken before."""
        return KnownFolders(self.path / FOLDERS)

    def folder(self, name: str) -> Path:
        return self.path / check_name(name)

    def partial_folder(self, name: str, fingerprint: str) -> Path:
        """The folder of unfinished work with this fingerprint; different settings never touch it: nothing is lost."""
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

    def unfinished(self, name: str) -> list[Unfinished]:
        """The records in the folders of unfinished work of `name`, sorted by folder."""
        return [found for folder in self.partials(name) if (found := read_unfinished(folder))]

    def artifact(self, name: str) -> Artifact:
        """The published artifact; ArtifactError when there is none (or only unfinished work)."""
        folder = self.folder(name)
        for attempt in range(100):  # while another process publishes, the name is missing for an instant
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
                    self.artifact(name)  # raises the error; reading must not create a workspace with a mistyped name
                stack.enter_context(self._lock(name).held(exclusive=False))
                found[name] = self.artifact(name)
            yield found

    # --- publishing ---

    @contextlib.contextmanager
    def writing(self, name: str, work: Work) -> Iterator[Writer]:
        """A writer under the exclusive lock of `name`. Leaving the block does not publish: see `publish`.

        Unpublished work of the block is kept for the next run of the same work, if there is anything to continue from.
        """
        lock = self._lock(name)
        check_file_system(self.path)
        with lock.held(exclusive=True):
            self._recover(name)
            self._refuse_foreign(name)
            folder = self.partial_folder(name, work.fingerprint)
            with disk_errors(folder):
                folder.mkdir(exist_ok=True)
                writer = Writer(folder)
                writer.take_over(work)
            try:
                yield writer
            finally:
                with contextlib.suppress(OSError):
                    if folder.is_dir() and writer.has_work():
                        writer.report(force=True)
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
        workers: int = 1,
    ) -> Artifact:
        """Turns the partial folder into the artifact `name`; call inside `writing`. The old one goes last.

        workers: how many threads read the items once more, for their digests.
        """
        readable = json_ready(summary, "summary")
        self._refuse_foreign(name)
        with stays(writer.path), disk_errors(writer.path):
            items, content = _items_of(writer.path, workers)
            manifest = Manifest(
                schema_version=2 if is_listed(items) else 1,
                kind=work.kind,
                kind_version=KINDS[work.kind],
                stage=work.stage,
                stage_version=work.stage_version,
                fingerprint=work.fingerprint,
                content=content,
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
        _drop(new / SCRATCH)  # before the last rename: after it, nobody would look for what a kill left behind
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
            elif old.exists() and not folder.exists():  # the new one was deleted: the old one is better than none
                os.rename(old, folder)
            else:
                _drop(old)

    def _recover_if_free(self, name: str) -> None:
        """Recovers, unless a living process is publishing or nothing can be written here."""
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
        """Deletes unfinished work of `name` except that with the fingerprint `keep`; returns the deleted folders."""
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
                    os.rename(folder, removed)  # one rename: a removal that is cut off leaves no half artifact
                for path in (*self.partials(name), removed):
                    _drop(path)
