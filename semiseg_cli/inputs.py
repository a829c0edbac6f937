"""The artifacts that a stage command reads, where they are not named, and what a network says of its predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NoReturn

from artifacts.errors import ArtifactError
from artifacts.item_shapes import network_inference
from artifacts.store import Workspace
from artifacts.text import did_you_mean
from semiseg_cli.console import is_main_rank, say
from semiseg_cli.options import known_workspaces
from stages.config import Config, build
from stages.contract import STAGE_MODULES, Stage, load_stage, required_inputs


def choose_inputs(
    stage: Stage, config: Config, given: Mapping[str, str | None], workspace: Workspace, own_name: str
) -> dict[str, str | None]:
    """The artifact of every input: as given, or by its default names, or the only one that fits but `own_name`.

    Optional inputs are looked for only if the config requires them. What was found is printed.
    """
    chosen: dict[str, str | None] = {
        key: _existing(workspace, name) for key in stage.takes if (name := given.get(key)) is not None
    }
    for key in required_inputs(stage, config, chosen):
        if key not in chosen:
            fitting = [name for name in _fitting(stage, key, workspace) if name != own_name]
            chosen[key] = _look_for(stage, key, fitting) or _nothing_found(stage, config, key, workspace, fitting)
            say(f"{key.replace('_', ' ')}: {chosen[key]}  (--{key.replace('_', '-')} NAME for another)")
    return chosen


def as_the_network_records(config: Config, segmenter: str | None, workspace: Workspace) -> Config:
    """The config with the settings of prediction that travel with the segmenter, where none are given; prints them."""
    from stages.engine.config import InferenceConfig

    if segmenter is None or not isinstance(config, InferenceConfig):
        return config
    if workspace.artifact(segmenter).kind != "segmenter":  # refused with the other inputs
        return config
    recorded = network_inference(workspace.artifact(segmenter))
    values = build(InferenceConfig, recorded, f"network.json of {segmenter}")
    taken = {key: getattr(values, key) for key in sorted(recorded.keys() - config.model_fields_set)}
    if taken and is_main_rank():
        words = ", ".join(f"{key} {recorded[key]}" for key in taken)
        say(f"as {segmenter} records it: {words}  (--set {next(iter(taken))}=... for another)")
    return config.model_copy(update=taken)


def _existing(workspace: Workspace, name: str) -> str:
    if name not in workspace.names():
        elsewhere = [str(path) for path in known_workspaces() if name in Workspace(path).names()]
        others = f"; there is one in {', '.join(elsewhere[:4])}" if elsewhere else did_you_mean(name, workspace.names())
        raise ArtifactError(
            f"workspace {workspace.path} has no artifact {name!r}{others}",
            f"--workspace {elsewhere[0]}" if elsewhere else f"semiseg status --workspace {workspace.path} lists them",
        )
    return name


def _look_for(stage: Stage, key: str, fitting: list[str]) -> str | None:
    """The first default name among the artifacts that fit, else the only one of them."""
    named = next((name for name in stage.takes[key].default if name in fitting), None)
    return fitting[0] if named is None and len(fitting) == 1 else named


def _fitting(stage: Stage, key: str, workspace: Workspace) -> list[str]:
    """The artifacts that the input takes; damaged ones are left out."""
    fitting = []
    for name in workspace.names():
        with contextlib.suppress(ArtifactError):
            artifact = workspace.artifact(name)
            if artifact.kind in stage.takes[key].kinds and stage.takes[key].fits(artifact):
                fitting.append(name)
    return fitting


def _nothing_found(stage: Stage, config: Any, key: str, workspace: Workspace, fitting: list[str]) -> NoReturn:
    """Raises the error that says which command makes the input, or between which artifacts to choose."""
    declared = stage.takes[key]
    message = f"{stage.name} needs the input {key!r} ({declared.help}); {workspace.path} has "
    if fitting:
        flag = f"--{key.replace('_', '-')}"
        raise ArtifactError(
            f"{message}{len(fitting)} that fit", f"choose one: {', '.join(f'{flag} {name}' for name in fitting)}"
        )
    message += "none"
    makers = " or ".join(f"semiseg {name}" for name in STAGE_MODULES if load_stage(name).output in declared.kinds)
    others = [str(path) for path in known_workspaces() if path.resolve() != workspace.path.resolve()]
    elsewhere = f"; or another workspace: {', '.join(others[:4])} (--workspace)" if others else ""
    raise ArtifactError(message, f"make it: {declared.made_by(config) or makers}{elsewhere}")
