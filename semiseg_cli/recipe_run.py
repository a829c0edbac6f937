"""The run of a recipe as the command line shows it: a line for each node, then the counts, the table and the page."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Collection, Iterable

import typer

from artifacts.errors import ArtifactError, SemisegError, UsageError
from artifacts.store import Artifact, Workspace
from semiseg_cli.console import duration, headline, is_main_rank, say, show_error, state_text, talk
from semiseg_cli.options import COSTLY_S
from semiseg_cli.report_commands import PAGE, Report, write_report_page
from stages.contract import Execution
from stages.pipeline.changes import Change, listed
from stages.pipeline.graph import upstream
from stages.pipeline.observer import RunReport
from stages.pipeline.recipe import Node, Recipe
from stages.pipeline.run_recipe import check_nodes, run_recipe
from stages.pipeline.seen import Seen
from stages.pipeline.side_by_side import threads_of_each
from stages.pipeline.status import STALE, Expected, State, expected_states


def node_states(recipe: Recipe, workspace: Workspace, only: Collection[str] = ()) -> dict[str, State]:
    """The states of the nodes of a recipe; only: if any, of these and of those that they are made from."""
    wanted = {*only}.union(*(upstream(recipe.reads, name) for name in only)) if only else recipe.nodes.keys()
    nodes = {name: node for name, node in recipe.nodes.items() if name in wanted}
    return expected_states(workspace, {n: Expected(node.stage, node.config, node.inputs) for n, node in nodes.items()})


class Run:
    """The run of a recipe in a workspace, in one part or in several: each makes those of its nodes that are left."""

    def __init__(
        self,
        workspace: Workspace,
        doing: Execution,
        again: str,
        replace: bool = False,
        force: Collection[str] = (),
        only: Collection[str] = (),
        jobs: int = 1,
    ) -> None:
        self.workspace, self.execution = workspace, doing
        self._again, self._replace, self._force = again, replace, force
        self._only, self.jobs = only, jobs
        self._lines = _Lines()
        self._report = RunReport()
        self._started = time.monotonic()

    def make(self, recipe: Recipe, title: str = "") -> None:
        """Makes the nodes that no earlier part has made. Exit where the user interrupts it.

        title: printed before the first of them. UsageError where costly results would be replaced.
        """
        check_nodes(recipe, self._force, self._only)
        check_inputs(recipe, self.workspace, self._only)
        self._lines.part(recipe, self._only or recipe.nodes)
        if not self._replace:
            _refuse_to_replace(recipe, self.workspace, self._force, self._only)
        if title:
            say(title)
        done = {*self._report.fresh, *self._report.made}
        try:
            report_ = run_recipe(
                recipe, self.workspace, self.execution, self._lines, self._force, done, self._only, self.jobs
            )
        except KeyboardInterrupt:
            where = f" in {', '.join(self._lines.begun)}" if self._lines.begun else ""
            show_error(f"interrupted{where}; finished items are kept", f"to continue: {self._again}")
            raise typer.Exit(130) from None
        self._report = self._report.joined(report_)

    def compute_as_a_node(self) -> None:
        """Gives this process the threads of a node, so that it is as fast as one."""
        if self.jobs > 1:
            import torch

            torch.set_num_threads(threads_of_each(self.jobs, self.execution.workers))

    def kept(self, name: str) -> bool:
        """Whether a node was fresh: made by an earlier run."""
        return name in self._report.fresh

    def finish(self) -> None:
        """The counts, the table and the page. Exit with the error's code where one failed."""
        if is_main_rank():
            self._tell()
        if errors := list(self._report.failed.values()):
            show_error(
                f"{', '.join(self._report.failed)} failed (see above)",
                f"finished work is kept; once it is mended, continue with: {self._again}",
            )
            raise typer.Exit(max(e.exit_code if isinstance(e, SemisegError) else 1 for e in errors))

    def _tell(self) -> None:
        report_ = self._report
        counts = f"{len(report_.made)} made, {len(report_.fresh)} fresh"
        counts += f", {len(report_.failed)} failed" if report_.failed else ""
        counts += f", {len(report_.skipped)} not reached" if report_.skipped else ""
        say(f"{counts} in {duration(time.monotonic() - self._started)}")
        if not self._only:
            self._write_report()

    def _write_report(self) -> None:
        seen = Seen.read(self.workspace)
        if seen.record is not None and seen.record.table is not None:  # with gaps where nodes failed
            report_of = Report.of(seen)
            report_of.show()
            report_of.write()
        write_report_page(seen, self.workspace.path / PAGE, self.execution.workers)

    def stop_if_failed(self) -> None:
        """Ends the run here where a node has failed."""
        if self._report.failed:
            self.finish()


def check_inputs(recipe: Recipe, workspace: Workspace, only: Collection[str]) -> None:
    """ArtifactError if nodes are asked for by --only whose inputs are not made, or not of these settings."""
    reads = {source for name in only for source in recipe.reads[name]} - set(only)
    if not reads:
        return
    states = [state for name, state in node_states(recipe, workspace, only).items() if name in reads]
    if unmade := [f"{state.name} ({state.words})" for state in states if state.state != "fresh"]:
        raise ArtifactError(
            f"--only {', '.join(only)} reads what is not made yet in {workspace.path}: {', '.join(unmade)}",
            "run it first: --only takes several nodes; without --only all of the recipe is made",
        )


def _refuse_to_replace(recipe: Recipe, workspace: Workspace, force: Collection[str], only: Collection[str]) -> None:
    """UsageError if the run would replace results that took more than `COSTLY_S` together, without the forced ones."""
    states = node_states(recipe, workspace, only)
    lost, total = replaced((states[name] for name in only or states if name in states), force)
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


def replaced(states: Iterable[State], force: Collection[str]) -> tuple[list[State], float]:
    """The stale nodes, but for those that are forced, and how many seconds they took to make."""
    lost = [s for s in states if s.state == STALE and s.name not in force and s.seconds is not None]
    return lost, sum(state.seconds or 0.0 for state in lost)


class _Lines:
    """A line per node on stderr."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the nodes, in the order in which they come
        self.begun: dict[str, float] = {}  # when those began that are being made
        self.replaced: dict[str, str] = {}  # what is printed about a node when it starts

    def part(self, recipe: Recipe, nodes: Collection[str]) -> None:
        """The nodes that follow are of this recipe."""
        self.width = max(len(name) for name in recipe.nodes)
        self.count = len(nodes)
        self.digits = len(str(self.count))

    def _line(self, state: str, node: Node, text: str) -> None:
        number = self.numbers.setdefault(node.name, len(self.numbers) + 1)
        line = state_text("", f"[{number:>{self.digits}}/{self.count}] ").append_text(state_text(state, f"{state:<8}"))
        talk().print(line.append(f" {node.name:<{self.width}}  {text}".rstrip()), soft_wrap=True)

    def fresh(self, node: Node, artifact: Artifact) -> None:
        self._line("fresh", node, headline(artifact.summary))

    def replacing(self, node: Node, made: str, changes: list[Change]) -> None:
        why = listed(changes) if changes else "the same settings"
        self.replaced[node.name] = f", replaces that of {made[:10]}: {why}"

    def started(self, node: Node, resumed: int) -> None:
        self.begun[node.name] = time.monotonic()
        continued = ", continued" if resumed else ""
        self._line("running", node, node.stage.name + continued + self.replaced.pop(node.name, ""))

    def finished(self, node: Node, artifact: Artifact) -> None:
        now = time.monotonic()
        took = duration(now - self.begun.pop(node.name, now))  # the first rank alone is told of the start
        self._line("done", node, ", ".join(filter(None, [took, headline(artifact.summary)])))

    def failed(self, node: Node, error: Exception) -> None:
        self.begun.pop(node.name, None)
        self.replaced.pop(node.name, None)
        self._line("failed", node, "")
        if isinstance(error, SemisegError):
            show_error(error.message, error.hint)
        else:
            show_error(f"unexpected {type(error).__name__}: {error}", "--debug shows where")
            if debugging():
                traceback.print_exception(error)

    def skipped(self, node: Node, because: list[str]) -> None:
        self._line("skipped", node, f"needs {', '.join(because)}")


def debugging() -> bool:
    """Whether tracebacks are wanted (--debug or SEMISEG_DEBUG=1)."""
    return "--debug" in sys.argv or os.environ.get("SEMISEG_DEBUG", "0") not in ("", "0")
