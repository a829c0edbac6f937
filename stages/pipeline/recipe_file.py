"""What a recipe's file holds before any placeholder is replaced: its base, its keys, profiles and special cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from artifacts.text import amount, did_you_mean
from artifacts.yaml_files import read_yaml

_RECIPE_KEYS = ("name", "description", "parameters", "assumptions", "profiles", "repeat", "nodes", "table")
_OVERLAY_KEYS = ("description", "parameters", "assumptions", "repeat", "nodes", "table")
_NODE_KEYS = ("stage", "config", "inputs", "cases")


@dataclass
class Mistakes:
    """Collects all mistakes of one file, so that they can be mended at once."""

    source: str
    lines: dict[str, None] = field(default_factory=dict)  # ordered, without repeats

    def add(self, key: str, text: str) -> None:
        self.lines[f"{key}: {text}" if key else text] = None

    def stop(self) -> None:
        if self.lines:
            lines = "\n".join(f"  {line}" for line in self.lines)
            raise ConfigError(f"{self.source}: {amount(len(self.lines), 'mistake')}\n{lines}")


def recipe_values(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a recipe's file holds, merged into what the file that it `extends` holds; null removes a key."""
    values = _with_full_parameters(read_yaml(path))
    if "extends" not in values:
        return values
    base, files = values.pop("extends"), (*extending, path.resolve())
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: extends: expected a recipe's file, relative to this one, found {base!r}")
    file = path.parent / base
    if file.resolve() in files:
        raise ConfigError(
            f"{path}: extends: {base} is extended by itself",
            "a recipe may not extend itself, also not by way of others",
        )
    if not file.is_file():
        raise ConfigError(
            f"{path}: extends: there is no file {file}", "give its path relative to the recipe that extends it"
        )
    return overlaid(recipe_values(file, files), values)


def _with_full_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with each parameter, those of profiles included, as a mapping; mistakes are left as they are."""
    full = dict(values)
    if isinstance(full.get("parameters"), Mapping):
        full["parameters"] = _full_parameters(full["parameters"])
    if isinstance(full.get("profiles"), Mapping):
        full["profiles"] = {
            name: _with_full_parameters(dict(profile)) if isinstance(profile, Mapping) else profile
            for name, profile in full["profiles"].items()
        }
    return full


def check_shape(raw: Mapping[str, Any], problems: Mistakes) -> None:
    for key in raw:
        if key not in _RECIPE_KEYS:
            problems.add(str(key), f"unknown key{did_you_mean(str(key), _RECIPE_KEYS)}")
    for key in ("name", "nodes"):
        if not raw.get(key):
            problems.add(key, "missing")
    for key in ("parameters", "profiles", "repeat", "nodes", "table"):
        if raw.get(key) is not None and not isinstance(raw[key], Mapping):
            problems.add(key, f"expected keys and values, found {raw[key]!r}")
    profiles = raw.get("profiles")
    for name, overlay in (profiles if isinstance(profiles, Mapping) else {}).items():
        if overlay is not None and not isinstance(overlay, Mapping):
            problems.add(f"profiles.{name}", f"expected keys and values, found {overlay!r}")
            continue
        for key in overlay or {}:
            if key not in _OVERLAY_KEYS:
                problems.add(f"profiles.{name}.{key}", f"unknown key{did_you_mean(str(key), _OVERLAY_KEYS)}")


def with_profile(raw: Mapping[str, Any], profile: str | None, problems: Mistakes) -> dict[str, Any]:
    values = {key: value for key, value in raw.items() if key != "profiles"}
    values["parameters"] = _full_parameters(values.get("parameters"))
    profiles = raw.get("profiles") or {}
    if profile is not None:
        if profile not in profiles:
            problems.add("", f"there is no profile {profile!r}{did_you_mean(profile, profiles)}")
            return values
        overlay = dict(profiles[profile] or {})
        overlay["parameters"] = _full_parameters(overlay.get("parameters"))
        values = overlaid(values, overlay)
    values["nodes"] = {str(name): node for name, node in (values.get("nodes") or {}).items()}
    for name, node in values["nodes"].items():
        if not isinstance(node, Mapping):
            problems.add(f"nodes.{name}", f"expected stage, config and inputs, found {node!r}")
            continue
        for key in node:
            if key not in _NODE_KEYS:
                problems.add(f"nodes.{name}.{key}", f"unknown key{did_you_mean(str(key), _NODE_KEYS)}")
        for place, mapping in _mappings(f"nodes.{name}", node):
            if mapping is not None and not isinstance(mapping, Mapping):
                problems.add(place, f"expected keys and values, found {mapping!r}")
    return values


def _mappings(place: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Whatever of a node must be keys and values, with its place."""
    for key in ("config", "inputs", "cases"):
        yield f"{place}.{key}", node.get(key)
    for name, values in _items(node.get("cases")):
        yield f"{place}.cases.{name}", values
        for value, case in _items(values):
            yield f"{place}.cases.{name}.{value}", case
            if isinstance(case, Mapping):
                yield from _mappings(f"{place}.cases.{name}.{value}", case)


def _items(mapping: Any) -> Iterable[tuple[Any, Any]]:
    return mapping.items() if isinstance(mapping, Mapping) else ()


def _full_parameters(parameters: Any) -> dict[str, Any]:
    """`{lr: 0.1}` is short for `{lr: {default: 0.1}}`; null stays (it removes)."""
    return {
        str(key): value if isinstance(value, Mapping) or value is None else {"default": value}
        for key, value in (parameters or {}).items()
    }


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge in which null removes a key."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = overlaid(merged[key], value)
        else:
            merged[key] = value
    return merged


def of_case(node: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The node for these repeated values: its cases for them, in their order, merged into config and inputs."""
    made = {key: value for key, value in node.items() if key != "cases"}
    for name, values in (node.get("cases") or {}).items():
        for value, case in values.items():
            if str(value) == str(chosen[name]):
                made = overlaid(made, case or {})
    return made
