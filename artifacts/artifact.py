"""A published artifact as it is read: its manifest, and its items, which are compared with the manifest.

data = Artifact("runs/default/data")
data.json("dataset.json")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from artifacts.canonical import file_digest
from artifacts.errors import ArtifactError
from artifacts.in_threads import in_threads
from artifacts.item_list import (
    ITEMS_NAME,
    MANIFEST_NAME,
    ContentDigest,
    Item,
    ListedItems,
    check_relative,
    list_files,
)
from artifacts.json_items import MAKE_AGAIN, Anything, read_json, shaped
from artifacts.manifest import Manifest, has_manifest, is_listed, read_manifest

T = TypeVar("T")


class Artifact:
    """A published artifact: its folder and its manifest."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.name = self.path.absolute().name
        self.manifest: Manifest = read_manifest(self.path)
        listed = is_listed(self.manifest.items)
        self.items: Mapping[str, Item] = ListedItems(self.path, self.manifest.count) if listed else self.manifest.items

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
        if (item := self.items.get(relative)) is None:
            raise ArtifactError(f"{path} was added since {self.name!r} was published", "take it away: semiseg verify")
        return read_json(path, shape, MAKE_AGAIN, item["sha256"])

    def recorded(self, part: Literal["config", "summary"], key: str, shape: type[T]) -> T:
        """A value of the manifest's config or summary; ArtifactError where it is missing or does not fit `shape`."""
        values = self.config if part == "config" else self.summary
        return shaped(values.get(key), shape, f"{part}.{key} in {self.path / MANIFEST_NAME}")

    def verify(self, threads: int = 1) -> list[str]:
        """What differs between content and manifest, in words; empty when every byte is as published."""
        missing, added, changed = [], [], []
        content, count = ContentDigest(), 0
        try:
            for relative, item, there, same in in_threads(self._read, self._compared(), threads):
                if item is None:
                    added.append(f"{relative} was added")
                    continue
                content.add(relative, item)
                count += 1
                if not there:
                    missing.append(f"{relative} is missing")
                elif not same:
                    changed.append(f"{relative} was changed")
            problems = missing + added + changed
            if (
                isinstance(self.items, ListedItems)
                and file_digest(self.path / ITEMS_NAME) != self.manifest.items["sha256"]
            ):
                problems.append(f"{ITEMS_NAME} was changed")
        except OSError as error:
            return [f"{error.filename} cannot be read: {error.strerror}"]
        except ArtifactError as error:
            return [error.message]
        if content.hexdigest() != self.manifest.content or count != self.manifest.count:
            problems.append(f"{MANIFEST_NAME} was changed: its content digest does not belong to its items")
        return problems

    def _read(self, compared: tuple[str, Item | None, bool]) -> tuple[str, Item | None, bool, bool]:
        """What `_compared` gives, and whether the file has the recorded digest."""
        relative, item, there = compared
        return *compared, there and item is not None and file_digest(self.path / relative) == item["sha256"]

    def _compared(self) -> Iterator[tuple[str, Item | None, bool]]:
        """(path, its record, whether it is there) of all items and all files, both sorted and gone through together."""
        records = iter(self.items.items() if isinstance(self.items, ListedItems) else sorted(self.items.items()))
        files = iter(list_files(self.path))
        record, file = next(records, None), next(files, None)
        while record is not None or file is not None:
            if record is None or (file is not None and file < record[0]):
                yield file or "", None, True
                file = next(files, None)
            else:
                there = file == record[0]
                yield *record, there
                record, file = next(records, None), next(files, None) if there else file


def read_item(artifact_or_path: Artifact | Path | str, relative: str, shape: type[T], cure: str) -> T:
    """A JSON item of an artifact or of a folder, compared with the manifest if there is one.

    cure: the hint when a folder without a manifest lacks the item.
    """
    found = artifact_or_path
    if not isinstance(found, Artifact) and has_manifest(Path(found)):
        found = Artifact(found)
    return found.json(relative, shape) if isinstance(found, Artifact) else read_json(Path(found, relative), shape, cure)
