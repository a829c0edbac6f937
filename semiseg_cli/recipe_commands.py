"""`semiseg run`: whole pipelines."""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Iterable
from typing import Annotated

import typer
from rich.text import Text

from artifacts.errors import ConfigError, SemisegError, UsageError
from artifacts.store import Artifact, Workspace
from artifacts.text import did_you_mean
from semiseg_cli.console import (
    bullets,
    duration,
    headline,
    out,
    plain_table,
    say,
    show_error,
    state_text,
    talk,
)
from semiseg_cli.options import (
    COSTLY_S,
    RUNS,
    DeviceOption,
    WorkersOption,
    WorkspaceOption,
    check_device,
    execution,
    is_main_rank,
    quoted,
)
from semiseg_cli.report_commands import PAGE, Report, Seen, write_report_page
from semiseg_cli.shipped import find_recipe, shipped_recipes
from stages.contract import Execution
from stages.pipeline.changes import Change, listed
from stages.pipeline.parameters import Parameter
from stages.pipeline.recipe import Node, Recipe, declared_parameters, read_recipe
from stages.pipeline.recipe_file import recipe_values
from stages.pipeline.run_recipe import RunReport, run_recipe
from stages.pipeline.status import STALE, Expected, State, workspace_states
from stages.report.how_made import steps_of_trainings, value_words


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE|FILE.yaml", help="Name or file; left out: the shipped recipes are listed."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", metavar="NAME", help="A profile of the recipe.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="A parameter of the recipe, or NODE.KEY=V (NODE may hold *)."),
    ] = None,
    workspace: WorkspaceOption = None,
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
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
) -> None:
    """Run a recipe: every node that is not fresh, in order.

    Default workspace: runs/RECIPE or runs/RECIPE-PROFILE. A run can be stopped at any moment; the same command
    continues it. Whether a node is fresh depends on what it was made from, not on times. Results made with
    different settings are replaced, but those that took more than ten minutes only with --replace.
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
    place = workspace or RUNS / (path.stem if profile is None else f"{path.stem}-{profile}")
    target = Workspace(place)
    if dry_run:
        _show_plan(resolved, target, force or [])
        if path == shipped_recipes()["own"]:
            say("the nodes after data follow from a plan, which is made of the data: semiseg run own")
        return
    command = ["semiseg", "run", recipe]
    command += ["--profile", profile] if profile else []
    command += [word for setting in settings or [] for word in ("--set", setting)]
    command += ["--workspace", str(place)] if workspace else []
    command += ["--replace"] if replace else []
    command += ["--device", device] if device != "auto" else []
    command += ["--workers", str(workers)] if workers is not None else []
    running = Run(target, execution(device, workers), quoted(command), replace, force or [])
    if path == shipped_recipes()["own"]:
        from semiseg_cli.own import Own

        Own(path, settings or [], running).run()
        return
    if is_main_rank():
        say(f"{resolved.name}{f' ({profile})' if profile else ''}: {len(resolved.nodes)} nodes in {place}")
    running.make(resolved)
    running.finish()


class Run:
    """The run of a recipe in a workspace, in one part or in several: each makes those of its nodes that are left."""

    def __init__(
        self, workspace: Workspace, doing: Execution, again: str, replace: bool = False, force: Collection[str] = ()
    ) -> None:
        self.workspace, self.execution = workspace, doing
        self._again, self._replace, self._force = again, replace, force
        self._lines = _Lines()
        self._report = RunReport()
        self._started = time.monotonic()

    def make(self, recipe: Recipe) -> None:
        """Makes the nodes that no earlier part has made. Exit where the user interrupts it."""
        self._lines.part(recipe)
        if is_main_rank() and not self._replace:
            _refuse_to_replace(recipe, self.workspace, self._force)
        done = {*self._report.fresh, *self._report.made}
        try:
            report_ = run_recipe(recipe, self.workspace, self.execution, self._lines, self._force, done)
        except KeyboardInterrupt:
            where = f" in {self._lines.current}" if self._lines.current else ""
            show_error(f"interrupted{where}; finished items are kept", f"to continue: {self._again}")
            raise typer.Exit(130) from None
        self._report = self._report.joined(report_)

    def finish(self) -> None:
        """The counts, the table and the page. Exit with the error's code where one failed."""
        if not is_main_rank():
            return
        report_ = self._report
        counts = f"{len(report_.made)} made, {len(report_.fresh)} fresh"
        counts += f", {len(report_.failed)} failed" if report_.failed else ""
        counts += f", {len(report_.skipped)} not reached" if report_.skipped else ""
        say(f"{counts} in {duration(time.monotonic() - self._started)}")
        seen = Seen.read(self.workspace)
        if seen.record is not None and seen.record.table is not None:  # with gaps where nodes failed
            report_of = Report.of(seen)
            report_of.show()
            report_of.write()
        write_report_page(seen, self.workspace.path / PAGE, self.execution.workers)
        if report_.failed:
            errors = list(report_.failed.values())
            show_error(
                f"{', '.join(report_.failed)} failed" + (" (see above)" if errors else ""),
                f"finished work is kept; once it is mended, continue with: {self._again}",
            )
            raise typer.Exit(max(e.exit_code if isinstance(e, SemisegError) else 1 for e in errors))

    def stop_if_failed(self) -> None:
        """Ends the run here where a node has failed."""
        if self._report.failed:
            self.finish()


def _refuse_to_replace(recipe: Recipe, workspace: Workspace, force: Collection[str]) -> None:
    """UsageError if the run would replace results that took more than `COSTLY_S` together, without the forced ones."""
    lost, total = _replaced(recipe, workspace_states(workspace, expected_nodes(recipe)), force)
    if total <= COSTLY_S:
        return
    # A node whose settings changed is a better reason than a node that depends on it.
    lost.sort(key=lambda state: (state.reasons[0].startswith("input "), -(state.seconds or 0.0)))
    shown = [f"{state.name} ({duration(state.seconds or 0.0)}; {state.reasons[0]})" for state in lost[:3]]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    raise UsageError(
        f"results in {workspace.path} that took {duration(total)} to make would be replaced: {', '.join(shown)}{more}",
        "--workspace DIR puts the new ones elsewhere, --replace replaces them; --dry-run lists all",
    )


def _replaced(recipe: Recipe, states: Iterable[State], force: Collection[str]) -> tuple[list[State], float]:
    """The stale nodes of a recipe, but for those that are forced, and how many seconds they took to make."""
    lost = [state for state in states if state.name in recipe.nodes and state.state == STALE]
    lost = [state for state in lost if state.name not in force and state.seconds is not None]
    return lost, sum(state.seconds or 0.0 for state in lost)


class _Lines:
    """A line per node on stderr."""

    def __init__(self) -> None:
        self.number = 0
        self.current: str | None = None
        self.begin = 0.0
        self.replaced = ""  # what is printed about the node that starts next

    def part(self, recipe: Recipe) -> None:
        """The nodes that follow are of this recipe."""
        self.width = max(len(name) for name in recipe.nodes)
        self.count = len(recipe.nodes)
        self.digits = len(str(self.count))

    def _line(self, state: str, node: Node, text: str) -> None:
        if not is_main_rank():
            return
        line = state_text(state, f"{state:<8}")
        number = f"[{self.number:>{self.digits}}/{self.count}] "
        line = state_text("", number).append_text(line).append(f" {node.name:<{self.width}}  {text}".rstrip())
        talk().print(line, soft_wrap=True)

    def fresh(self, node: Node, artifact: Artifact) -> None:
        self.number += 1
        self._line("fresh", node, headline(artifact.summary))

    def replacing(self, node: Node, artifact: Artifact, changes: list[Change]) -> None:
        why = listed(changes) if changes else "the same settings"
        self.replaced = f", replaces that of {artifact.manifest.finished[:10]}: {why}"

    def started(self, node: Node, resumed: int) -> None:
        self.number += 1
        self.current, self.begin = node.name, time.monotonic()
        self._line("running", node, node.stage.name + (", continued" if resumed else "") + self.replaced)
        self.replaced = ""

    def finished(self, node: Node, artifact: Artifact) -> None:
        took = duration(time.monotonic() - self.begin)
        self.current = None
        self._line("done", node, ", ".join(filter(None, [took, headline(artifact.summary)])))

    def failed(self, node: Node, error: Exception) -> None:
        if self.current != node.name:
            self.number += 1
        self.current, self.replaced = None, ""
        self._line("failed", node, "")
        if isinstance(error, SemisegError):
            show_error(error.message, error.hint)
        else:
            show_error(f"unexpected {type(error).__name__}: {error}", "--debug shows where")
            if debugging():
                traceback.print_exception(error)

    def skipped(self, node: Node, because: list[str]) -> None:
        self.number += 1
        self._line("skipped", node, f"needs {', '.join(because)}")


def debugging() -> bool:
    """Whether tracebacks are wanted (--debug or SEMISEG_DEBUG=1)."""
    import os
    import sys

    return "--debug" in sys.argv or os.environ.get("SEMISEG_DEBUG", "0") not in ("", "0")


def _list_recipes() -> None:
    table = plain_table("recipe", "profiles", "what it makes")
    for name, path in shipped_recipes().items():
        raw = recipe_values(path)
        table.add_row(name, ", ".join(raw.get("profiles") or {}) or "-", str(raw.get("description", "")))
    out().print(table)
    say("semiseg run RECIPE --dry-run shows what a recipe would do")


def expected_nodes(recipe: Recipe) -> dict[str, Expected]:
    return {name: Expected(node.stage, node.config, node.inputs) for name, node in recipe.nodes.items()}


def _show_plan(recipe: Recipe, workspace: Workspace, force: list[str]) -> None:
    states = {state.name: state for state in workspace_states(workspace, expected_nodes(recipe))}
    for name in force:
        if name not in recipe.nodes:
            raise ConfigError(f"--force {name}: no such node{did_you_mean(name, recipe.nodes)}")
    console = out()
    console.print(f"{recipe.name}{f', profile {recipe.profile}' if recipe.profile else ''}: {recipe.description}")
    _show_parameters(recipe.declared)
    if recipe.assumptions:
        console.print("Assumptions, where the source is silent or differs:")
        console.print(bullets(recipe.assumptions))
    table = plain_table("node", "stage", "reads", "would")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for name, node in recipe.nodes.items():
        reads = ", ".join(dict.fromkeys(node.inputs.values())) or "-"
        table.add_row(name, node.stage.name, reads, _action(states[name], name in force))
    console.print(table)
    unfresh = {name for name in recipe.nodes if states[name].state != "fresh"}
    console.print(_trainings_line(recipe, unfresh | set(force)))
    lost, total = _replaced(recipe, states.values(), force)
    if lost:
        needs = ": needs --replace" if total > COSTLY_S else ""
        console.print(f"to be replaced: {_counted(len(lost), 'result')} that took {duration(total)} to make{needs}")
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
    words = [f"{_counted(len(some), 'training')}, {_counted(sum(some.values()), 'step')}" for some in (steps, left)]
    return f"in all: {words[0]}; to run: {words[1]}"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


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
