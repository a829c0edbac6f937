"""How a recipe's table was made: the command, parameters, data, networks, machine and dates, for those who read it.

The settings come from the workspace's record of the recipe, the rest from the manifests of the artifacts.
Folders of this machine are left out: only the last part of an absolute path is shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from artifacts.errors import ArtifactError
from artifacts.manifest import Manifest
from artifacts.store import Workspace
from artifacts.text import amount
from stages.engine.config import TrainingConfig
from stages.networks.config import CLASSIFIER_PRESETS, PRESETS, BackboneConfig, ClassifierConfig, NetworkConfig
from stages.pipeline.recipe import Node
from stages.pipeline.run_recipe import Record
from stages.pipeline.status import Expected, typed_command

_ABSOLUTE = re.compile(r"(?:~|[A-Za-z]:)?[/\\]")
_WORDS_OF_WEIGHTS = {
    "none": "random",
    "imagenet": "imagenet (downloaded)",
    "pretrained": "pretrained (downloaded)",
}


@dataclass(frozen=True)
class Data:
    """One data set of the recipe, prepared: its name, and images by split (None: not made yet)."""

    artifact: str
    dataset: str
    images: dict[str, int] | None


@dataclass(frozen=True)
class NetworkUsed:
    """A network that was trained: its preset's name (or its parts), and its initial weights."""

    name: str
    weights: str
    sha256: str | None  # of the weights' file, if there was one


@dataclass(frozen=True)
class HowMade:
    """Everything that a reader needs to assess or reproduce a table."""

    command: str | None  # None: the record is from a version without it
    parameters: dict[str, Any]
    data: list[Data]
    networks: list[NetworkUsed]
    trainings: dict[int, int]  # steps -> number of trainings with that many steps
    devices: list[str]
    versions: dict[str, list[str]]
    commits: list[str]
    first: str | None  # when the first artifact was begun and the last one finished
    last: str | None
    assumptions: list[str]


def how_made(record: Record, workspace: Workspace, recipe: str) -> HowMade:
    """`recipe` is what `semiseg run` was given: a name or a file."""
    command = ["semiseg", "run", recipe, *(["--profile", record.profile] if record.profile else [])]
    for text in record.settings or []:
        command += ["--set", _word_without_folders(text)]
    manifests = dict(_manifests(record.expected, workspace))
    made = [manifest.made_by for manifest in manifests.values()]
    steps = list(steps_of_trainings(record.expected).values())
    return HowMade(
        command=None if record.settings is None else shlex.join(command),
        parameters={key: without_folders(value) for key, value in record.parameters.items()},
        data=list(_data(record.expected, manifests)),
        networks=_networks(record.expected, manifests),
        trainings={count: steps.count(count) for count in sorted(set(steps))},
        devices=_different(by.get("device") for by in made),
        versions={
            name: _different((by.get("versions") or {}).get(name) for by in made) for name in ("semiseg", "torch")
        },
        commits=_different(
            source["commit"][:8] + (" (modified)" if source.get("modified") else "")
            for by in made
            if (source := by.get("source"))
        ),
        first=min((manifest.started for manifest in manifests.values()), default=None),
        last=max((manifest.finished for manifest in manifests.values()), default=None),
        assumptions=record.assumptions,
    )


def steps_of_trainings(nodes: Mapping[str, Expected] | Mapping[str, Node]) -> dict[str, int]:
    """The optimiser steps of every node that trains; `retrain` has its training in its config."""
    configs = {name: getattr(node.config, "training", node.config) for name, node in nodes.items()}
    return {name: config.iterations for name, config in configs.items() if isinstance(config, TrainingConfig)}


def command_without_folders(argv: list[str]) -> str | None:
    """A recorded command line as typed in a shell; None if it is not one of semiseg."""
    return typed_command([*argv[:1], *map(_word_without_folders, argv[1:])])


def _word_without_folders(word: str) -> str:
    """A word of a command line, which may be KEY=VALUE."""
    key, equals, value = word.partition("=")
    return f"{key}={without_folders(value)}" if equals else str(without_folders(word))


def without_folders(value: Any) -> Any:
    """`value` with "..." for the folders of absolute paths: "/home/me/VOC2012" becomes ".../VOC2012"."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":  # a list as --set takes it
        return f"[{','.join(without_folders(part) for part in value[1:-1].split(','))}]"
    if isinstance(value, str) and _ABSOLUTE.match(value):
        parts = [part for part in re.split(r"[/\\]", value) if part]
        return f".../{parts[-1]}" if len(parts) > 1 else value
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    return value


def _manifests(expected: Mapping[str, Expected], workspace: Workspace) -> Iterator[tuple[str, Manifest]]:
    for name in expected:
        try:
            yield name, workspace.artifact(name).manifest
        except ArtifactError:
            continue


def _different(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value})


def _data(expected: Mapping[str, Expected], manifests: Mapping[str, Manifest]) -> Iterator[Data]:
    for name, node in sorted(expected.items(), key=lambda item: _numbers_by_size(item[0])):
        if node.stage.output == "dataset":
            counts = manifests[name].summary.get("images") if name in manifests else None
            dataset = getattr(getattr(node.config, "dataset", None), "name", node.stage.name)
            if not isinstance(counts, Mapping) or not all(isinstance(count, int) for count in counts.values()):
                counts = None
            yield Data(name, dataset, None if counts is None else dict(counts))


def _numbers_by_size(name: str) -> list[tuple[int, str]]:
    """Sorts data-n50 before data-n200."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _networks(expected: Mapping[str, Expected], manifests: Mapping[str, Manifest]) -> list[NetworkUsed]:
    found: dict[NetworkUsed, None] = {}
    for name, node in expected.items():
        network = getattr(node.config, "network", None)
        method: Any = getattr(node.config, "method", None)
        if isinstance(network, BackboneConfig):
            key, known_as, weights = "network.weights", network_name(network), network.weights
            if own := getattr(method, "own_network", ""):
                key, known_as, weights = f"method.{own}", f"that of {method.name}", attrgetter(own)(method)
            digest = manifests[name].externals.get(key) if name in manifests else None
            weights = _WORDS_OF_WEIGHTS.get(weights, re.split(r"[/\\]", weights)[-1])
            found[NetworkUsed(known_as, weights, digest)] = None
    known = {(used.name, used.weights) for used in found if used.sha256}
    return [used for used in found if used.sha256 or (used.name, used.weights) not in known]


def network_name(network: BackboneConfig) -> str:
    """The name of the preset that equals this network except for the weights; else backbone and head."""
    presets = PRESETS if isinstance(network, NetworkConfig) else CLASSIFIER_PRESETS
    kind = NetworkConfig if isinstance(network, NetworkConfig) else ClassifierConfig
    wanted = network.model_dump(exclude={"weights"})
    for name in presets:
        if kind.model_validate(name).model_dump(exclude={"weights"}) == wanted:
            return name
    return f"{network.backbone}, {network.head}" if isinstance(network, NetworkConfig) else network.backbone


def how_made_lines(made: HowMade) -> list[str]:
    """The record as lines of Markdown, one for each fact."""
    lines = [f"Command: `{made.command}`"] if made.command else []
    if made.parameters:
        lines.append(
            f"Parameters: {', '.join(f'{key} {value_words(value)}' for key, value in made.parameters.items())}"
        )
    lines.append(f"Data: {data_words(made)}")
    for network in made.networks:
        digest = f" (sha256 {network.sha256[:12]})" if network.sha256 else ""
        lines.append(f"Network: {network.name}, initial weights: {network.weights}{digest}")
    trainings = [f"{amount(count, 'training')} of {amount(steps, 'step')}" for steps, count in made.trainings.items()]
    if trainings:
        lines.append(f"Trainings: {', '.join(trainings)}")
    machine = [f"device {', '.join(made.devices)}"] if made.devices else []
    machine += [f"{name} {', '.join(versions)}" for name, versions in made.versions.items() if versions]
    machine += [f"commit {', '.join(made.commits)}"] if made.commits else []
    if machine:
        lines.append(f"Made with: {'; '.join(machine)}")
    if made.first and made.last:
        lines.append(f"Made: {_minute(made.first)} to {_minute(made.last)} UTC")
    return lines + [f"Assumption: {text}" for text in made.assumptions]


def data_words(made: HowMade) -> str:
    """The data sets on one line, those with equal counts together."""
    words: dict[tuple[str, str], list[str]] = {}
    for data in made.data:
        counts = "not made yet"
        if data.images is not None:
            counts = ", ".join(f"{split} {count:,}" for split, count in data.images.items())
        words.setdefault((data.dataset, counts), []).append(data.artifact)
    return "; ".join(f"{dataset} ({', '.join(names)}): {counts}" for (dataset, counts), names in words.items())


def value_words(value: Any) -> str:
    """A parameter's value as text."""
    if isinstance(value, list):
        return f"[{', '.join(map(value_words, value))}]"
    return "-" if value is None else "''" if value == "" else str(value)


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
