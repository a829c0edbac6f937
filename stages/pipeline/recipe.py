"""Recipes: whole pipelines as YAML, resolved and checked before anything runs.

    name: example
    description: One line.
    parameters:
      iterations: {default: 300, help: "Iterations of each training."}
    profiles:
      quick: {parameters: {iterations: 50}}
    repeat: {seed: [0, 1]}
    nodes:
      data: {stage: prepare-data, config: {dataset: shapes}}
      "train-s{seed}":
        stage: train
        inputs: {data: data}
        config: {iterations: "${iterations}", seed: "{seed}"}

`${key}` is replaced by a parameter and keeps its type when it is the whole value. A node whose name contains
`{seed}` stands once for every value of `repeat.seed`; its config and inputs may refer to `{seed}` as well. A profile
is laid over parameters, repeat, nodes and table; null removes.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from stages.config import Config, assign, mistakes, parse_assignment, read_yaml
from stages.contract import STAGE_MODULES, Stage, load_stage, required_inputs
from stages.pipeline.graph import find_cycle, topological_order
from stages.pipeline.table import Table, read_table

_RECIPE_KEYS = ("name", "description", "parameters", "assumptions", "profiles", "repeat", "nodes", "table")
_OVERLAY_KEYS = ("description", "parameters", "assumptions", "repeat", "nodes", "table")
_NODE_KEYS = ("stage", "config", "inputs")
_PARAMETER_KEYS = ("default", "help", "required")
_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_REPEATED = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Node:
    """One artifact to be made: its stage, its config (checked) and the nodes it reads, by input name."""

    name: str
    stage: Stage
    config: Config
    inputs: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every placeholder replaced, every config checked, nodes in an order that can run."""

    name: str
    description: str
    source: str
    profile: str | None
    parameters: dict[str, Any]
    assumptions: list[str]
    nodes: dict[str, Node]
    table: Table | None
    settings: list[str] = field(default_factory=list)  # the texts of --set

    @property
    def reads(self) -> dict[str, list[str]]:
        return {name: list(node.inputs.values()) for name, node in self.nodes.items()}


@dataclass
class _Mistakes:
    """Collects every mistake of one file, so that a person mends them in one go."""

    source: str
    lines: dict[str, None] = field(default_factory=dict)  # ordered, without repeats

    def add(self, key: str, text: str) -> None:
        self.lines[f"{key}: {text}" if key else text] = None

    def stop(self, hint: str | None = None) -> None:
        if self.lines:
            count = len(self.lines)
            raise ConfigError(
                f"{self.source}: {count} mistake{'s' if count > 1 else ''}\n"
                + "\n".join(f"  {line}" for line in self.lines),
                hint,
            )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" or the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def read_recipe(path: Path, profile: str | None = None, settings: Iterable[str] = ()) -> Recipe:
    """The recipe in the YAML file `path` under a profile, with `--set` texts applied.

    Raises ConfigError that lists every mistake with its dotted key.
    """
    return resolve(read_yaml(path), str(path), profile, settings)


def profiles_of(path: Path) -> list[str]:
    """Names of the profiles of a recipe file."""
    return list(read_yaml(path).get("profiles") or {})


def resolve(raw: Mapping[str, Any], source: str, profile: str | None = None, settings: Iterable[str] = ()) -> Recipe:
    """The recipe of the values `raw` (see `read_recipe`); `source` names it in messages."""
    problems, settings = _Mistakes(source), list(settings)
    _check_shape(raw, problems)
    problems.stop()
    values = _with_profile(raw, profile, problems)
    problems.stop()

    parameters, node_settings, complete = _parameters(values, settings, problems)
    repeat = _substitute(values.get("repeat") or {}, parameters, "repeat", problems)
    for key, options in repeat.items():
        if not isinstance(options, list):
            problems.add(f"repeat.{key}", f"expected a list of values, found {options!r}")
            complete = False
        else:  # a parameter that is a list takes the places of its values
            repeat[key] = [v for option in options for v in (option if isinstance(option, list) else [option])]
    if not complete:
        problems.stop()  # without these values, what follows would be mistakes that nobody made

    templates = values.get("nodes") or {}
    expanded: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for template, node in templates.items():
        for name, content in _expand(template, node, parameters, repeat, problems):
            expanded[name], origin[name] = content, template
    _apply_settings(expanded, node_settings, problems)

    nodes = {name: _node(name, origin, content, expanded, problems) for name, content in expanded.items()}
    reads = {n: [i for i in (c.get("inputs") or {}).values() if isinstance(i, str)] for n, c in expanded.items()}
    if cycle := find_cycle(reads):
        problems.add("nodes", f"cycle: {' -> '.join(cycle)} (each reads the next)")
    whole = {name: node for name, node in nodes.items() if node is not None}
    _check_kinds(whole, origin, problems)
    table = None
    if values.get("table") is not None:
        substituted = _substitute(values["table"], parameters, "table", problems)
        # what `select` makes is a segmenter whose summary holds its score
        kinds = {
            name: None if node is None else "metrics" if node.stage.name == "select" else node.stage.makes(node.config)
            for name, node in nodes.items()
        }
        table = read_table(substituted, repeat, kinds, problems.add)
    problems.stop()
    return Recipe(
        name=str(values["name"]),
        description=str(values.get("description", "")),
        source=source,
        profile=profile,
        parameters=parameters,
        assumptions=[str(line) for line in values.get("assumptions") or []],
        nodes={name: whole[name] for name in topological_order(reads)},
        table=table,
        settings=settings,
    )


def _check_shape(raw: Mapping[str, Any], problems: _Mistakes) -> None:
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


def _with_profile(raw: Mapping[str, Any], profile: str | None, problems: _Mistakes) -> dict[str, Any]:
    values = {key: value for key, value in raw.items() if key != "profiles"}
    values["parameters"] = _full_parameters(values.get("parameters"))
    profiles = raw.get("profiles") or {}
    if profile is not None:
        if profile not in profiles:
            problems.add("", f"there is no profile {profile!r}{did_you_mean(profile, profiles)}")
            return values
        overlay = dict(profiles[profile] or {})
        overlay["parameters"] = _full_parameters(overlay.get("parameters"))
        values = _overlay(values, overlay)
    for name, parameter in values["parameters"].items():
        for key in parameter:
            if key not in _PARAMETER_KEYS:
                problems.add(f"parameters.{name}.{key}", f"unknown key{did_you_mean(str(key), _PARAMETER_KEYS)}")
    for name, node in (values.get("nodes") or {}).items():
        if not isinstance(node, Mapping):
            problems.add(f"nodes.{name}", f"expected stage, config and inputs, found {node!r}")
            continue
        for key in node:
            if key not in _NODE_KEYS:
                problems.add(f"nodes.{name}.{key}", f"unknown key{did_you_mean(str(key), _NODE_KEYS)}")
        for key in ("config", "inputs"):
            if node.get(key) is not None and not isinstance(node[key], Mapping):
                problems.add(f"nodes.{name}.{key}", f"expected keys and values, found {node[key]!r}")
    return values


def _full_parameters(parameters: Any) -> dict[str, Any]:
    """`{lr: 0.1}` is short for `{lr: {default: 0.1}}`; null stays (it removes)."""
    return {
        str(key): value if isinstance(value, Mapping) or value is None else {"default": value}
        for key, value in (parameters or {}).items()
    }


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge in which null removes a key."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _overlay(merged[key], value)
        else:
            merged[key] = value
    return merged


def _parameters(
    values: Mapping[str, Any], settings: Iterable[str], problems: _Mistakes
) -> tuple[dict[str, Any], list[tuple[str, list[str], Any]], bool]:
    """The value of every parameter, the settings of nodes as (text, keys, value), and whether no value is missing."""
    declared = values["parameters"]
    parameters = {name: parameter.get("default") for name, parameter in declared.items()}
    given: set[str] = set()
    for_nodes: list[tuple[str, list[str], Any]] = []
    complete = True
    for text in settings:
        keys, value = parse_assignment(text)
        if len(keys) == 1:
            if keys[0] not in declared:
                problems.add(
                    f"--set {text}",
                    f"no parameter {keys[0]!r}{did_you_mean(keys[0], declared)} (a node's config: NODE.KEY=VALUE)",
                )
                continue
            parameters[keys[0]] = value
            given.add(keys[0])
        else:
            for_nodes.append((text, keys, value))
    for name, parameter in declared.items():
        if parameter.get("required") and name not in given and parameter.get("default") is None:
            problems.add(f"parameters.{name}", f"must be given: --set {name}=VALUE ({parameter.get('help', '')})")
            complete = False
    return parameters, for_nodes, complete


def _substitute(value: Any, parameters: Mapping[str, Any], key: str, problems: _Mistakes) -> Any:
    """`value` with every `${name}` replaced; a whole `${name}` keeps the parameter's type."""
    if isinstance(value, Mapping):
        return {k: _substitute(v, parameters, f"{key}.{k}", problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, parameters, f"{key}.{i}", problems) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in parameters:
            problems.add(key, f"unknown parameter ${{{name}}}{did_you_mean(name, parameters)}")
            return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return parameters[whole[1]]
    return _PLACEHOLDER.sub(lambda match: str(parameters[match[1]]), value)


def _expand(
    template: str,
    node: Mapping[str, Any],
    parameters: Mapping[str, Any],
    repeat: Mapping[str, list[Any]],
    problems: _Mistakes,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The node once for every combination of the repeated values its name refers to."""
    key = f"nodes.{template}"
    used = list(dict.fromkeys(_REPEATED.findall(template)))
    for name in used:
        if name not in repeat:
            problems.add(key, f"{{{name}}} is not repeated{did_you_mean(name, repeat)}")
            return
    content = _substitute(dict(node), parameters, key, problems)
    for values in itertools.product(*(repeat[name] for name in used)):
        chosen = dict(zip(used, values, strict=True))
        name = str(expand_repeated(template, chosen))
        if not _NODE_NAME.fullmatch(name):
            problems.add(key, f"{name!r} cannot name a node (letters, digits, '-' and '_')")
            return
        expanded = {part: expand_repeated(content[part], chosen) for part in content}
        for part in ("config", "inputs"):
            for inner, text in _texts(expanded.get(part) or {}, f"{key}.{part}"):
                for missing in _REPEATED.findall(text):
                    if missing in repeat:
                        problems.add(inner, f"refers to {{{missing}}}, which the node's name does not contain")
                    else:
                        problems.add(inner, f"{{{missing}}} is not repeated{did_you_mean(missing, repeat)}")
        yield name, expanded


def expand_repeated(value: Any, chosen: Mapping[str, Any]) -> Any:
    """`value` with `{seed}` replaced; a whole "{seed}" keeps its type."""
    if isinstance(value, Mapping):
        return {k: expand_repeated(v, chosen) for k, v in value.items()}
    if isinstance(value, list):
        return [expand_repeated(v, chosen) for v in value]
    if not isinstance(value, str):
        return value
    whole = _REPEATED.fullmatch(value)
    if whole and whole[1] in chosen:
        return chosen[whole[1]]
    return _REPEATED.sub(lambda match: str(chosen.get(match[1], match[0])), value)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{index}")
    elif isinstance(value, str):
        yield key, value


def _apply_settings(
    nodes: dict[str, dict[str, Any]], settings: list[tuple[str, list[str], Any]], problems: _Mistakes
) -> None:
    """`--set NODE.KEY=VALUE` (NODE may contain `*`); `NODE.config.KEY`, as in the file, means the same."""
    for text, keys, value in settings:
        pattern, path = keys[0], keys[1:]
        if path[0] == "config" and len(path) > 1:
            path = path[1:]
        matching = [name for name in nodes if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            problems.add(f"--set {text}", f"no node {pattern!r}{did_you_mean(pattern, nodes)}")
        for name in matching:
            config = nodes[name].get("config") or {}  # its own: expanding made every mapping anew
            assign(config, path, value)
            nodes[name] = {**nodes[name], "config": config}


def _node(
    name: str,
    origin: Mapping[str, str],
    content: Mapping[str, Any],
    nodes: Mapping[str, Mapping[str, Any]],
    problems: _Mistakes,
) -> Node | None:
    """The node with its config checked; None when it has mistakes, which are noted under its name in the file."""
    key = f"nodes.{origin[name]}"
    stage_name = content.get("stage")
    if not isinstance(stage_name, str):
        problems.add(f"{key}.stage", f"missing; stages: {', '.join(STAGE_MODULES)}")
        return None
    if stage_name not in STAGE_MODULES:
        problems.add(f"{key}.stage", f"there is no stage {stage_name!r}{did_you_mean(stage_name, STAGE_MODULES)}")
        return None
    stage = load_stage(stage_name)
    config, wrong = mistakes(stage.config, content.get("config") or {})
    for line in wrong:
        problems.add("", f"{key}.config.{line}")
    inputs = content.get("inputs") or {}
    for given, source in inputs.items():
        if given not in stage.inputs:
            problems.add(
                f"{key}.inputs.{given}", f"{stage_name} has no such input{did_you_mean(str(given), stage.inputs)}"
            )
        if not isinstance(source, str) or source not in nodes:
            problems.add(f"{key}.inputs.{given}", f"there is no node {source!r}{did_you_mean(str(source), nodes)}")
    for needed in required_inputs(stage, config, inputs) if config is not None else ():
        if needed not in inputs:
            problems.add(f"{key}.inputs", f"{stage_name} needs the input {needed!r} ({stage.inputs[needed].help})")
    return None if config is None else Node(name, stage, config, dict(inputs))


def _check_kinds(nodes: Mapping[str, Node], origin: Mapping[str, str], problems: _Mistakes) -> None:
    for name, node in nodes.items():
        for given, source in node.inputs.items():
            if given not in node.stage.inputs or source not in nodes:
                continue
            kinds, made = node.stage.inputs[given].kinds, nodes[source].stage.makes(nodes[source].config)
            if made not in kinds:
                problems.add(
                    f"nodes.{origin[name]}.inputs.{given}",
                    f"node {origin[source]!r} makes {made}, expected {' or '.join(kinds)}",
                )
