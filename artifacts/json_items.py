"""JSON files as typed records: one reader that checks everything before a value is used.

class Classes(Shape):
    class_names: list[str]

read_json(folder / "classes.json", Classes).class_names     # ArtifactError: which file, where in it, what was expected

A file is refused when it is missing, unreadable, not a plain file, larger than MAX_BYTES, not UTF-8 or not JSON (NaN,
infinity and a key that occurs twice included), nested deeper than MAX_DEPTH, or of a different shape.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import pydantic
from pydantic import AfterValidator, Field

from artifacts.errors import ArtifactError, SemisegError

MAX_BYTES = 1 << 30  # a data set of a million images takes 0.1 GiB
MAX_DEPTH = 100
MAX_COUNT = 2**63 - 1  # the largest number that the formats in addition to JSON hold
OTHER_VERSION = "use the version of semiseg that made it, or make it again"
MAKE_AGAIN = "put the old file back, or make the artifact again: semiseg clean NAME, then the command that made it"


class Shape(pydantic.BaseModel):
    """Base of the shapes of JSON files: a number is not text, true is not a number. Unknown keys are ignored."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, populate_by_name=True)


def _plain(value: Any) -> Any:
    """Refuses values that are nested too deep to be walked through, and numbers that other programs cannot read."""
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        if any(isinstance(part, int) and abs(part) > MAX_COUNT for part in parts):
            raise ValueError(f"a whole number beyond {MAX_COUNT}")
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return value
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError(f"{_twice(names)!r} occurs twice")
    return names


def _twice(names: Iterable[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0, le=MAX_COUNT)]
Text = Annotated[Any, AfterValidator(_text)]  # of paths: pydantic's str must not hold bytes that are not UTF-8
Distinct = Annotated[list[str], AfterValidator(_distinct)]
Anything = Annotated[dict[str, Any], AfterValidator(_plain)]  # an object whose content only people and its writer know

_EXPECTED = {
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), "an object"),
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "none_required": "null",
}

T = TypeVar("T")


@functools.cache
def _adapter(shape: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(shape)


def read_json(path: Path, shape: type[T], cure: str = MAKE_AGAIN, sha256: str | None = None) -> T:
    """The JSON file as a value of `shape`: a `Shape`, or one of the types that JSON has.

    sha256: the digest that the file must have. cure: the hint of the ArtifactError.
    """
    data = _bytes(path, cure)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ArtifactError(f"{path} is damaged: it was changed since it was published (its digest differs)", cure)
    return parse_json(data, shape, str(path), cure, as_written=sha256 is not None)


def read_record(path: Path, shape: type[T]) -> T | None:
    """A small record that can be done without: None where `read_json` would refuse it."""
    try:
        return read_json(path, shape)
    except ArtifactError:
        return None


def _bytes(path: Path, cure: str) -> bytes:
    try:
        if not stat.S_ISREG((found := os.stat(path)).st_mode):  # reading a pipe would wait for its writer
            raise ArtifactError(f"{path} cannot be read: it is not a file", cure)
        if found.st_size > MAX_BYTES:
            raise ArtifactError(f"{path} has {found.st_size:,} bytes, at most {MAX_BYTES:,} are read", cure)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path.parent} has no {path.name}", cure) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path} cannot be read: {why}", "check the permissions") from None


def parse_json(data: bytes | str, shape: type[T], source: str, cure: str = MAKE_AGAIN, as_written: bool = False) -> T:
    """The JSON text as a value of `shape`; `source` names it in the ArtifactError.

    as_written: semiseg wrote the text, so that no key occurs twice and every number is finite.
    """
    hooks: Any = {"object_pairs_hook": _object, "parse_constant": _not_a_number, "parse_float": _finite}
    try:
        value = json.loads(data if isinstance(data, str) else data.decode(), **({} if as_written else hooks))
    except RecursionError:
        raise ArtifactError(f"{source} is damaged: it is nested too deep", cure) from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{source} is damaged: byte {error.start} is not UTF-8", cure) from None
    except ValueError as error:
        raise ArtifactError(f"{source} is damaged: {str(error).partition(';')[0]}", cure) from None
    return shaped(value, shape, source, cure)


def shaped(value: Any, shape: type[T], source: str, cure: str = MAKE_AGAIN) -> T:
    """A value of JSON as one of `shape`; `source` names it in the ArtifactError."""
    try:
        # in strict mode pydantic makes a dataclass only of an instance
        found: T = _adapter(cast(Hashable, shape)).validate_python(value, strict=not dataclasses.is_dataclass(shape))
        return found
    except pydantic.ValidationError as error:
        raise _misshapen(error, source, cure) from None
    except SemisegError as error:  # from a check that the writer makes, too
        raise ArtifactError(f"{source} is damaged: {error.message}", cure) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {_twice(key for key, _ in pairs)!r} occurs twice in one object")
    return found


def _not_a_number(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def _misshapen(error: pydantic.ValidationError, source: str, cure: str) -> ArtifactError:
    """The mistakes in words: a different schema before all others, then missing keys, then the first wrong value."""
    problems = error.errors(include_url=False)
    for problem in problems:
        if problem["loc"] == ("schema",) and problem["type"] == "literal_error":
            return ArtifactError(
                f"{source} has schema {_short(problem['input'])}, this version of semiseg reads "
                f"{problem['ctx']['expected']}",
                OTHER_VERSION,
            )
    missing = [_place(problem["loc"]) for problem in problems if problem["type"] == "missing"]
    if missing:
        return ArtifactError(f"{source} lacks {', '.join(missing[:5])}", cure)
    first, more = problems[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    where = f" at {place}" if (place := _place(first["loc"])) else ""
    message = first["msg"].removeprefix("Value error, ")
    if (kind := first["type"]) in _EXPECTED or message.startswith("Input should"):
        message = f"expected {_EXPECTED.get(kind) or message.removeprefix('Input should ').removeprefix('be ')}"
    found = (
        "" if kind == "value_error" and isinstance(first["input"], dict | list) else f", found {_short(first['input'])}"
    )
    return ArtifactError(f"{source} is damaged{where}: {message}{found}{more}", cure)


def _place(location: tuple[int | str, ...]) -> str:
    """("tags", "a", 0) as tags.a[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _short(value: Any) -> str:
    """A value as JSON, of at most 60 characters; of a large one only its kind."""
    if isinstance(value, dict | list) and len(value) > 3:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "a nested value"
    return text if len(text) <= 60 else f"{text[:57]}..."
