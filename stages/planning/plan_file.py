"""The plan as a YAML file with a section for each stage, as `--config` takes it, and as commands to type.

    stages:
      train:
        network: {preset: mobilenet_v2, weights: imagenet}
        batch_size: 16
      predict:
        splits: [val]

A config file whose only key is `stages` gives each stage its own section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from artifacts.text import visible
from artifacts.yaml_files import yaml_text
from stages.planning.records import Plan, Step

SECTIONS = "stages"


def plan_text(plan: Plan, commands: list[str]) -> str:
    """The file: reasons and commands as comments, then the sections."""
    lines = ["# Made by semiseg plan. Each stage takes its own section with --config and the name of this file.", "#"]
    lines += [f"# {choice.what}: {choice.value} ({choice.reason}; {choice.source})" for choice in plan.choices]
    lines += ["#", "# The commands:", *(f"#   {command}" for command in commands)]
    text = [visible(line) for line in lines]
    text.append(f"{SECTIONS}:")
    for stage, section in plan.sections.items():
        text.append(f"  {stage}:")
        text += [f"    {key}: {yaml_text(value)}" for key, value in section.items()]
    return "\n".join(text) + "\n"


def commands_of(plan: Plan, file: str, data: str, scored: bool = True) -> Iterator[list[str]]:
    """The words of each command: those that make the segmenters, then those that score them on val, if there is one."""
    for step in plan.steps:
        yield _command(step, file if step.stage in plan.sections else "")
    for segmenter in plan.segmenters if scored else ():
        predictions = f"{segmenter}-val"
        inputs = {"data": data, "segmenter": segmenter}
        yield _command(Step("predict", predictions, inputs), file)
        yield _command(Step("evaluate", f"{segmenter}-scores", {"data": data, "predictions": predictions}), "")


def _command(step: Step, file: str) -> list[str]:
    words = ["semiseg", step.stage, *(("--config", file) if file else ())]
    for name, artifact in step.inputs.items():
        words += [f"--{name.replace('_', '-')}", artifact]
    settings = dict(step.settings)
    if (method := settings.pop("method", None)) is not None:
        words += ["--method", method["name"]]
        settings |= {f"method.{key}": value for key, value in method.items() if key != "name"}
    for key, value in _flat(settings):
        words += ["--set", f"{key}={yaml_text(value)}"]
    return [*words, "--name", step.name]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
