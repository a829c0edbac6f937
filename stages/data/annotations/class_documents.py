"""Class tables as JSON or YAML, split into the parts of their entries, which `class_table` reads like those of lines.

["background", "cat"]                                  names
{"0": "background", "1": "cat"}                        ids, also {"background": 0, "cat": 1}
{"background": [0, 0, 0], "cat": "#400000"}            colours
[{"id": 1, "name": "cat", "color": [64, 0, 0]}]        entries; `color_hex_code`, `title` and others are known
names: [background, cat]                               any of these below `names`, `classes`, `categories`, `labels`
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError, DataError
from artifacts.yaml_files import parse_yaml

LONGEST = 1_000_000  # characters of a class table in YAML
SUFFIXES = (".json", ".yaml", ".yml")
_BEGINNING = re.compile(r"\s*[{\[]|(.*\n)*?(names|classes|categories|labels)[ \t]*:[ \t]*(#.*)?(\n|[\[{])")
_PROTOBUF = re.compile(r"\s*(item|label)\s*\{")
_BELOW = ("names", "classes", "categories", "labels")
_NAME = ("name", "title", "label", "class", "class_name", "readable")
_ID = ("id", "value", "index", "class_id", "label_id", "pixel_value")
_COLOUR = ("color", "colour", "rgb", "hex", "color_hex_code")
_FORMS = 'write names ["background", "cat"], ids {"0": "background"}, or entries [{"name": "cat", "color": [64, 0, 0]}]'

Parts = tuple[str, list[str], str | None]  # name, R G B, id


def is_document(path: Path, text: str) -> bool:
    """Whether a class table is JSON or YAML, by its suffix or its beginning. DataError for a protobuf text file."""
    if _PROTOBUF.match(text):
        raise DataError(f"{path} is a label map in protobuf text, which is not read", "write `id name` lines")
    return path.suffix.lower() in SUFFIXES or _BEGINNING.match(text) is not None


def read_entries(path: Path, text: str) -> Iterator[tuple[str, Parts]]:
    """(place, parts) of each entry of a document; DataError, with the entry's number, for what is not a class."""
    content = _content(path, text)
    for _ in range(2):  # {"categories": {"names": ...}}
        if isinstance(content, dict) and (
            found := [key for key in _BELOW if isinstance(content.get(key), list | dict)]
        ):
            content = content[found[0]]
    entries = list(content.items()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} holds no list of classes", _FORMS)
    for number, entry in enumerate(entries, start=1):
        place = f"entry {number}"
        parts = _pair(*entry) if isinstance(entry, tuple) else _entry(entry)
        if parts is None:
            raise DataError(f"{path}, {place}: it is not a class", _FORMS)
        yield place, parts


def _content(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(content := dict(pairs)) < len(pairs):
            raise DataError(f"{path}: a key occurs twice in one object", "each class has one entry")
        return content

    with contextlib.suppress(ValueError, RecursionError):  # YAML's reader, which reads both, takes minutes for 100 MB
        return json.loads(text, object_pairs_hook=once)
    if len(text) > LONGEST:
        raise DataError(f"{path} has {len(text):,} characters, and is not JSON", f"a class table is short; {_FORMS}")
    try:
        return parse_yaml(text, str(path))
    except ConfigError as error:
        raise DataError(error.message, f"correct it; {_FORMS}") from None


def _entry(entry: Any) -> Parts | None:
    """The parts of an entry of a list: a name, or a mapping that has one."""
    if isinstance(entry, str):
        return entry, [], None
    if not isinstance(entry, dict):
        return None
    known = {str(key).lower().replace(" ", "_"): value for key, value in entry.items()}
    name, class_id, colour = (_first(known, keys) for keys in (_NAME, _ID, _COLOUR))
    rgb = [known[channel] for channel in "rgb" if channel in known] if colour is None else colour
    channels = _channels(rgb)
    if not isinstance(name, str) or channels is None or isinstance(class_id, bool | list | dict):
        return None
    return name, channels, None if class_id is None else str(class_id)


def _pair(key: Any, value: Any) -> Parts | None:
    """The parts of a key and its value: id and name, name and id, id and entry, name and colour."""
    number = re.fullmatch(r"-?\d+", str(key))
    if isinstance(value, dict):
        return _entry({"id" if number else "name": key} | value)
    if isinstance(value, str) and number:
        return value, [], str(key)
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(key, str) and not number:
        return key, [], str(value)
    channels = _channels(value) if isinstance(value, list | str) else None
    return (key, channels, None) if isinstance(key, str) and channels else None


def _first(known: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((known[key] for key in keys if known.get(key) is not None), None)


def _channels(colour: Any) -> list[str] | None:
    """R, G, B of [64, 0, 0], "64, 0, 0" or "#400000"; [] if empty, None if it is not a colour."""
    if isinstance(colour, str):
        if match := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", colour.strip()):
            return [str(int(channel, 16)) for channel in match.groups()]
        colour = re.split(r"[\s,]+", colour.strip("()[] "))
    if not isinstance(colour, list) or any(isinstance(channel, bool | list | dict) for channel in colour):
        return None
    return [str(channel) for channel in colour] if len(colour) in (0, 3) else None
