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

`${key}` is replaced by a parameter and keeps its type when it is the whole value (see `parameters`). A node whose name
contains `{seed}` is made once for every value of `repeat.seed`; its config and inputs may refer to `{seed}`, too, and

        cases: {seed: {1: {config: {iterations: 50}}}}

is merged into the node of the value 1; with `stage: null` in its place there is no such node, and the rows of the
table that refer to it have nothing there. A node with `stage: null` is there only for values whose case gives it
one. A profile is merged into parameters, repeat, nodes and table; null removes a key. With `extends: FILE.yaml`, a
path relative to the recipe, the whole recipe is merged into the one of that file, profiles and all, in the same
way; a list replaces a list.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from artifacts.text import did_you_mean
from stages.config import Config, assign, mistakes
from stages.contract import STAGE_MODULES, Stage, load_stage, required_inputs
from stages.pipeline.graph import find_cycle, topological_order
from stages.pipeline.parameters import (
    NodeSetting,
    Origins,
    Parameter,
    fill_repeated,
    names_in,
    place_of,
    read_parameters,
    repeated_in,
    substitute,
    values_needed,
)
from stages.pipeline.recipe_file import Mistakes, check_shape, of_case, recipe_values, with_profile
from stages.pipeline.table import LEFT_OUT, Table, figures_planned, read_table

MOST_NODES = 5_000  # and as many rows, columns and figures of the table
MOST_CHARACTERS = 20_000_000  # of all nodes, every placeholder filled in
_PART_OF_NAME = re.compile(r"[A-Za-z0-9_-]+")
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
    declared: list[Parameter] = field(default_factory=list)

    @property
    def reads(self) -> dict[str, list[str]]:
        return {name: list(node.inputs.values()) for name, node in self.nodes.items()}


@dataclass(frozen=True)
class _Draft:
    """A node whose config is not checked yet, and where it comes from."""

    template: str
    chosen: dict[str, Any]  # the repeated values that it is made for
    written: Mapping[str, Any]  # as in the file, with `${...}` and `{...}`
    content: dict[str, Any]
    settings: list[NodeSetting] = field(default_factory=list)
    left_out: bool = False  # a case says `stage: null`

    @property
    def key(self) -> str:
        return f"nodes.{self.template}"

    def place(self, path: list[str], origins: Origins) -> str:
        """The option of the command line that gave this value of the config; else the value's key in the file."""
        for setting in reversed(self.settings):
            if path[: len(setting.path)] == setting.path:
                return setting.place
        names = origins.of_config(self.written.get("config"), path, self.chosen)
        return place_of(names) if names else ".".join([self.key, "config", *path])


def read_recipe(path: Path, profile: str | None = None, settings: Iterable[str] = ()) -> Recipe:
    """The recipe in the YAML file `path` under a profile, with `--set` texts applied.

    Raises ConfigError that lists every mistake with its dotted key.
    """
    return resolve(recipe_values(path), str(path), profile, settings)


def declared_parameters(path: Path, profile: str | None = None, settings: Iterable[str] = ()) -> list[Parameter]:
    """The parameters of the recipe in `path` under a profile, including those that must still be given."""
    problems = Mistakes(str(path))
    raw = recipe_values(path)
    check_shape(raw, problems)
    problems.stop()
    values = with_profile(raw, profile, problems)
    problems.stop()
    parameters, _ = read_parameters(values["parameters"], settings, problems.add)
    problems.stop()
    return list(parameters.values())


def resolve(raw: Mapping[str, Any], source: str, profile: str | None = None, settings: Iterable[str] = ()) -> Recipe:
    """The recipe of the values `raw` (see `read_recipe`); `source` names it in messages."""
    problems, settings = Mistakes(source), list(settings)
    check_shape(raw, problems)
    problems.stop()
    values = with_profile(raw, profile, problems)
    problems.stop()

    parameters, node_settings = read_parameters(values["parameters"], settings, problems.add)
    _check_required(parameters, problems)
    origins = Origins(parameters, values.get("repeat") or {})
    repeat = _repeated(origins, values["nodes"], problems)
    _check_size(values, origins, repeat, source)

    drafts: dict[str, _Draft] = {}
    for template, node in (values.get("nodes") or {}).items():
        drafts |= _expand(template, node, origins, repeat, problems)
    left_out = {name for name, draft in drafts.items() if draft.left_out}
    drafts = {name: draft for name, draft in drafts.items() if name not in left_out}
    _apply_settings(drafts, node_settings, problems)

    reads = {n: [i for i in (d.content.get("inputs") or {}).values() if isinstance(i, str)] for n, d in drafts.items()}
    _check_values_needed(parameters, reads, problems)
    nodes = {name: _node(name, drafts, origins, problems) for name in drafts}
    _check_most(parameters, nodes, problems)
    if cycle := find_cycle(reads):
        problems.add("nodes", f"cycle: {' -> '.join(cycle)} (each reads the next)")
    whole = {name: node for name, node in nodes.items() if node is not None}
    _check_kinds(whole, drafts, problems)
    _check_choices_of_select(whole, drafts, origins, problems)
    table = None
    if values.get("table") is not None:
        substituted = substitute(values["table"], parameters, "table", problems.add)
        # the output of `select` is a segmenter whose summary holds its score
        kinds = {
            name: None if node is None else "metrics" if node.stage.name == "select" else node.stage.output
            for name, node in nodes.items()
        }
        _check_not_empty(lambda repeat: figures_planned(substituted, repeat), origins, repeat, problems)
        table = read_table(substituted, repeat, kinds | dict.fromkeys(left_out, LEFT_OUT), problems.add, reads)
    else:
        _check_not_empty(lambda repeat: _nodes_planned(values["nodes"], repeat), origins, repeat, problems)
    problems.stop()
    return Recipe(
        name=str(values["name"]),
        description=str(values.get("description", "")),
        source=source,
        profile=profile,
        parameters={name: parameter.value for name, parameter in parameters.items()},
        assumptions=[str(line) for line in values.get("assumptions") or []],
        nodes={name: whole[name] for name in topological_order(reads)},
        table=table,
        settings=settings,
        declared=list(parameters.values()),
    )


def _check_required(parameters: Mapping[str, Parameter], problems: Mistakes) -> None:
    """Stops if a value is missing: the checks after it would report mistakes that follow from it."""
    missing = [parameter for parameter in parameters.values() if parameter.missing]
    for parameter in missing:
        problems.add(f"parameters.{parameter.name}", f"must be given: --set {parameter.name}=VALUE ({parameter.help})")
    if missing:
        problems.stop()


def _check_values_needed(
    parameters: Mapping[str, Parameter], reads: Mapping[str, Iterable[str]], problems: Mistakes
) -> None:
    """Stops if nodes are missing because parameters lack values, which is told instead of every such node."""
    if {source for sources in reads.values() for source in sources} <= reads.keys():
        return
    for place, text in (needed := list(values_needed(parameters))):
        problems.add(place, text)
    if needed:
        problems.stop()


def _repeated(origins: Origins, templates: Iterable[str], problems: Mistakes) -> dict[str, list[Any]]:
    """The repeated values; a parameter that is a list is replaced by its values."""
    repeat: dict[str, list[Any]] = {}
    complete, naming = True, {name for template in templates for name in repeated_in(template)}
    for key, options in substitute(origins.repeat, origins.parameters, "repeat", problems.add).items():
        place = place_of(names) if (names := origins.of_repeated(key)) else f"repeat.{key}"
        if not isinstance(options, list):
            problems.add(place, f"expected a list of values, found {options!r}")
            complete = False
            continue
        repeat[key] = [v for option in options for v in (option if isinstance(option, list) else [option])]
        for value, count in Counter(str(v) for v in repeat[key]).items():
            if count > 1:
                problems.add(place, f"{value} occurs {count} times")
            if key in naming and not _PART_OF_NAME.fullmatch(value):
                problems.add(place, f"{value!r} cannot be in a node's name (letters, digits, '-' and '_')")
                complete = False
    if not complete:
        problems.stop()
    return repeat


def _check_size(values: Mapping[str, Any], origins: Origins, repeat: Mapping[str, list[Any]], source: str) -> None:
    """Stops if repeats and placeholders, filled in, would exceed the limits of a recipe; fills in nothing."""
    problems, table = Mistakes(source), values.get("table") or {}
    labels = [str(column) for column in table.get("columns") or []]
    labels += [
        f"{row.get('label')} {column} {pattern}"
        for row in table.get("rows") or []
        if isinstance(row, Mapping) and isinstance(row.get("nodes"), Mapping)
        for column, pattern in row["nodes"].items()
    ]
    for key, texts in (("nodes", list(values["nodes"])), ("table", labels)):
        if (planned := sum(_count(text, repeat) for text in texts)) > MOST_NODES:
            problems.add(key, f"repeat makes {planned:,} of them; a recipe has at most {MOST_NODES:,}")
    problems.stop()
    lengths = {name: len(str(parameter.value)) for name, parameter in origins.parameters.items()}
    lengths |= {key: max((len(str(value)) for value in options), default=0) for key, options in repeat.items()}
    planned = 0
    for template, node in values["nodes"].items():
        for _, text in _texts(node, ""):
            named = names_in(text) + repeated_in(text)
            planned += _count(template, repeat) * (len(text) + sum(lengths.get(name, 0) for name in named))
    if planned > MOST_CHARACTERS:
        problems.add("nodes", f"filled in they have {planned:,} characters; at most {MOST_CHARACTERS:,} are made")
    problems.stop()


def _count(text: str, repeat: Mapping[str, list[Any]]) -> int:
    """How many combinations of repeated values a text refers to."""
    return math.prod(len(repeat[name]) for name in set(repeated_in(text)) & repeat.keys())


def _choices(text: str, repeat: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the repeated values that a node's name refers to."""
    used = list(dict.fromkeys(repeated_in(text)))
    return [dict(zip(used, values, strict=True)) for values in itertools.product(*(repeat[name] for name in used))]


def _nodes_planned(templates: Iterable[str], repeat: Mapping[str, list[Any]]) -> int:
    known = [template for template in templates if set(repeated_in(template)) <= repeat.keys()]
    return sum(_count(template, repeat) for template in known)


def _check_not_empty(
    planned: Callable[[dict[str, list[Any]]], int],
    origins: Origins,
    repeat: dict[str, list[Any]],
    problems: Mistakes,
) -> None:
    """An empty list may leave rows out, but not all of `planned`: reports the lists that do so."""
    empty = [key for key, values in repeat.items() if not values]
    filled = dict(repeat) | {key: ["x"] for key in empty}
    if planned(repeat) or not planned(filled):
        return
    alone = [key for key in empty if not planned(filled | {key: []})]
    for key in alone or empty:
        place = place_of(names) if (names := origins.of_repeated(key)) else f"repeat.{key}"
        problems.add(place, "expected at least one value: without any, there is nothing to make")


def _expand(
    template: str,
    node: Mapping[str, Any],
    origins: Origins,
    repeat: Mapping[str, list[Any]],
    problems: Mistakes,
) -> dict[str, _Draft]:
    """The node once for every combination of the repeated values its name refers to."""
    key = f"nodes.{template}"
    for name in dict.fromkeys(repeated_in(template)):
        if name not in repeat:
            problems.add(key, f"{{{name}}} is not repeated{did_you_mean(name, repeat)}")
            return {}
    if not _sound_cases(template, node, origins, repeat, problems):
        return {}
    content = substitute(dict(node), origins.parameters, key, problems.add)
    drafts: dict[str, _Draft] = {}
    for chosen in _choices(template, repeat):
        try:
            name = str(fill_repeated(template, chosen))
            expanded = expand_repeated(of_case(content, chosen), chosen)
        except ValueError as error:
            problems.add(key, str(error))
            return drafts
        if not _NODE_NAME.fullmatch(name):
            names = origins.of_text(template, chosen)
            problems.add(
                place_of(names) if names else key, f"{name!r} cannot name a node (letters, digits, '-' and '_')"
            )
            return drafts
        for part in ("config", "inputs"):
            for inner, text in _texts(expanded.get(part) or {}, f"{key}.{part}"):
                for missing in repeated_in(text):
                    if missing in repeat:
                        problems.add(inner, f"refers to {{{missing}}}, which the node's name does not contain")
                    else:
                        problems.add(inner, f"{{{missing}}} is not repeated{did_you_mean(missing, repeat)}")
        left_out = "stage" in content and expanded.get("stage") is None
        drafts[name] = _Draft(template, chosen, of_case(node, chosen), expanded, left_out=left_out)
    return drafts


def _sound_cases(
    template: str,
    node: Mapping[str, Any],
    origins: Origins,
    repeat: Mapping[str, list[Any]],
    problems: Mistakes,
) -> bool:
    """Whether each case is one of a value that may be repeated; a value that is left out of a list has one still."""
    sound = True
    for name, values in (node.get("cases") or {}).items():
        key = f"nodes.{template}.cases.{name}"
        if name not in repeated_in(template):
            problems.add(key, f"the node's name does not contain {{{name}}}")
            sound = False
            continue
        known = [str(value) for value in repeat[name]] + origins.choices_of_repeated(name)
        for value in values:
            if str(value) not in known:
                problems.add(f"{key}.{value}", f"{name} is never {value!r}{did_you_mean(str(value), known)}")
                sound = False
    return sound


def expand_repeated(value: Any, chosen: Mapping[str, Any]) -> Any:
    """`value` with `{seed}` and `{round-1}` replaced in every text, see `fill_repeated`."""
    if isinstance(value, Mapping):
        return {k: expand_repeated(v, chosen) for k, v in value.items()}
    if isinstance(value, list):
        return [expand_repeated(v, chosen) for v in value]
    if not isinstance(value, str):
        return value
    return fill_repeated(value, chosen)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{index}")
    elif isinstance(value, str):
        yield key, value


def _apply_settings(drafts: dict[str, _Draft], settings: list[NodeSetting], problems: Mistakes) -> None:
    """`--set NODE.KEY=VALUE` (NODE may contain `*`); `NODE.config.KEY`, as in the file, means the same."""
    of_config = [
        replace(setting, path=setting.path[1:]) if setting.path[0] == "config" and len(setting.path) > 1 else setting
        for setting in settings
    ]
    for setting in sorted(of_config, key=lambda setting: len(setting.path)):  # as `stage_config`: the deeper counts
        matching = [name for name in drafts if fnmatch.fnmatchcase(name, setting.pattern)]
        if not matching:
            problems.add(f"--set {setting.text}", f"no node {setting.pattern!r}{did_you_mean(setting.pattern, drafts)}")
        for name in matching:
            content = drafts[name].content
            config = content.get("config") or {}  # each node has its own copy: expanding copies every mapping
            assign(config, setting.path, setting.value)
            content["config"] = config
            drafts[name].settings.append(setting)


def _node(name: str, drafts: Mapping[str, _Draft], origins: Origins, problems: Mistakes) -> Node | None:
    """The node with its config checked; None if it has mistakes, which are reported with their origin."""
    draft = drafts[name]
    key, content = draft.key, draft.content
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
        path, _, text = line.partition(": ")
        problems.add(draft.place([] if path == "config" else path.split("."), origins), text)
    inputs = content.get("inputs") or {}
    for given, source in inputs.items():
        if given not in stage.takes:
            problems.add(
                f"{key}.inputs.{given}", f"{stage_name} has no such input{did_you_mean(str(given), stage.takes)}"
            )
        if not isinstance(source, str) or source not in drafts:
            problems.add(f"{key}.inputs.{given}", f"there is no node {source!r}{did_you_mean(str(source), drafts)}")
    for needed in required_inputs(stage, config, inputs) if config is not None else ():
        if needed not in inputs:
            problems.add(f"{key}.inputs", f"{stage_name} needs the input {needed!r} ({stage.takes[needed].help})")
    return None if config is None else Node(name, stage, config, dict(inputs))


def _check_most(parameters: Mapping[str, Parameter], nodes: Mapping[str, Node | None], problems: Mistakes) -> None:
    """A parameter with `most: NODE.KEY` is at most this number of the node's config, where there is one."""
    for parameter in parameters.values():
        name, _, path = parameter.most.partition(".")
        node = nodes.get(name)
        most = functools.reduce(lambda value, key: getattr(value, key, None), path.split("."), node and node.config)
        values = parameter.value if isinstance(parameter.value, list) else [parameter.value]
        for value in values:
            if isinstance(most, int) and isinstance(value, int) and value > most:
                place = place_of([parameter.name]) if parameter.given else f"parameters.{parameter.name}"
                text = f"expected at most {most}, which is {parameter.most}, found {value}"
                problems.add(place, f"{text}: a smaller number, or --set {parameter.most}={value}")


def _check_kinds(nodes: Mapping[str, Node], drafts: Mapping[str, _Draft], problems: Mistakes) -> None:
    for name, node in nodes.items():
        for given, source in node.inputs.items():
            if given not in node.stage.takes or source not in nodes:
                continue
            kinds, made = node.stage.takes[given].kinds, nodes[source].stage.output
            if made not in kinds:
                problems.add(
                    f"{drafts[name].key}.inputs.{given}",
                    f"node {drafts[source].template!r} makes {made}, expected {' or '.join(kinds)}",
                )


def _check_choices_of_select(
    nodes: Mapping[str, Node], drafts: Mapping[str, _Draft], origins: Origins, problems: Mistakes
) -> None:
    """`select` needs a training that keeps snapshots; without this check the error would come hours later."""
    for node in nodes.values():
        source = nodes.get(node.inputs.get("segmenter", "")) if node.stage.name == "select" else None
        kept = getattr(source.config, "snapshots", None) if source else None
        if source is not None and kept == 1:
            problems.add(
                drafts[source.name].place(["snapshots"], origins),
                f"expected at least 2, as the stage select chooses among them (found {kept})",
            )
