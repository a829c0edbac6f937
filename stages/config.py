"""Configs: frozen pydantic models, filled from defaults < YAML < `--set a.b=c`; every mistake is reported at once."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union

import pydantic
import yaml

from artifacts.errors import ConfigError


SHORTHAND = "="  # `network: tiny` with `--set network.dropout=0` becomes {"=": "tiny", "dropout": 0}


class Config(pydantic.BaseModel):
    """Base of every config: immutable, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    shorthand: ClassVar[str] = ""
    """The field a bare text stands for: with "preset", `network: tiny` means `network: {preset: tiny}`."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        if isinstance(value, str) and cls.shorthand:
            return {cls.shorthand: value}
        if isinstance(value, dict) and SHORTHAND in value and cls.shorthand:
            return {cls.shorthand: value[SHORTHAND]} | {k: v for k, v in value.items() if k != SHORTHAND}
        return value


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML without two traps: `1e-3` is a number (YAML 1.1 reads text), `2007_000033` is text (it reads an integer)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    for _REPLACED in [("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf)$|^\.nan$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. ConfigError names `source`, line and column of a syntax error."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: no Python objects
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not YAML: {getattr(error, 'problem', error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping (or nothing)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}, expected keys and values")
    return value


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`a.b=value` of `--set`, the value read as YAML: (["a", "b"], value)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE", "for example --set optimizer.lr=1e-3")
    return key.strip().split("."), parse_yaml(value, f"--set {key}")


def assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets `values[k0][k1]...` in place; a bare text on the way is kept as the shorthand of its mapping."""
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = {} if inner is None else {SHORTHAND: inner}
        values[key] = inner
        values = inner
    values[keys[-1]] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge: mappings merge, everything else in `over` replaces."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def build(model: type[C], values: Mapping[str, Any], source: str) -> C:
    """`model` from `values`. ConfigError lists every mistake: where, what was found, "did you mean"."""
    try:
        return model.model_validate(dict(values))
    except pydantic.ValidationError as error:
        lines = [_describe(problem, model) for problem in error.errors()]
        raise ConfigError(
            f"{source}: {len(lines)} mistake{'s' if len(lines) > 1 else ''} in the config\n"
            + "\n".join(f"  {line}" for line in lines)
        ) from None


def _describe(problem: Any, model: type[Config]) -> str:
    location = [str(part) for part in problem["loc"] if not _is_union_branch(part)]
    key = ".".join(location) or "config"
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, problem["loc"][:-1])
        known = list(owner.model_fields) if owner else []
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        meant = f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
        return f"{key}: unknown key{meant}"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if problem["type"] == "missing" else f" (found {_short(problem['input'])})"
    if problem["type"] in ("literal_error", "union_tag_invalid"):
        expected = str(problem["ctx"].get("expected") or problem["ctx"].get("expected_tags"))
        value = problem["input"]
        tag = value if isinstance(value, str) else problem["ctx"].get("tag", "")
        close = difflib.get_close_matches(tag, re.findall(r"'([^']+)'", expected), n=1, cutoff=0.5)
        meant = f", did you mean {close[0]!r}?" if close else ""
        return f"{key}: {tag or _short(value)!r} is not one of {expected}{meant}"
    return f"{key}: {message[0].lower() + message[1:]}{found}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_union_branch(part: Any) -> bool:
    return isinstance(part, str) and (part.endswith("Config") or "[" in part or part.startswith("function-"))


def _models_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif typing.get_origin(annotation) in (Union, types.UnionType, typing.Annotated, list, tuple, dict):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)


def _model_at(model: type[Config], location: tuple[Any, ...]) -> type[Config] | None:
    """The config class whose field is at `location`; of a union, the member that the discriminator names."""
    candidates = [model]
    for part in location:
        fields = [m.model_fields[part] for m in candidates if part in m.model_fields]
        if fields:
            candidates = [inner for f in fields for inner in _models_in(f.annotation)]
        else:  # a discriminator tag
            tagged = [
                m for m in candidates if any(part in typing.get_args(f.annotation) for f in m.model_fields.values())
            ]
            candidates = tagged or candidates
    return candidates[0] if candidates else None


def describe_config(model: type[Config], values: Config | None = None, indent: int = 0) -> str:
    """The full config as commented YAML: every field with its meaning and its default (or its value)."""
    pad, lines = "  " * indent, []
    for name, field in model.model_fields.items():
        if field.description:
            lines += [f"{pad}# {line}" for line in field.description.splitlines()]
        if values is not None:
            value = getattr(values, name)
        elif field.is_required():
            lines.append(f"{pad}{name}:  # required")
            continue
        else:
            value = field.get_default(call_default_factory=True)
        if isinstance(value, Config):
            lines.append(f"{pad}{name}:")
            lines.append(describe_config(type(value), value, indent + 1))
        else:
            plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
            text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
            lines.append(f"{pad}{name}: {text}")
    return "\n".join(lines)
