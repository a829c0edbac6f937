"""`semiseg config` and `semiseg methods`: what can be set and chosen."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from artifacts.errors import UsageError
from semiseg_cli.console import out, plain_table, say, write_json
from semiseg_cli.options import AnyWorkspace, JsonOption
from stages.config import describe_config
from stages.contract import STAGE_MODULES, load_stage
from stages.pipeline.recipe import did_you_mean


def config(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(STAGE_MODULES)}.")],
    workspace: AnyWorkspace = None,
) -> None:
    """Print every setting of a stage with its meaning and default, as YAML for --config."""
    if stage not in STAGE_MODULES:
        raise UsageError(f"there is no stage {stage!r}{did_you_mean(stage, STAGE_MODULES)}")
    record = load_stage(stage)
    print(f"# {record.summary}")
    print(describe_config(record.config))


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method, in detail.")] = None,
    as_json: JsonOption = False,
    workspace: AnyWorkspace = None,
) -> None:
    """List the training methods: what each needs, what a step costs, which recipe reproduces it.

    With a name: its loss, its sources and its settings with their defaults.
    """
    from stages.methods import METHODS

    if name is not None and name not in METHODS:
        raise UsageError(f"there is no method {name!r}{did_you_mean(name, METHODS)}")
    if as_json:
        records = [_method_record(key) for key in METHODS]
        write_json(records if name is None else _method_record(name))
    elif name is None:
        _list_methods()
    else:
        _describe_method(name)


def _list_methods() -> None:
    """As many facts as stand beside each other without breaking up; `methods NAME` and --json hold all."""
    from stages.methods import METHODS

    console = out()
    table = plain_table("method", "learns from", "what it is", "recipe")
    for column in (table.columns[0], table.columns[1], table.columns[3]):
        column.no_wrap = True
    if console.width >= 110:
        table.add_column("paper", overflow="fold")
    if console.width >= 150:
        table.add_column("cost of a step", overflow="fold")
    for key, settings in METHODS.items():
        card = settings.card
        facts = (key, ", ".join(card.uses), card.title, card.recipe, card.paper, card.cost)
        table.add_row(*facts[: len(table.columns)])
    console.print(table)
    say("semiseg methods NAME: loss, cost, sources and settings of one")


def _method_record(name: str) -> dict[str, Any]:
    from stages.methods import METHODS

    settings = METHODS[name]
    defaults = settings.model_validate({"name": name})
    card = settings.card
    return {
        "name": name,
        "title": card.title,
        "paper": card.paper,
        "uses": list(card.uses),
        "needs": list(defaults.inputs()),
        "loss": card.loss,
        "cost": card.cost,
        "inference": card.inference,
        "recipe": card.recipe,
        "sources": list(card.sources),
        "settings": defaults.model_dump(mode="json"),
    }


def _describe_method(name: str) -> None:
    from stages.methods import METHODS

    settings = METHODS[name]
    card = settings.card
    inputs = settings.model_validate({"name": name}).inputs()
    facts = {
        "paper": card.paper,
        "learns from": ", ".join(card.uses),
        "inputs": ", ".join(inputs) or "the data set alone",
        "cost": f"for each labelled picture of a step: {card.cost}",
        "evaluated": card.inference,
        "recipe": f"semiseg run {card.recipe}",
    }
    print(f"{name}: {card.title}\n")
    for key, text in facts.items():
        print(textwrap.fill(f"{key + ':':<13}{text}", min(out().width, 120), subsequent_indent=" " * 13))
    print("\n" + "\n".join(f"    {line}" for line in card.loss.splitlines()))
    print("\nsources:" + "".join(f"\n  - {source}" for source in card.sources))
    print("\nsettings (--set method.KEY=VALUE):\n")
    print(describe_config(settings))
