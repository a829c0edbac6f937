"""A published artifact as it is read: its manifest, and its items, which are compared with the manifest.

data = Artifact("runs/default/data")
data.json("dataset.json")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from artifacts.errors import ArtifactError
from artifacts.json_items import MAKE_AGAIN, Anything, read_json, shaped
from artifacts.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_relative,
    content_digest,
    has_manifest,
    list_items,
    read_manifest,
)

T = TypeVar("T")


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

    @property
    def items(self) -> Mapping[str, dict[str, Any]]:
        """Size and SHA-256 of each item, by its path."""
        items: Mapping[str, dict[str, Any]] = self.manifest.items
        return items

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
        """A value of the manifest's config or summary; ArtifactError where it is missing or does not fit `shape`."""
        values = self.config if part == "config" else self.summary
        return shaped(values.get(key), shape, f"{part}.{key} in {self.path / MANIFEST_NAME}")

    def verify(self) -> list[str]:
        """What differs between content and manifest, in words; empty when every byte is as published."""
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
    """A JSON item of an artifact or of a folder, compared with the manifest if there is one.

    cure: the hint when a folder without a manifest lacks the item.
    """
    found = artifact_or_path
    if not isinstance(found, Artifact) and has_manifest(Path(found)):
        found = Artifact(found)
    return found.json(relative, shape) if isinstance(found, Artifact) else read_json(Path(found, relative), shape, cure)
