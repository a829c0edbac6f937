"""`manifest.json`: what an artifact is, what made it, and from what. Written last: an artifact that has it is whole."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic accepts TypedDict of typing only from Python 3.12 on

from artifacts.canonical import pretty_json
from artifacts.errors import ArtifactError, OlderFormatError
from artifacts.item_list import MANIFEST_NAME, check_item
from artifacts.json_items import MAKE_AGAIN, OTHER_VERSION, Anything, Count, Seconds, Shape, Text, read_json

LISTED = {"count", "bytes", "sha256"}  # the keys of `items` where items.jsonl lists them

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


def _check_items(items: Any) -> dict[str, Any]:
    """Checked in plain code: there may be as many items as images, and pydantic would copy them all."""
    if not isinstance(items, dict):
        raise ValueError("expected an object")
    if is_listed(items):
        check_item("of items.jsonl", items["bytes"], items["sha256"])
        return items
    for relative, item in items.items():
        check_item(relative, *((item.get("bytes"), item.get("sha256")) if isinstance(item, dict) else (None, None)))
    return items


def is_listed(items: dict[str, Any]) -> bool:
    """Whether this is the record of items.jsonl, instead of the items themselves."""
    return items.keys() == LISTED and type(items["count"]) is int


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

    schema_version: Literal[1, 2] = Field(alias="schema")
    kind: str
    kind_version: Count
    stage: str
    stage_version: Count
    fingerprint: str
    content: str
    config: Anything
    inputs: dict[str, InputRecord]
    externals: dict[str, str]  # config key -> sha256 of the file it named
    items: Annotated[Any, AfterValidator(_check_items)]  # path -> {"bytes", "sha256"}; in schema 2 see `is_listed`
    summary: Anything
    made_by: MadeBy
    started: str
    finished: str
    seconds: Seconds
    resumed: Count
    argv: list[Text]

    @model_validator(mode="after")
    def _items_as_the_schema_has_them(self) -> Manifest:
        if is_listed(self.items) != (self.schema_version == 2):
            raise ValueError("items are not as its schema has them")
        return self

    @property
    def count(self) -> int:
        found: int = self.items["count"] if is_listed(self.items) else len(self.items)
        return found

    @property
    def bytes(self) -> int:
        found: int = (
            self.items["bytes"] if is_listed(self.items) else sum(item["bytes"] for item in self.items.values())
        )
        return found

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
    manifest = _read(path)
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


_SETTLED_S = 2.0  # a file that was written longer ago is not written again without its times changing
_MOST_KEPT = 16 << 20  # bytes of a manifest; only those of earlier versions with many items have more


def _read(path: Path) -> Manifest:
    """The manifest in a file, which is read once as long as it is not replaced: a recipe asks for some 100 times."""
    try:
        found = os.stat(path)
    except OSError:
        return read_json(path, Manifest)
    settled = time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_S
    if not settled or found.st_size > _MOST_KEPT:
        return read_json(path, Manifest)
    return _read_once(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=512)
def _read_once(path: Path, identity: tuple[int, ...]) -> Manifest:
    return read_json(path, Manifest)
