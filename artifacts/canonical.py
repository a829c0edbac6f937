"""Canonical JSON and content digests: the same value gives the same bytes, on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space.

    Raises ValueError for NaN and infinity (they are not JSON), TypeError for keys that are not text: JSON would turn
    them into text, and two different values would get one digest.
    """
    _refuse_other_keys(value)
    return _utf8(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def _utf8(json_text: str) -> bytes:
    """The bytes of JSON; a lone surrogate (a byte of a path that is not UTF-8) is written as a JSON escape."""
    return json_text.encode("utf-8", "backslashreplace")


def _refuse_other_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"JSON keys are text, found {key!r}")
            _refuse_other_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_other_keys(inner)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PRETTY = json.JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)


def pretty_json(value: Any) -> str:
    """JSON for files that people open: sorted, indented, with a final newline."""
    return _utf8(_PRETTY.encode(value) + "\n").decode()


def write_pretty_json(file: Path, value: Any) -> None:
    """Writes the text of `pretty_json`, part by part: the parts of a list of a million images would take 1 GB."""
    with open(file, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as opened:
        opened.writelines(_PRETTY.iterencode(value))
        opened.write("\n")


def json_ready(value: Any, where: str) -> Any:
    """`value` in the types of JSON, for records that people read: NaN and infinity become None, tuples become lists,
    scalars of numpy and torch become numbers, number keys become text.

    Raises ArtifactError which names the place of a value that JSON cannot hold; the place begins with `where`.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        ready = {}
        for key, inner in value.items():
            if not isinstance(key, str | int) or isinstance(key, bool) or str(key) in ready:
                raise ArtifactError(f"{where} has the key {key!r}, expected distinct texts")
            ready[str(key)] = json_ready(inner, f"{where}.{key}")
        return ready
    if isinstance(value, list | tuple):
        return [json_ready(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return json_ready(value.item(), where)
    raise ArtifactError(f"{where} is a {type(value).__name__}, which JSON cannot hold: {str(value)[:60]}")
