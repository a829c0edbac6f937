"""The pages of the reference that are made from the code when the site is built: stages, methods, recipes, commands."""

from __future__ import annotations

import inspect
from typing import Any

from artifacts.manifest import KINDS
from docs.site import cards
from docs.site.markdown import cell, table
from docs.site.settings import alternatives, label, settings_table
from semiseg_cli.command_list import COMMANDS, load_command
from semiseg_cli.information import method_record
from semiseg_cli.shipped import shipped_recipes
from stages.contract import STAGE_MODULES, Stage, load_stage
from stages.networks.config import CLASSIFIER_PRESETS, PRESETS
from stages.pipeline.parameters import Parameter
from stages.pipeline.recipe import declared_parameters
from stages.pipeline.recipe_file import recipe_values
from stages.report.how_made import value_words

PYTHON = """# Python API

What a program uses of semiseg; [how](../python.md) is a guide of its own.

::: stages.serving
"""


def generated_pages() -> dict[str, str]:
    """Path in the site -> Markdown."""
    stages = {f"reference/stages/{name}.md": stage_page(load_stage(name)) for name in STAGE_MODULES}
    methods = {f"methods/{name}.md": f"# {name}\n" for name in methods_without_page()}
    return {
        "reference/commands.md": commands_page(),
        "reference/recipes.md": recipes_page(),
        "reference/python.md": PYTHON,
        **stages,
        **methods,
    }


def methods_without_page() -> list[str]:
    return sorted(cards.ALL.keys() - {page.stem for page in cards.pages()})


def appended(path: str) -> str:
    """What the site adds to a page of docs/: card and settings of a method, the presets of networks."""
    folder, _, file = path.rpartition("/")
    name = file.removesuffix(".md")
    if folder == "methods":
        return method_facts(name)
    return presets() if path == "networks.md" else ""


def stage_page(stage: Stage) -> str:
    inputs = [
        (f"`{name}`", ", ".join(declared.kinds), "no" if declared.optional else "yes", cell(declared.help))
        for name, declared in stage.takes.items()
    ]
    parts = [
        f"# {stage.name}",
        f"{stage.summary} Version {stage.version}. Makes an artifact of kind `{stage.output}` (version "
        f"{KINDS[stage.output]}; [formats](../../formats.md#9-kinds-of-artifact)).",
        f"```text\n{usage(stage.name)}\n```",
        "## Inputs",
        table(("input", "kinds", "required", "what it is"), inputs) if inputs else "None: it reads files.",
        "## Settings",
        f"From `--config FILE.yaml` and `--set KEY=VALUE`; `semiseg config {stage.name}` prints them as YAML.",
        settings_table(stage.config),
    ]
    for key, choices in alternatives(stage.config):
        parts.append(f"## Values of {key}")
        if key == "method":
            parts.append(", ".join(f"[{label(config)}](../../methods/{label(config)}.md)" for config in choices))
            continue
        for config in choices:
            about = inspect.getdoc(config) or ""
            parts += [f"### {label(config)}", cell(about), settings_table(config, f"{key}.")]
    return "\n\n".join(parts) + "\n"


def method_facts(name: str) -> str:
    record, settings = method_record(name), cards.ALL[name]
    facts = {
        "learns from": ", ".join(cards.USES[part] for part in record["uses"]),
        "inputs": ", ".join(record["inputs"]) or "the data set alone",
        "cost of a step": record["cost"],
        "evaluated": record["inference"],
        "command": f"`{record['command']}`",
        "sources": "; ".join(record["sources"]),
    }
    parts = [
        "## Card",
        f"{record['title']} ({record['paper']}).",
        table(("", ""), [(key, cell(value)) for key, value in facts.items()]),
        f"```text\n{record['loss']}\n```",
        "## Settings",
        "`--set method.KEY=VALUE`:",
        settings_table(settings),
    ]
    if training := getattr(settings, "training", None):
        parts += ["## Settings of the training", f"Of `semiseg train-refiner --method {label(training)}`:"]
        parts.append(settings_table(training))
    return "\n\n".join(parts) + "\n"


def presets() -> str:
    rows = [
        (kind, f"`{name}`", ", ".join(f"{key} {value_words(value)}" for key, value in preset.items()))
        for kind, known in (("segmenter", PRESETS), ("classifier", CLASSIFIER_PRESETS))
        for name, preset in known.items()
    ]
    return f"## Presets\n\n{table(('of a', 'preset', 'settings'), rows)}\n"


def recipes_page() -> str:
    parts = ["# Recipes", "Pipelines that `semiseg run NAME` makes; `--dry-run` shows their nodes."]
    for name, path in shipped_recipes().items():
        raw = recipe_values(path)
        parts += [f"## {name}", cell(str(raw.get("description", "")))]
        parameters = declared_parameters(path)
        if parameters:
            parts.append(table(("parameter", "default", "what it is"), map(parameter_row, parameters)))
        profiles: dict[str, Any] = raw.get("profiles") or {}
        if profiles:
            parts.append(f"Profiles (`--profile`): {', '.join(f'`{profile}`' for profile in profiles)}.")
        if raw.get("assumptions"):
            parts.append("Assumed where the source is silent or differs:")
            parts.append("\n".join(f"- {cell(str(text))}" for text in raw["assumptions"]))
    return "\n\n".join(parts) + "\n"


def parameter_row(parameter: Parameter) -> tuple[str, str, str]:
    value = "must be given" if parameter.missing else f"`{value_words(parameter.value)}`"
    choices = f" Of {', '.join(parameter.choices)}." if len(parameter.choices) > 1 else ""
    return f"`{parameter.name}`", cell(value), cell(parameter.help + choices)


def commands_page() -> str:
    parts = ["# Commands", "Stages have pages of their own; all further commands:"]
    for name in (name for name in COMMANDS if name not in STAGE_MODULES):
        command = load_command(name)
        inner = getattr(command, "commands", {})
        parts += [f"## {name}", f"```text\n{usage(name)}\n```"]
        for sub in inner:
            parts += [f"### {name} {sub}", f"```text\n{usage(name, sub)}\n```"]
    return "\n\n".join(parts) + "\n"


def usage(name: str, sub: str = "") -> str:
    """What --help prints, in lines as long as a page is wide."""
    command = load_command(name)
    if sub:
        command = command.commands[sub]
    context = command.make_context(f"semiseg {name} {sub}".strip(), [], resilient_parsing=True, terminal_width=82)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
