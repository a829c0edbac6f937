"""Tables of settings, from the config classes of stages, methods and refiners."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from artifacts.yaml_files import yaml_text
from docs.site.markdown import cell, table
from stages.config import Config

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings_table(config: type[Config], prefix: str = "") -> str:
    """Every setting by its dotted key, with what it may be, its default and its meaning."""
    return table(("setting", "may be", "default", "meaning"), rows(config, prefix=prefix))


def rows(config: type[Config], values: Config | None = None, prefix: str = "") -> Iterator[tuple[str, ...]]:
    """The rows of a config; `values` are the defaults where the config is a part of another one."""
    for name, field in config.model_fields.items():
        key, value, choices = f"{prefix}{name}", default_of(name, field, values), configs_in(field.annotation)
        if isinstance(value, Config) and len(choices) == 1:
            yield f"`{key}`", "", "", cell(field.description or "")
            yield from rows(type(value), value, f"{key}.")
        else:
            shown = "required" if field.is_required() and values is None else f"`{shorter(value)}`"
            yield f"`{key}`", may_be(field, choices), cell(shown), cell(field.description or "")
            if len(choices) == 1:  # null by default
                yield from rows(choices[0], None, f"{key}.")


def alternatives(config: type[Config]) -> Iterator[tuple[str, list[type[Config]]]]:
    """The settings whose value is one of several configs, as `dataset` of prepare-data, with these configs."""
    for name, field in config.model_fields.items():
        choices = configs_in(field.annotation)
        if len(choices) > 1:
            yield name, choices


def label(config: type[Config]) -> str:
    """The name of one of several configs: the only value that a field of it may have."""
    names = [
        field.annotation for field in config.model_fields.values() if typing.get_origin(field.annotation) is Literal
    ]
    return next(str(typing.get_args(name)[0]) for name in names if len(typing.get_args(name)) == 1)


def configs_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [config for part in typing.get_args(annotation) for config in configs_in(part)]


def default_of(name: str, field: FieldInfo, values: Config | None) -> Any:
    if values is not None:
        return getattr(values, name)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def shorter(value: Any) -> str:
    """As `semiseg config` writes it; of one of several configs the name."""
    return label(type(value)) if isinstance(value, Config) else yaml_text(value)


def may_be(field: FieldInfo, choices: list[type[Config]]) -> str:
    """The values that a setting takes, in words; the names of several configs."""
    if len(choices) > 1:
        return ", ".join(f"`{label(choice)}`" for choice in choices)
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return cell(" or ".join(dict.fromkeys(kinds(TypeAdapter(annotation).json_schema()))))


def kinds(schema: dict[str, Any]) -> Iterator[str]:
    """The alternatives of a JSON schema, each in words."""
    if alternatives := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for alternative in alternatives:
            yield from kinds(alternative)
    elif "$ref" in schema:
        yield "settings"
    elif "enum" in schema:
        yield ", ".join(f"`{yaml_text(value)}`" for value in schema["enum"])
    elif "const" in schema:
        yield f"`{yaml_text(schema['const'])}`"
    elif schema.get("type") == "array":
        inner = schema.get("prefixItems") or [schema.get("items", {})]
        yield "list of " + " and ".join(dict.fromkeys(word for part in inner for word in kinds(part)))
    else:
        bounds = " and ".join(f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)
        if schema.keys() >= {"minimum", "maximum"} and not schema.keys() & {"exclusiveMinimum", "exclusiveMaximum"}:
            bounds = f"{schema['minimum']:g}..{schema['maximum']:g}"
        words = {"integer": "whole number", "string": "text", "boolean": "true, false", "object": "mapping"}
        kind = str(schema.get("type", "any"))
        yield f"{words.get(kind, kind)} {bounds}".strip()
