"""Configs: frozen pydantic models, filled from defaults < YAML < `--set a.b=c`; every mistake is reported at once."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union

import pydantic

from artifacts.errors import ConfigError
from artifacts.text import amount, did_you_mean
from artifacts.yaml_files import DEEPEST, parse_yaml, yaml_text

RECORDED: Any = {"recorded": True}  # the context in which configs of artifacts are validated
EXPECTED_SETTINGS = ("model_type", "model_attributes_type", "dict_type")  # pydantic: the value has no keys
SHORTHAND = "="  # `network: tiny` with `--set network.dropout=0` becomes {"=": "tiny", "dropout": 0}


class Config(pydantic.BaseModel):
    """Base of every config: immutable, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )

    shorthand: ClassVar[str] = ""
    """The field that a plain text sets: with "preset", `network: tiny` means `network: {preset: tiny}`.

    A field that is a union with a discriminator needs none: a plain text is the discriminator, and a mapping without
    it means the default: `dataset: {train: 4}` is of the default data set.
    """

    before: ClassVar[Mapping[str, Any]] = {}
    """Of settings that were added with a default that changes results: what was done before there was the setting. That
    of base classes counts, too.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, each with what to write today."""

    starts_anew: ClassVar[bool] = False
    """Whether a mapping for this config is complete (presets), instead of changing the field's default."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if info.context is RECORDED and isinstance(value, dict):
            for kind in cls.__mro__:
                value = {**vars(kind).get("before", {}), **value}
        if isinstance(value, str) and cls.shorthand:
            return {cls.shorthand: value}
        if not isinstance(value, dict):
            return value
        if cls.shorthand:
            value = _expand(value, cls.shorthand)
        for name, field in cls.model_fields.items():
            if isinstance(key := field.discriminator, str) and name in value:
                inner = _expand(value[name], key)
                if isinstance(inner, dict) and key not in inner and isinstance(field.default, Config):
                    inner = {key: getattr(field.default, key), **inner}
                value = value | {name: inner}
            elif isinstance(value.get(name), dict) and isinstance(field.default, Config):
                value = value | {name: _over_default(field.default, value[name])}
        return value


def _over_default(default: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The given values over those of the field's default, which may differ from its class's: `mixing: {boxes: 2}` keeps
    the method's share, not that of CutMix in general, and `optimizer: {lr: 1e-3}` the stage's optimiser. A mapping that
    names another one (its shorthand) is complete.
    """
    if default.starts_anew or given.keys() & {default.shorthand, SHORTHAND}:
        return given
    merged: dict[str, Any] = {name: getattr(default, name) for name in default.model_fields_set}
    for name, value in given.items():
        own = merged.get(name)
        merged[name] = _over_default(own, value) if isinstance(own, Config) and isinstance(value, dict) else value
    return merged


def _expand(value: Any, key: str) -> Any:
    """A bare text, or a mapping with a text under SHORTHAND, to a mapping in which `key` names it."""
    if isinstance(value, str):
        return {key: value}
    if isinstance(value, dict) and SHORTHAND in value:
        return {key: value[SHORTHAND]} | {k: v for k, v in value.items() if k != SHORTHAND}
    return value


C = TypeVar("C", bound=Config)


def _named_file(value: Any) -> Path | None:
    return Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None


@dataclass(frozen=True)
class External:
    """Marks a field that names files outside the workspace: their content enters the fingerprint, not their path.

    Attributes:
        find: from the field's value (None apart) to the file or folder it names, or to several by a name for each;
            None where it names none, as "imagenet" of weights.
    """

    find: Callable[[Any], Path | Mapping[str, Path] | None] = _named_file


ExternalFile = Annotated[str, External()]
"""The path of a file or folder, "" for none."""


def external_files(config: Config) -> dict[str, Path]:
    """The files outside the workspace that a config names, by dotted key: in its parts, in lists and in unions too."""
    return dict(_external_files(config, "", None))


def _external_files(value: Any, key: str, marker: External | None) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Config):
        for name, field in type(value).model_fields.items():
            own = next(filter(None, map(_marker, (*field.metadata, field.annotation))), None)
            yield from _external_files(getattr(value, name), f"{key}.{name}".lstrip("."), own)
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from _external_files(part, f"{key}.{index}", marker)
    if marker is not None and value is not None:
        found = marker.find(value)
        several = found.items() if isinstance(found, Mapping) else ()
        yield from ((f"{key}.{name}", path) for name, path in several)
        if isinstance(found, Path):
            yield key, found


def _marker(part: Any) -> External | None:
    """The marker in a type, also where it stands in a union or a list."""
    if isinstance(part, External):
        return part
    return next(filter(None, map(_marker, typing.get_args(part))), None)


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`a.b=value` of `--set`, the value read as YAML: (["a", "b"], value)."""
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE", "for example --set optimizer.lr=1e-3")
    if len(keys) > DEEPEST:
        raise ConfigError(f"--set {_short(key)}: {len(keys):,} keys inside each other; at most {DEEPEST} are read")
    return keys, parse_yaml(value, f"--set {key}")


def assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets `values[k0][k1]...` in place; a bare text on the way is kept as the shorthand of its mapping.

    Mappings on the way are copied first: a YAML anchor lets several places share one.
    """
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = {} if inner is None else {SHORTHAND: inner}
        inner = dict(inner)
        values[key] = inner
        values = inner
    values[keys[-1]] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge: mappings merge (a bare text in `base` as the shorthand of one), all else in `over` replaces.

    A mapping in `over` that names another one by the shorthand is complete: settings of one method or network would
    not fit the other.
    """
    merged = dict(base)
    for key, value in over.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, str):
            under = {SHORTHAND: under}
        if isinstance(value, Mapping) and isinstance(under, Mapping) and SHORTHAND not in value:
            merged[key] = merge(under, value)
        else:
            merged[key] = value
    return merged


def build(model: type[C], values: Mapping[str, Any], source: str) -> C:
    """`model` from `values`. ConfigError lists every mistake: where, what was found, "did you mean"."""
    config, lines = mistakes(model, values)
    if config is None:
        raise ConfigError(
            f"{source}: {amount(len(lines), 'mistake')} in the config\n" + "\n".join(f"  {line}" for line in lines)
        )
    return config


def mistakes(model: type[C], values: Mapping[str, Any], recorded: bool = False) -> tuple[C | None, list[str]]:
    """`model` from `values`, or None and a line for every mistake, each beginning with its dotted key.

    recorded: the values are those of an artifact, which may lack settings that were added later, see `Config.before`.
    """
    try:
        return model.model_validate(dict(values), context=RECORDED if recorded else None), []
    except pydantic.ValidationError as error:
        return None, list(dict.fromkeys(_describe(problem, model) for problem in _meant(error.errors(), model)))


def _meant(problems: Sequence[Any], model: type[Config]) -> list[Any]:
    """Without those of the member of a union that is not meant: keys and values mean settings, all else a plain value.

    Pydantic tells for each member of `float | Settings` why a value is none of it.
    """
    keys = [_locate(model, problem["loc"])[0] for problem in problems]
    kept = []
    for problem, key in zip(problems, keys, strict=True):
        settings = problem["type"] in EXPECTED_SETTINGS
        if settings and any(other == key for found, other in zip(problems, keys, strict=True) if found is not problem):
            continue
        below = any(len(other) > len(key) and other[: len(key)] == key for other in keys)
        if below and isinstance(problem["input"], Mapping) and problem["type"].endswith("_type"):
            continue
        kept.append(problem)
    return kept


def _describe(problem: Any, model: type[Config]) -> str:
    location, owners = _locate(model, problem["loc"])
    key = ".".join(location) or "config"
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        if location[-1] == SHORTHAND:
            return f"{'.'.join(location[:-1]) or 'config'}: a bare text {_short(found)} cannot stand for these settings"
        if now := next((owner.renamed[location[-1]] for owner in owners if location[-1] in owner.renamed), None):
            return f"{key}: there is no such key any more; write {now}"
        return f"{key}: unknown key{_suggest_key(model, location, owners)}"
    if kind == "missing":
        return f"{key}: is required"
    if kind in ("literal_error", "union_tag_invalid"):
        tag = context["tag"] if kind == "union_tag_invalid" else found
        expected = str(context.get("expected") or context.get("expected_tags"))
        names = re.findall(r"'([^']+)'", expected)
        if kind == "union_tag_invalid":
            key += f".{context['discriminator'].strip(chr(39))}"
        return f"{key}: {_short(tag)} is not one of {expected}{did_you_mean(str(tag), names, list_known=False)}"
    if kind == "union_tag_not_found":
        return f"{key}.{context['discriminator'].strip(chr(39))}: is required (found {_short(found)})"
    if kind in EXPECTED_SETTINGS:
        return f"{key}: expected keys and values (found {_short(found)})"
    message = problem["msg"].removeprefix("Value error, ")
    if message.startswith("Input should"):
        message = f"expected {message.removeprefix('Input should ').removeprefix('be ')}"
    return f"{key}: {message} (found {_short(found)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest_key(model: type[Config], location: list[str], owners: list[type[Config]]) -> str:
    """What an unknown key may have meant: a similar key beside it, or the same key elsewhere in the config."""
    known = list(dict.fromkeys(name for owner in owners for name in owner.model_fields))
    if meant := did_you_mean(location[-1], known, list_known=False):
        return meant
    here = ".".join(location)  # where another member of a union has it, and the one that is meant has not
    elsewhere = [path for path in _all_keys(model) if path.rpartition(".")[2] == location[-1] and path != here]
    if elsewhere:
        return f", did you mean {min(elsewhere, key=lambda path: path.count('.'))!r}?"
    return f"; known: {', '.join(known)}" if known else "; there are none here"


def _all_keys(model: type[Config], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for option in _options(field.annotation):
            if isinstance(option, type) and issubclass(option, Config):
                yield from _all_keys(option, f"{prefix}{name}.")


def _options(annotation: Any) -> list[Any]:
    """The types a value may have: the members of a union (None left out), without `Annotated`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [_options(member) for member in typing.get_args(annotation) if member is not types.NoneType]
        return [option for member in members for option in member]
    return [annotation]


def _locate(model: type[Config], location: tuple[Any, ...]) -> tuple[list[str], list[type[Config]]]:
    """The dotted key of a pydantic error, and the configs that could own its last part.

    Pydantic puts labels among the keys that no file contains: the discriminator's value or the name of the type for
    each union it passes, and its own words for validators. The walk along the types tells keys from labels.
    """
    keys: list[str] = []
    options: list[Any] = [model]
    owners: list[type[Config]] = [model]
    for index, part in enumerate(location):
        if len(options) > 1:  # a label follows, unless the error is about the union as a whole
            options = [option for option in options if part in _labels(option)] or options
            if part in {label for option in options for label in _labels(option)}:
                continue
        configs = [option for option in options if isinstance(option, type) and issubclass(option, Config)]
        fields = [config.model_fields[part] for config in configs if part in config.model_fields]
        elements = [a for o in options for a in typing.get_args(o) if typing.get_origin(o) in (list, tuple, dict)]
        is_last = index == len(location) - 1
        if part == "[key]" or str(part).startswith("function-"):
            continue
        if fields or elements or (configs and is_last):
            keys.append(str(part))
            owners = configs
            options = [o for field in fields for o in _options(field.annotation)] or [
                o for element in elements if element is not Ellipsis for o in _options(element)
            ]
            options = list(dict.fromkeys(options))
    return keys, owners


def _labels(option: Any) -> set[Any]:
    """What pydantic may call a member of a union: its name, or a value of its discriminator."""
    name = getattr(option, "__name__", str(option))
    labels: set[Any] = {name, f"constrained-{name}", str(option)}
    if isinstance(option, type) and issubclass(option, Config):
        for field in option.model_fields.values():
            if typing.get_origin(field.annotation) is typing.Literal:
                labels |= set(typing.get_args(field.annotation))
    return labels


def describe_config(model: type[Config], values: Config | None = None, indent: int = 0) -> str:
    """The full config as commented YAML: every field with its meaning and its default (or its value).

    What is printed for `values` reads back as the same config; without `values`, required fields are left empty.
    """
    if values is None and not any(field.is_required() for field in model.model_fields.values()):
        values = model()
    pad, lines = "  " * indent, []
    for name, field in model.model_fields.items():
        if field.description:
            lines += [f"{pad}# {line}".rstrip() for line in field.description.splitlines()]
        if values is not None:
            value = getattr(values, name)
        elif field.is_required():
            lines.append(f"{pad}{name}:  # required")
            continue
        else:
            value = field.get_default(call_default_factory=True)
        if isinstance(value, Config) and type(value).model_fields:
            lines.append(f"{pad}{name}:")
            lines.append(describe_config(type(value), value, indent + 1))
        else:
            lines.append(f"{pad}{name}: {yaml_text(value)}")
    return "\n".join(lines)
