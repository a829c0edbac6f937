"""The stage commands, made from the stage records: options for inputs, config and the settings used most."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from artifacts.errors import ArtifactError, ConfigError, SemisegError, UsageError
from artifacts.store import Artifact, Workspace, Writer
from artifacts.yaml_files import read_yaml
from semiseg_cli.console import duration, headline, is_main_rank, say, show_error
from semiseg_cli.inputs import as_the_network_records, choose_inputs
from semiseg_cli.options import (
    COSTLY_S,
    DEFAULT,
    DeviceOption,
    StageWorkspaceOption,
    WorkersOption,
    check_device,
    execution,
    option,
    quoted_in,
)
from stages.config import Config, assign, build, merge, parse_assignment
from stages.contract import Stage, load_stage
from stages.pipeline.changes import Change, listed
from stages.pipeline.run_stage import run_stage
from stages.planning.plan_file import SECTIONS


@dataclass(frozen=True)
class Shortcut:
    """An option that sets one field of a stage's config. Without `help`, the field's own description is shown.

    `also` are (key, value) pairs that the option sets in addition.
    """

    option: str
    key: str
    type: Any = str
    help: str = ""
    also: tuple[tuple[str, Any], ...] = ()


# The settings typed most, per stage; everything else by --set or --config.
SHORTCUTS: dict[str, tuple[Shortcut, ...]] = {
    "prepare-data": (
        Shortcut(
            "--dataset", "dataset", help="shapes, voc-aug, cityscapes, coco, pascal-context, or folder: your own."
        ),
        Shortcut("--source", "dataset.source", help="Folder of the published data set (VOC devkit, Cityscapes, ...)."),
        Shortcut("--sbd", "dataset.sbd", help="voc-aug: SBD's folder, or a folder of PNG masks."),
        Shortcut("--download", "dataset.download", help="voc-aug: folder to download VOC 2012 and SBD into, and use."),
        Shortcut("--images", "dataset.images", help="folder: your images."),
        Shortcut(
            "--masks",
            "dataset.masks",
            help="your masks: a folder (PNG, LabelMe or Supervisely JSON, YOLO), or a file (COCO, CVAT, Label Studio).",
        ),
        Shortcut("--labels", "dataset.labels", help="folder: CSV of image-level labels."),
        Shortcut("--unlabelled", "dataset.unlabelled", help="folder: further images without any label."),
        Shortcut("--val", "dataset.val", help="folder: images to evaluate on: a list file, a number or a fraction."),
        Shortcut("--allow-subset", "allow_subset", bool),
        Shortcut("--classes", "classes", list, "Classes to keep: cat,cow,dog. With folder: a file, the class table."),
        Shortcut("--labelled", "labelled"),
        Shortcut("--seed", "labelled_seed", int),
    ),
    "train-classifier": (
        Shortcut(
            "--method", "method", help="cam, puzzle-cam, ...: a method of `semiseg methods` that trains a classifier."
        ),
        Shortcut("--network", "network"),
        Shortcut("--weights", "network.weights"),
        Shortcut("--iterations", "iterations", int),
        Shortcut("--batch-size", "batch_size", int),
        Shortcut("--seed", "seed", int),
    ),
    "seeds": (
        Shortcut(
            "--background",
            "labels.background.kind",
            help="Where background seeds come from: saliency (computed), gradient, cam or none.",
        ),
        Shortcut(
            "--saliency",
            "labels.background.folder",
            help="Background from a folder of saliency maps, <image id>.png.",
            also=(("labels.background.kind", "folder"),),
        ),
    ),
    "train-refiner": (
        Shortcut("--method", "method", help="irn, psa, ...: a refiner of `semiseg methods` that has a training."),
        Shortcut("--network", "network"),
        Shortcut("--weights", "network.weights"),
        Shortcut("--iterations", "iterations", int),
        Shortcut("--batch-size", "batch_size", int),
        Shortcut("--seed", "seed", int),
    ),
    "refine": (
        Shortcut("--method", "method", help="irn, psa, ...: a refiner of `semiseg methods`."),
        Shortcut("--split", "splits", list),
    ),
    "instances": (Shortcut("--split", "splits", list),),
    "features": (
        Shortcut("--network", "network"),
        Shortcut("--weights", "network.weights"),
        Shortcut("--split", "splits", list),
    ),
    "train": (
        Shortcut("--method", "method", help="A method of `semiseg methods`."),
        Shortcut("--network", "network"),
        Shortcut("--weights", "network.weights"),
        Shortcut("--iterations", "iterations", int),
        Shortcut("--batch-size", "batch_size", int),
        Shortcut("--seed", "seed", int),
    ),
    "predict": (
        Shortcut("--split", "splits", list),
        Shortcut("--images", "images"),
        Shortcut("--output", "output"),
        Shortcut("--overlays", "overlays"),
    ),
    "crf": (Shortcut("--parameters", "parameters"),),
    "segments": (
        Shortcut("--source", "source", help="superpixels, or sam."),
        Shortcut("--weights", "source.weights", help="sam: its weights, a file of its authors or a folder."),
        Shortcut("--split", "splits", list),
    ),
    "vote": (Shortcut("--folder", "segments"), Shortcut("--split", "splits", list)),
    "import-masks": (Shortcut("--folder", "folder"), Shortcut("--split", "splits", list)),
    "retrain": (),
    "select": (Shortcut("--split", "splits", list),),
    "review": (),
    "evaluate": (Shortcut("--split", "splits", list), Shortcut("--choose-on", "choose_on", list)),
    "evaluate-instances": (
        Shortcut("--split", "splits", list),
        Shortcut(
            "--objects", "objects", help="Folder of the true instances, <image id>.png (VOC: SegmentationObject)."
        ),
    ),
}

DEFAULT_NAMES: dict[str, str] = {"prepare-data": "data", "evaluate": "evaluation", "predict": "predictions"}


_FIXED = ("config_file", "settings", "name", "workspace", "device", "workers", "force", "replace")


def artifact_name(stage: Stage, config: Config) -> str:
    """The name of the artifact when none is given: that of the method for `train`, else by stage."""
    method = getattr(config, "method", None)
    if stage.name == "train" and method is not None:
        return str(method.name)
    return DEFAULT_NAMES.get(stage.name, stage.name)


def stage_function(name: str) -> Callable[..., None]:
    """The function of the command `name`, with a signature that Typer reads."""
    stage = load_stage(name)
    shortcuts = {identifier(shortcut.option): shortcut for shortcut in SHORTCUTS.get(name, ())}
    inputs = {identifier(key): key for key in stage.takes}

    def make(**given: Any) -> Artifact | None:
        return _run(
            stage,
            {shortcut: given[key] for key, shortcut in shortcuts.items()},
            {key: given[f"input_{identifier}"] for identifier, key in inputs.items()},
            **{key: given[key] for key in _FIXED},
        )

    def command(**given: Any) -> None:
        make(**given)

    parameters = [shortcut_parameter(stage, key, shortcut) for key, shortcut in shortcuts.items()]
    parameters += [_input_parameter(stage, identifier, key) for identifier, key in inputs.items()]
    parameters += _common_parameters(stage)
    function: Any = command
    if name == "evaluate":
        from semiseg_cli.evaluate_folders import with_folder_form

        function, parameters = with_folder_form(make, parameters)
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__name__ = name.replace("-", "_")
    function.__doc__ = f"{stage.summary}\n\nAll settings: semiseg config {name}."
    return function


def identifier(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def shortcut_parameter(stage: Stage, key: str, shortcut: Shortcut) -> inspect.Parameter:
    text = shortcut.help or _description(stage.config, shortcut.key.split("."))
    if shortcut.type is bool:
        return option(key, bool | None, None, shortcut.option, help=text, show_default=False)
    kind = {int: int, float: float}.get(shortcut.type, str)
    metavar = {int: "N", float: "X", list: "A,B"}.get(shortcut.type, "VALUE")
    return option(key, kind | None, None, shortcut.option, help=text, metavar=metavar, show_default=False)


def _description(model: type[Config], keys: list[str]) -> str:
    """The first sentence of a field's description."""
    field = model.model_fields[keys[0]]
    if len(keys) > 1 and isinstance(field.annotation, type) and issubclass(field.annotation, Config):
        return _description(field.annotation, keys[1:])
    return " ".join((field.description or "").split())


def _input_parameter(stage: Stage, identifier: str, key: str) -> inspect.Parameter:
    declared = stage.takes[key]
    names = " or ".join(declared.default)
    looked_for = f" Default, if it is needed: {f'{names}, else ' if names else ''}the only artifact that fits."
    text = f"Artifact: {declared.help} ({' or '.join(declared.kinds)}).{' Optional.' if declared.optional else ''}"
    return option(
        f"input_{identifier}",
        str | None,
        None,
        f"--{key.replace('_', '-')}",
        help=text + looked_for,
        metavar="NAME",
        show_default=False,
        rich_help_panel="Inputs",
    )


def config_parameters() -> list[inspect.Parameter]:
    """--config and --set."""
    return [
        option(
            "config_file", Path | None, None, "--config", metavar="FILE", help="YAML of settings.", show_default=False
        ),
        option(
            "settings",
            list[str] | None,
            None,
            "--set",
            metavar="K=V",
            help="One setting; repeat it.",
            show_default=False,
        ),
    ]


def _common_parameters(stage: Stage) -> list[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    default = "the method's" if stage.name == "train" else DEFAULT_NAMES.get(stage.name, stage.name)
    return [
        *config_parameters(),
        option(
            "name",
            str | None,
            None,
            "--name",
            metavar="NAME",
            help="Name of the artifact that is made.",
            show_default=default,
        ),
        inspect.Parameter("workspace", keyword, default=None, annotation=StageWorkspaceOption),
        inspect.Parameter("device", keyword, default="auto", annotation=DeviceOption),
        inspect.Parameter("workers", keyword, default=None, annotation=WorkersOption),
        option("force", bool, False, "--force", help="Run even if the result is fresh."),
        option(
            "replace",
            bool,
            False,
            "--replace",
            help=f"Replace an older, different result even if it took more than {COSTLY_S / 60:.0f} minutes.",
        ),
    ]


def stage_config(stage: Stage, file: Path | None, settings: list[str], shortcuts: Mapping[Shortcut, Any]) -> Config:
    """The config: defaults < YAML < shortcuts and --set. ConfigError lists every mistake."""
    values = section_of(read_yaml(file), stage.name, file) if file is not None else {}
    assignments: list[tuple[list[str], Any]] = []
    for shortcut, value in shortcuts.items():
        if value is not None:
            plain = [part.strip() for part in value.split(",") if part.strip()] if shortcut.type is list else value
            assignments += [(key.split("."), fixed) for key, fixed in ((shortcut.key, plain), *shortcut.also)]
    assignments += map(parse_assignment, settings)
    given: dict[str, Any] = {}
    for keys, value in sorted(assignments, key=lambda item: len(item[0])):  # `network=tiny` keeps `network.weights`
        assign(given, keys, value)
    return build(stage.config, merge(values, given), str(file) if file is not None else stage.name)


def section_of(values: dict[str, Any], stage: str, file: Path) -> dict[str, Any]:
    """The values of a config file; of one with sections for stages (`semiseg plan --write`) those of `stage`."""
    if values.keys() != {SECTIONS} or not isinstance(values[SECTIONS], dict):
        return values
    if not isinstance(section := values[SECTIONS].get(stage), dict):
        has = ", ".join(map(str, values[SECTIONS])) or "none"
        raise ConfigError(f"{file} has no section for {stage} below {SECTIONS!r}", f"it has {has}; leave --config out")
    return section


def _run(
    stage: Stage,
    shortcuts: Mapping[Shortcut, Any],
    inputs: Mapping[str, str | None],
    config_file: Path | None,
    settings: list[str] | None,
    name: str | None,
    workspace: Path | None,
    device: str,
    workers: int | None,
    force: bool,
    replace: bool,
) -> Artifact | None:
    """Makes the artifact and returns it; None on ranks other than the first."""
    check_device(device)
    config = stage_config(stage, config_file, settings or [], shortcuts)
    target = Workspace(workspace or DEFAULT)
    own_name = name or artifact_name(stage, config)
    chosen = choose_inputs(stage, config, inputs, target, own_name)
    config = as_the_network_records(config, chosen.get("segmenter"), target)
    begun: list[tuple[float, Writer]] = []

    def started(writer: Writer) -> None:
        begun.append((time.monotonic(), writer))
        resumed = ", continued" if writer.resumed else ""
        say(f"{stage.name}: making {target.path / own_name}{resumed}")

    def replacing(artifact: Artifact, changes: list[Change]) -> None:
        say_what_is_replaced(artifact, changes, replace)

    try:
        outcome = run_stage(
            stage, config, target, own_name, chosen, execution(device, workers), force, started, replacing
        )
    except KeyboardInterrupt:
        kept = any(writer.path.is_dir() for _, writer in begun)
        show_error(
            "interrupted; finished items are kept" if kept else "interrupted before anything was made",
            f"the same command {'continues' if kept else 'starts again'}",
        )
        raise typer.Exit(130) from None
    except SemisegError as error:
        kept = any(writer.path.is_dir() for _, writer in begun)
        if kept and isinstance(error, ConfigError | ArtifactError) and not error.hint:
            error.hint = "finished items are kept; once it is mended, the same command continues"
        raise
    if not is_main_rank():
        return None
    _tell(stage, outcome.artifact, outcome.ran, time.monotonic() - begun[0][0] if begun else 0.0)
    return outcome.artifact


def say_what_is_replaced(artifact: Artifact, changes: list[Change], allowed: bool) -> None:
    """Prints which artifact is replaced and why; UsageError if it was costly and replacing was not allowed."""
    made = f"made {artifact.manifest.finished[:10]} in {duration(artifact.manifest.seconds)}"
    if changes and artifact.manifest.seconds > COSTLY_S and not allowed:
        raise UsageError(
            f"{artifact.path}, {made}, would be replaced: {listed(changes)}",
            "--name NAME keeps both, --replace replaces it",
        )
    why = listed(changes) if changes else "the same settings"
    say(f"replaces {artifact.name}: {why}; {made}; --name NAME keeps both")


def _tell(stage: Stage, artifact: Artifact, ran: bool, seconds: float) -> None:
    figures = headline(artifact.summary, most=5)
    state = f"made in {duration(seconds)}" if ran else "fresh, nothing to do (--force runs it again)"
    say(f"{stage.name}: {artifact.path} {state}{f': {figures}' if figures else ''}")
    if ran:
        say(f"details: {quoted_in(artifact.path.parent, 'semiseg', 'show', artifact.name)}")
