"""Options that several commands share, and how a workspace is chosen."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from artifacts.errors import ArtifactError, ConfigError, UsageError
from artifacts.store import Artifact, Workspace
from artifacts.text import did_you_mean
from semiseg_cli.console import say
from semiseg_cli.progress import choose_progress
from stages.contract import Execution, default_workers

RUNS = Path("runs")
DEFAULT = RUNS / "default"
COSTLY_S = 600.0  # results that took longer to make are not replaced without --replace


def _workspace(default: str) -> Any:
    return typer.Option(
        "--workspace",
        "-w",
        envvar="SEMISEG_WORKSPACE",
        metavar="DIR",
        help="Folder of the artifacts.",
        show_default=default,
    )


WorkspaceOption = Annotated[Path | None, _workspace(f"the one used last below {RUNS}")]
StageWorkspaceOption = Annotated[Path | None, _workspace(str(DEFAULT))]
RecipeWorkspaceOption = Annotated[Path | None, _workspace(f"{RUNS}/RECIPE or {RUNS}/RECIPE-PROFILE")]
# help of --device and --workers where they have no effect
AnyWorkspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", metavar="DIR", help="Ignored; accepted so that scripts can pass it to every command."
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1. Never changes what is computed.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=0, help="Processes for reading and CRF.", show_default="all cores"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def execution(device: str, workers: int | None) -> Execution:
    return Execution(
        device=device,
        workers=default_workers() if workers is None else workers,
        progress=choose_progress(),
    )


def known_workspaces() -> list[Path]:
    """Workspaces below runs/, the one used last first."""
    found = [path for path in RUNS.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def existing_workspace(given: Path | None) -> Workspace:
    """The workspace to look at: as given, or the one below runs/ that was used last (which is announced)."""
    if given is not None:
        if not given.is_dir():
            known = ", ".join(map(str, known_workspaces()))
            raise UsageError(
                f"there is no workspace {given}", f"known: {known}" if known else "make one: semiseg run demo"
            )
        return Workspace(given)
    known_paths = known_workspaces()
    if not known_paths:
        raise UsageError(f"no workspace here: {Path.cwd() / RUNS} is empty", "make one: semiseg run demo")
    say(f"workspace: {known_paths[0]}" + ("  (used last; --workspace DIR for another)" if known_paths[1:] else ""))
    return Workspace(known_paths[0])


def check_device(device: str) -> None:
    """A wrong device name is a usage error before any work; whether the device exists shows when it is used."""
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not index.isdigit()):
        raise ConfigError(f"--device {device}: expected auto, cpu, cuda or cuda:N")


def quoted(words: list[str]) -> str:
    """A command as it would be typed in a shell."""
    import shlex

    return " ".join(shlex.quote(word) for word in words)


def quoted_in(workspace: Path, *words: str) -> str:
    """A command that looks at a workspace, as it would be typed in a shell."""
    return quoted([*words, *(() if workspace == DEFAULT else ("--workspace", str(workspace)))])


def named_artifact(workspace: Workspace, name: str) -> Artifact:
    """The artifact; ArtifactError suggests similar names if there is none of this name."""
    if name not in workspace.names() and not workspace.partials(name):
        raise ArtifactError(
            f"workspace {workspace.path} has no artifact {name!r}{did_you_mean(name, workspace.names())}",
            "semiseg status lists them",
        )
    return workspace.artifact(name)


def option(name: str, kind: Any, default: Any, *flags: str, **rest: Any) -> inspect.Parameter:
    """One keyword parameter that Typer turns into an option."""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*flags, **rest)],
    )


ProfileOption = Annotated[str | None, typer.Option("--profile", "-p", metavar="NAME", help="A profile of the recipe.")]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="A parameter of the recipe, or NODE.KEY=V (NODE may hold *)."),
]
