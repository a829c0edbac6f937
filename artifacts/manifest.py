"""`manifest.json`: what an artifact is, what made it, and from what. Written last: an artifact that has it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # pydantic accepts TypedDict of typing only from Python 3.12 on

from artifacts.canonical import digest, file_digest, pretty_json
from artifacts.errors import ArtifactError, OlderFormatError
from artifacts.json_items import MAKE_AGAIN, MAX_COUNT, OTHER_VERSION, Anything, Count, Seconds, Shape, Text, read_json

MANIFEST_SCHEMA: Final = 1
MANIFEST_NAME = "manifest.json"

# The version of a kind is raised when its layout on disk changes; readers refuse versions they do not know.
KINDS: dict[str, int] = {
    "dataset": 2,
    "classifier": 1,
    "seeds": 3,
    "segmenter": 1,
    "predictions": 3,
    "masks": 1,
    "metrics": 1,
    "reliability": 1,
    "refiner": 1,
    "refined": 2,
    "instances": 1,
    "features": 1,
    "segments": 1,
    "review": 1,
}

LOCAL = "local"  # facts of this machine and run: stored with the content, but not part of it


def check_relative(relative: str) -> str:
    """The path of an item inside its artifact: relative, with '/', no '..'."""
    up = ".." in relative and ".." in relative.split("/")
    if up or not relative or relative[0] == "/" or "\\" in relative or "\0" in relative:
        raise ArtifactError(f"{relative!r} leaves the artifact folder", "use a relative path without '..'")
    return relative


def _check_items(items: Any) -> dict[str, dict[str, Any]]:
    """Checked in plain code: there are as many items as images, and pydantic would copy them all."""
    if not isinstance(items, dict):
        raise ValueError("expected an object")
    for relative, item in items.items():
        size, sha256 = (item.get("bytes"), item.get("sha256")) if isinstance(item, dict) else (None, None)
        if type(size) is not int or not 0 <= size <= MAX_COUNT or type(sha256) is not str or len(sha256) != 64:
            raise ArtifactError(f"item {relative!r}: expected its bytes and its sha256")
        check_relative(relative)
    return items


class InputRecord(TypedDict):
    """The record of an input when it was read."""

    artifact: str
    content: str
    kind: NotRequired[str]  # the fields from here on are for people only
    kind_version: NotRequired[Count]
    fingerprint: NotRequired[str]


class SourceRecord(TypedDict):
    commit: str
    modified: NotRequired[bool]


class MadeBy(TypedDict, total=False):
    """Versions and machine; None if unknown."""

    versions: dict[str, str]
    source: SourceRecord | None
    host: str
    platform: str
    cpus: Count | None
    device: str | None
    processes: Count


class Manifest(Shape):
    """The record of one artifact; the fields are specified in docs/formats.md."""

    schema_version: Literal[1] = Field(alias="schema")
    kind: str
    kind_version: Count
    stage: str
    stage_version: Count
    fingerprint: str
    content: str
    config: Anything
    inputs: dict[str, InputRecord]
    externals: dict[str, str]  # config key -> sha256 of the file it named
    items: Annotated[Any, AfterValidator(_check_items)]  # path -> {"bytes", "sha256"}, all but those of `local/`
    summary: Anything
    made_by: MadeBy
    started: str
    finished: str
    seconds: Seconds
    resumed: Count
    argv: list[Text]

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def bytes(self) -> int:
        return sum(item["bytes"] for item in self.items.values())

    def to_json(self) -> str:
        return pretty_json(self.model_dump(by_alias=True))


def has_manifest(folder: Path) -> bool:
    """Whether the folder is an artifact, whole or damaged; a folder without read permission counts as one."""
    try:
        os.lstat(folder / MANIFEST_NAME)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`.

    Raises OlderFormatError for an older version of its kind; ArtifactError if it is missing, is not JSON, or has an
    unknown schema, kind or kind version.
    """
    path = folder / MANIFEST_NAME
    if not has_manifest(folder):
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST_NAME}", "run the stage that makes it")
    manifest = read_json(path, Manifest)
    if manifest.kind not in KINDS:
        raise ArtifactError(f"{path} has the unknown kind {manifest.kind!r}, known: {', '.join(KINDS)}", MAKE_AGAIN)
    found, known = manifest.kind_version, KINDS[manifest.kind]
    versions = f"{manifest.kind} has version {found}, this version of semiseg reads version {known}"
    if found < known:
        cure = f"rerun the stage {manifest.stage!r} that made it"
        raise OlderFormatError(f"{path} is of an older format: {versions}", cure)
    if found > known:
        raise ArtifactError(f"{path}: {versions}", OTHER_VERSION)
    return manifest


def list_items(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every content file below `folder`, by sorted relative path.

    Left out: the manifest, `local/`, and hidden files and folders (temporary files, scratch, progress).
    """
    items = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or relative.parts[0] in (LOCAL, MANIFEST_NAME) or not path.is_file():
            continue
        items[relative.as_posix()] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    return items


def content_digest(items: dict[str, dict[str, Any]]) -> str:
    """One digest for all items: equal if and only if every path and every byte is equal."""
    return digest({path: item["sha256"] for path, item in items.items()})
