"""`semiseg run`: whole pipelines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from artifacts.errors import UsageError
from artifacts.store import Workspace
from artifacts.text import amount
from semiseg_cli.console import (
    bullets,
    duration,
    out,
    plain_table,
    say,
    state_text,
)
from semiseg_cli.options import (
    COSTLY_S,
    RUNS,
    DeviceOption,
    ParameterOption,
    ProfileOption,
    RecipeWorkspaceOption,
    WorkersOption,
    check_device,
    execution,
    quoted,
)
from semiseg_cli.recipe_run import Run, check_inputs, node_states, replaced
from semiseg_cli.shipped import find_recipe, shipped_recipes
from stages.pipeline.parameters import Parameter
from stages.pipeline.recipe import Recipe, declared_parameters, read_recipe
from stages.pipeline.recipe_file import recipe_values
from stages.pipeline.run_recipe import check_nodes
from stages.pipeline.status import State
from stages.report.how_made import steps_of_trainings, value_words


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE|FILE.yaml", help="Name or file; left out: the shipped recipes are listed."),
    ] = None,
    profile: ProfileOption = None,
    settings: ParameterOption = None,
    workspace: RecipeWorkspaceOption = None,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Show the recipe's parameters, what they mean, and their values.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and why; run nothing.")] = False,
    force: Annotated[
        list[str] | None, typer.Option("--force", metavar="NODE", help="Run this node even if it is fresh.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace results even if they took more than ten minutes to make.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NODE", help="Make this node alone, without the report.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="So many nodes at a time, where they allow it.")
    ] = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
) -> None:
    """Run a recipe: every node that is not fresh, in order.

    A run can be stopped at any moment; the same command
    continues it. Whether a node is fresh depends on what it was made from, not on times. Results made with
    different settings are replaced, but those that took more than ten minutes only with --replace. With --jobs the
    cores and GPUs are shared by nodes that run side by side.
    """
    if recipe is None:
        _list_recipes()
        return
    check_device(device)
    path = find_recipe(recipe)
    if parameters:
        _show_parameters(declared_parameters(path, profile, settings or []))
        return
    resolved = read_recipe(path, profile, settings or [])
    place = workspace_of(path, profile, workspace)
    target = Workspace(place)
    only = list(dict.fromkeys(only or []))
    if dry_run:
        _show_plan(resolved, target, force or [], only)
        if path == shipped_recipes()["own"]:
            say("the nodes after data follow from a plan, which is made of the data: semiseg run own")
        return
    if jobs > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--jobs and torchrun both divide the machine", "use one of them")
    command = ["semiseg", *recipe_words(recipe, profile, settings, workspace)]
    command += ["--replace"] if replace else []
    command += [word for node in only for word in ("--only", node)]
    command += ["--jobs", str(jobs)] if jobs != 1 else []
    command += ["--device", device] if device != "auto" else []
    command += ["--workers", str(workers)] if workers is not None else []
    running = Run(target, execution(device, workers), quoted(command), replace, force or [], only, jobs)
    if path == shipped_recipes()["own"]:
        if only:
            raise UsageError("--only: the nodes of own follow from a plan, which is made as it runs", "leave it out")
        from semiseg_cli.own import Own

        Own(path, settings or [], running).run()
        return
    title = f"{resolved.name} ({profile})" if profile else resolved.name
    running.make(resolved, f"{title}: {amount(len(only or resolved.nodes), 'node')} in {place}")
    running.finish()


def workspace_of(recipe: Path, profile: str | None, given: Path | None) -> Path:
    """The folder of a recipe's artifacts, unless another is given."""
    return given or RUNS / (recipe.stem if profile is None else f"{recipe.stem}-{profile}")


def recipe_words(recipe: str, profile: str | None, settings: list[str] | None, workspace: Path | None) -> list[str]:
    """The words of a command that makes a recipe, without semiseg."""
    words = ["run", recipe, *(["--profile", profile] if profile else [])]
    words += [word for setting in settings or [] for word in ("--set", setting)]
    return words + (["--workspace", str(workspace)] if workspace else [])


def _list_recipes() -> None:
    table = plain_table("recipe", "profiles", "what it makes")
    for name, path in shipped_recipes().items():
        raw = recipe_values(path)
        table.add_row(name, ", ".join(raw.get("profiles") or {}) or "-", str(raw.get("description", "")))
    out().print(table)
    say("semiseg run RECIPE --dry-run shows what a recipe would do")


def _show_plan(recipe: Recipe, workspace: Workspace, force: list[str], only: list[str]) -> None:
    check_nodes(recipe, force, only)
    check_inputs(recipe, workspace, only)
    nodes = {name: node for name, node in recipe.nodes.items() if name in (only or recipe.nodes)}
    states = node_states(recipe, workspace, only)
    console = out()
    console.print(f"{recipe.name}{f', profile {recipe.profile}' if recipe.profile else ''}: {recipe.description}")
    _show_parameters(recipe.declared)
    if recipe.assumptions:
        console.print("Assumptions, where the source is silent or differs:")
        console.print(bullets(recipe.assumptions))
    table = plain_table("node", "stage", "reads", "would")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for name, node in nodes.items():
        reads = ", ".join(dict.fromkeys(node.inputs.values())) or "-"
        table.add_row(name, node.stage.name, reads, _action(states[name], name in force))
    console.print(table)
    unfresh = {name for name in nodes if states[name].state != "fresh"}
    console.print(_trainings_line(recipe, unfresh | nodes.keys() & set(force)))
    lost, total = replaced([states[name] for name in nodes], force)
    if lost:
        needs = ": needs --replace" if total > COSTLY_S else ""
        console.print(f"to be replaced: {amount(len(lost), 'result')} that took {duration(total)} to make{needs}")
    say(f"nothing was run; workspace: {workspace.path}")


def _show_parameters(parameters: list[Parameter]) -> None:
    if not parameters:
        say("the recipe has no parameters")
        return
    shown = plain_table("parameter", "value", "what it is")
    shown.columns[0].no_wrap = True
    for parameter in parameters:
        value = "must be given" if parameter.missing else value_words(parameter.value)
        text = " ".join(filter(None, [parameter.help, *_choices_words(parameter)]))
        shown.add_row(parameter.name, value, text)
    out().print(shown)


def _choices_words(parameter: Parameter) -> list[str]:
    return [f"Of {', '.join(parameter.choices)}."] if len(parameter.choices) > 1 else []


def _trainings_line(recipe: Recipe, unfresh: set[str]) -> str:
    """How much training the recipe needs, and how much of it is still to run."""
    steps = steps_of_trainings(recipe.nodes)
    left = {name: count for name, count in steps.items() if name in unfresh}
    words = [f"{amount(len(some), 'training')}, {amount(sum(some.values()), 'step')}" for some in (steps, left)]
    return f"in all: {words[0]}; to run: {words[1]}"


def _action(state: State, forced: bool) -> Text:
    """What `run` would do with a node, and why."""
    if forced:
        return Text("run (forced)")
    if state.state == "fresh":
        return state_text("fresh", "keep, fresh")
    if state.state == "running":
        return state_text("running", "fail: busy, " + state.words)
    if state.state == "partial":
        return state_text("partial", f"continue {state.words.removeprefix('partial ')}")
    if state.state in ("missing", "blocked"):
        return Text("run")
    return state_text(state.state, f"run, {state.state}: {'; '.join(state.reasons)}")
