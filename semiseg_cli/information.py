"""`semiseg config` and `semiseg methods`: what can be set and chosen."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifacts.errors import UsageError
from artifacts.text import did_you_mean
from semiseg_cli.console import out, say, write_json
from semiseg_cli.options import AnyWorkspace, JsonOption
from stages.config import describe_config
from stages.contract import STAGE_MODULES, load_stage

if TYPE_CHECKING:
    from stages.methods.settings.base import MethodSettings


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
    """List the training methods and the refiners: what each needs, what a step costs, which recipe reproduces it.

    With a name: its loss, its sources and its settings with their defaults.
    """
    known = _known_methods()
    if name is not None and name not in known:
        raise UsageError(f"there is no method {name!r}{did_you_mean(name, known)}")
    if as_json:
        records = [method_record(key) for key in known]
        write_json(records if name is None else method_record(name))
    elif name is None:
        _list_methods()
    else:
        _describe_method(name)


def _known_methods() -> dict[str, type[MethodSettings]]:
    """The settings of all methods that train, and of the refiners."""
    from stages.methods import METHODS
    from stages.refiners import REFINERS

    return {**METHODS, **REFINERS}


_NEEDS = {"masks": "L", "tags": "W", "images": "U"}
_WORDS = {"masks": "labelled", "tags": "weak", "images": "unlabelled"}


def _list_methods() -> None:
    """One line of facts for each method; its title and paper below, so that narrow terminals show everything."""
    console = out()
    line = "{:<14} {:<6} {:<8} {}".format
    console.print(line("method", "needs", "passes", "recipe"), style="bold")
    for key, settings in _known_methods().items():
        card = settings.card
        needs = " ".join(_NEEDS[part] for part in card.uses)
        passes = f"{card.forward}/{card.backward}" + ("+" if card.beside else "")
        console.print(line(key, needs, passes, _recipe(key)).rstrip(), style="cyan")
        for text in (card.title, card.paper):
            console.print(textwrap.fill(text, console.width, initial_indent="  ", subsequent_indent="    "))
    console.print()
    say("needs: L labelled images (masks), W image-level labels (weak), U unlabelled images")
    say("passes: forward / backward, for each labelled image of a step; +: further work in addition")
    say("recipe: reproduces the paper; league, weak-league: none does, these compare methods on equal terms")
    say("semiseg methods NAME: loss, cost, command, sources and settings of one")


def _recipe(name: str) -> str:
    """The recipe that reproduces a method, else the league where it can be compared; empty: no recipe has it."""
    from stages.methods.settings import learning_from

    card = _known_methods()[name].card
    league = "league" if name in learning_from(("masks", "images")) else ""
    return card.recipe or ("weak-league" if card.output in _LISTS else league)


_LISTS = {"classifier": "classifiers", "refiner": "refiners"}  # where weak-league takes those that give this
_STAGES = {"segmenter": "train", "classifier": "train-classifier", "refiner": "refine"}


def _command(name: str) -> str:
    """How to run the recipe of a method, and what that is good for; its stage, where no recipe has it."""
    card, recipe = _known_methods()[name].card, _recipe(name)
    if not recipe:
        return f"semiseg {_STAGES[card.output]} --method {name} (no recipe has it)"
    if not card.recipe:
        choice = f"{recipe} --set {_LISTS.get(card.output, 'methods')}=[{name}]"
        return f"semiseg run {choice} (compares it; no recipe reproduces the paper)"
    return f"semiseg run {recipe}" + (f" --profile {card.profile}" if card.profile else "")


def method_record(name: str) -> dict[str, Any]:
    """What `semiseg methods NAME --json` prints of a method or refiner."""
    settings = _known_methods()[name]
    defaults = settings.model_validate({"name": name})
    card, training = settings.card, _training_of(settings)
    return {
        "name": name,
        "title": card.title,
        "paper": card.paper,
        "uses": list(card.uses),
        "needs": [_WORDS[part] for part in card.uses],
        "inputs": list(defaults.inputs()),
        "loss": settings.formula(),
        "cost": card.cost,
        "passes": {"forward": card.forward, "backward": card.backward},
        "inference": card.inference,
        "recipe": _recipe(name) or None,
        "profile": card.profile or None,
        "command": _command(name),
        "sources": list(card.sources),
        "settings": defaults.model_dump(mode="json"),
        **({"training": training.model_validate({}).model_dump(mode="json")} if training else {}),
    }


def _training_of(settings: type[MethodSettings]) -> type[MethodSettings] | None:
    """The settings of a refiner's training; None if it has no training, or if `name` is not a refiner."""
    found: type[MethodSettings] | None = getattr(settings, "training", None)
    return found


def _cost(settings: type[MethodSettings]) -> str:
    """What a step of the training costs, in words; of a refiner without training, what an image costs."""
    unit = "labelled image of a step"
    if settings.card.output == "refiner":
        unit = "image of a step of train-refiner" if _training_of(settings) else "image (nothing is trained)"
    return f"for each {unit}: {settings.card.cost}"


def _describe_method(name: str) -> None:
    settings = _known_methods()[name]
    card, training = settings.card, _training_of(settings)
    inputs = settings.model_validate({"name": name}).inputs()
    facts = {
        "paper": card.paper,
        "needs": ", ".join(f"{_WORDS[part]} ({part})" for part in card.uses),
        "inputs": ", ".join(inputs) or "the data set alone",
        "cost": _cost(settings),
        "evaluated": card.inference,
        "recipe": _command(name),
    }
    print(f"{name}: {card.title}\n")
    for key, text in facts.items():
        print(textwrap.fill(f"{key + ':':<13}{text}", min(out().width, 120), subsequent_indent=" " * 13))
    print("\n" + textwrap.indent(settings.formula(), "    "))
    print("\nsources:" + "".join(f"\n  - {source}" for source in card.sources))
    if training is not None:
        print(f"\nsettings of train-refiner --method {training.model_validate({}).name} (--set method.KEY=VALUE):\n")
        print(describe_config(training))
    print(f"\nsettings{' of refine' if card.output == 'refiner' else ''} (--set method.KEY=VALUE):\n")
    print(describe_config(settings))
