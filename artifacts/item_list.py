"""The items of an artifact, with the size and the SHA-256 of each: in its manifest, or in a file of their own.

A manifest is read to find out whether an artifact is fresh; of a million items it would have 150 MB. So more items than
MOST_IN_MANIFEST lie in items.jsonl, sorted by path, one line of JSON each: ["masks/a.png",1234,"<sha256>"]. It is
mapped into memory: one item is found by halving, and only `verify` reads all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from artifacts.canonical import canonical_json, file_digest
from artifacts.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
ITEMS_NAME = "items.jsonl"
LOCAL = "local"  # facts of this machine and run: stored with the content, but not part of it
MOST_IN_MANIFEST = 1000


class Item(TypedDict):
    bytes: int
    sha256: str


def check_relative(relative: str) -> str:
    """The path of an item inside its artifact: relative, with '/', no '..'."""
    up = ".." in relative and ".." in relative.split("/")
    if up or not relative or relative[0] == "/" or "\\" in relative or "\0" in relative:
        raise ArtifactError(f"{relative!r} leaves the artifact folder", "use a relative path without '..'")
    return relative


def list_files(folder: Path) -> list[str]:
    """Sorted relative paths of every content file below `folder`, see `iter_files`."""
    return sorted(iter_files(folder))


def iter_files(folder: Path | str, below: str = "") -> Iterator[str]:
    """Relative paths of every content file below `folder`; `below` comes before each.

    Left out: the manifest and the list of items, `local/`, and hidden files and folders (temporary files, scratch,
    progress).
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or (not below and entry.name in (LOCAL, MANIFEST_NAME, ITEMS_NAME)):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from iter_files(entry.path, f"{below}{entry.name}/")
            elif entry.is_file():
                yield f"{below}{entry.name}"


def item_of(folder: Path, relative: str) -> Item:
    path = folder / relative
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def list_items(folder: Path) -> dict[str, Item]:
    """Size and SHA-256 of every content file, by sorted relative path, see `list_files`."""
    return {relative: item_of(folder, relative) for relative in list_files(folder)}


class ContentDigest:
    """One digest for all items: equal if and only if every path and every byte is equal.

    It is that of the canonical JSON of {path: sha256}, made item by item; they come sorted by path.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"{")
        self._between = b""

    def add(self, relative: str, item: Item) -> None:
        self._hash.update(self._between + canonical_json(relative) + b":" + canonical_json(item["sha256"]))
        self._between = b","

    def hexdigest(self) -> str:
        whole = self._hash.copy()
        whole.update(b"}")
        return whole.hexdigest()


def content_digest(items: Mapping[str, Item]) -> str:
    """The digest of all items, see `ContentDigest`."""
    digest = ContentDigest()
    for relative, item in items.items() if isinstance(items, ListedItems) else sorted(items.items()):
        digest.add(relative, item)
    return digest.hexdigest()


def check_item(relative: Any, size: Any, sha256: Any) -> None:
    """ArtifactError unless these can be an item."""
    if type(size) is not int or not 0 <= size < 2**63 or type(sha256) is not str or len(sha256) != 64:
        raise ArtifactError(f"item {relative!r}: expected its bytes and its sha256")
    check_relative(relative)


def write_lines(file: Path, items: Iterable[tuple[str, Item]]) -> None:
    """Writes items.jsonl under a given name, and waits until it is on the disk. items: sorted by path."""
    with open(file, "w", encoding="utf-8", errors="backslashreplace") as lines:
        for relative, item in items:
            lines.write(json.dumps([relative, item["bytes"], item["sha256"]], ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


class ListedItems(Mapping[str, Item]):
    """The items in items.jsonl, which is opened at the first use. ArtifactError where it is missing or damaged."""

    def __init__(self, folder: Path, count: int) -> None:
        self._path, self._count = folder / ITEMS_NAME, count
        self._memory: mmap.mmap | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (relative for relative, _ in self._all())

    def __getitem__(self, relative: str) -> Item:
        text = self._text()
        low, high = 0, len(text)
        while low < high:
            middle = (low + high) // 2
            start, end = self._line(middle)
            found, item = self._parse(text[start:end])
            if found == relative:
                return item
            low, high = (end + 1, high) if found < relative else (low, start)
        raise KeyError(relative)

    def items(self) -> ItemsView[str, Item]:
        return _ListedItemsView(self)

    def sample(self, count: int) -> Iterator[tuple[str, Item]]:
        """About so many items, at equal distances."""
        text = self._text()
        places = sorted({self._line(number * len(text) // count) for number in range(count)}) if text else []
        for start, end in places:
            yield self._parse(text[start:end])

    def _all(self) -> Iterator[tuple[str, Item]]:
        text = self._text()
        start = 0
        while start < len(text):
            start, end = self._line(start)
            yield self._parse(text[start:end])
            start = end + 1

    def _line(self, place: int) -> tuple[int, int]:
        """Start and end of the line with the byte at `place`."""
        text = self._text()
        end = text.find(b"\n", place)
        return text.rfind(b"\n", 0, place) + 1, len(text) if end < 0 else end

    def _parse(self, line: bytes) -> tuple[str, Item]:
        with contextlib.suppress(ValueError, TypeError, ArtifactError):
            relative, size, sha256 = json.loads(line)
            check_item(relative, size, sha256)
            return relative, {"bytes": size, "sha256": sha256}
        raise ArtifactError(f"{self._path} is damaged: it has the line {line[:60]!r}", "make the artifact again")

    def _text(self) -> mmap.mmap | bytes:
        if self._memory is None:
            try:
                with open(self._path, "rb") as file:
                    self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            except (OSError, ValueError) as error:  # ValueError: it is empty
                why = getattr(error, "strerror", None) or "it is empty"
                raise ArtifactError(f"{self._path} cannot be read: {why}", "make the artifact again") from None
        return self._memory

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": None}


class _ListedItemsView(ItemsView[str, Item]):
    """All items in one pass, where the view of `Mapping` would look up each."""

    _mapping: ListedItems

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        return self._mapping._all()
