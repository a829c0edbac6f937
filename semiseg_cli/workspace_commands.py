"""`semiseg status`, `show`, `verify`, `clean`: the artifacts of a workspace."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from artifacts.errors import ArtifactError, BusyError, OlderFormatError, StaleError, UsageError
from artifacts.store import Artifact, Workspace
from artifacts.text import amount
from semiseg_cli.console import (
    duration,
    flatten,
    is_share,
    out,
    plain_table,
    say,
    size,
    state_text,
    write_json,
)
from semiseg_cli.options import JsonOption, WorkspaceOption, existing_workspace, named_artifact, quoted, quoted_in
from semiseg_cli.shipped import shipped_recipes
from stages.config import mistakes
from stages.contract import STAGE_MODULES, default_workers, load_stage
from stages.pipeline.changes import settings_apart
from stages.pipeline.run_recipe import Record
from stages.pipeline.seen import Seen
from stages.pipeline.status import State, unfinished_work

OFTEN = 3  # a remark on more artifacts than these is printed once


def status(
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 5 unless everything is fresh.")] = False,
) -> None:
    """Show what is fresh, stale (and why), missing, half done, running or damaged, and unfinished work."""
    target = existing_workspace(workspace)
    seen = Seen.read(target, strict=check)
    record, states, unfinished = seen.record, seen.states, seen.unfinished
    if seen.problem:
        say(seen.problem)
    if as_json:
        write_json(
            {
                "workspace": str(target.path),
                "recipe": record.name if record else None,
                "profile": record.profile if record else None,
                "artifacts": [asdict(state) for state in states],
                "unfinished": [asdict(state) for state in unfinished],
            }
        )
    else:
        _print_states([*states, *unfinished], record, target)
    for problem in record.problems if record else []:
        say(f"recipe {record.name if record else ''}: {problem}")
    unfresh = [state for state in (*states, *unfinished) if state.state != "fresh"]
    if check and unfresh:
        names = ", ".join(f"{state.name} ({state.state})" for state in unfresh[:5])
        more = f" and {len(unfresh) - 5} more" if len(unfresh) > 5 else ""
        raise StaleError(f"not everything is fresh: {names}{more}", "semiseg status shows why, and what to do")


def _print_states(states: list[State], record: Record | None, workspace: Workspace) -> None:
    if not states:
        say("the workspace is empty")
        return
    table = plain_table("artifact", "stage", "state", "took", "why")
    for column in table.columns[:2]:
        column.no_wrap = True
    often = [remark for remark, n in Counter(r for state in states for r in state.remarks).items() if n > OFTEN]
    for state in states:
        took = "" if state.seconds is None else duration(state.seconds)
        remarks = [f"({remark})" for remark in state.remarks if remark not in often]
        why = "; ".join([*state.reasons, *_age(state), *remarks])
        table.add_row(state.name, state.stage, state_text(state.state, state.progress), took, why)
    out().print(table)
    for remark in often:
        count = sum(remark in state.remarks for state in states)
        out().print(f"{count} artifacts: {remark}", soft_wrap=True)
    _print_counts(states, record, workspace)
    partial: dict[str | None, list[str]] = {}  # by the command that continues it
    for state in states:
        if state.state == "partial":
            partial.setdefault(state.command, []).append(state.name)
    for command, names in partial.items():  # below the table, where a command can be copied
        go_on = f"to continue: {command}" if command else "the command that began it continues it"
        out().print(f"{', '.join(names)} {go_on}", soft_wrap=True)
    if partial:
        out().print(f"to remove unfinished work: {quoted_in(workspace.path, 'semiseg', 'clean')}", soft_wrap=True)


def _print_counts(states: list[State], record: Record | None, workspace: Workspace) -> None:
    """How many artifacts are in which state, and the command that makes what is not fresh."""
    counts = Counter(state.state for state in states)
    out().print(", ".join(f"{count} {state}" for state, count in counts.most_common()), soft_wrap=True)
    if record is None or record.settings is None or set(counts) <= {"fresh", "partial", "running"}:
        return
    shipped = shipped_recipes().get(record.name)
    command = ["semiseg", "run", record.name if shipped == Path(record.source) else record.source]
    command += ["--profile", record.profile] if record.profile else []
    command += [word for setting in record.settings for word in ("--set", setting)]
    out().print(f"to make the rest: {quoted([*command, '--workspace', str(workspace.path)])}", soft_wrap=True)


def _age(state: State) -> list[str]:
    """For unfinished work, when it last advanced; for work that goes on, who does it and since when."""
    if state.state not in ("partial", "running") or state.since is None:
        return []
    age = duration(max((datetime.now(UTC) - datetime.fromisoformat(state.since)).total_seconds(), 0.0))
    return [f"left {age} ago" if state.state == "partial" else f"process {state.pid} on {state.host}, for {age}"]


def show(
    name: Annotated[str, typer.Argument(help="An artifact of the workspace.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE",
            help="Data set: write the contact sheet (PNG) there.",
            show_default="in the artifact",
        ),
    ] = None,
) -> None:
    """Show an artifact: its manifest, settings and summary; for a data set, its classes and a contact sheet too."""
    artifact = named_artifact(existing_workspace(workspace), name)
    if sheet is not None and (artifact.kind != "dataset" or sheet.suffix.lower() != ".png"):
        raise UsageError(
            f"--sheet {sheet}: expected a data set, and a file .png",
            "leave --sheet out, or correct it",
        )
    if as_json:
        write_json({"name": name, **artifact.manifest.model_dump(by_alias=True), **_class_names(artifact)})
    else:
        _print_artifact(artifact)
    if artifact.kind == "dataset" and (sheet is not None or not as_json):
        from semiseg_cli.data_commands import show_contact_sheet

        show_contact_sheet(artifact, sheet)


def _class_names(artifact: Artifact) -> dict[str, Any]:
    if artifact.kind != "dataset":
        return {}
    from artifacts.dataset import Dataset

    return {"class_names": list(Dataset(artifact).class_names)}


def _print_artifact(artifact: Artifact) -> None:
    console, made, summary = out(), artifact.manifest, artifact.summary
    facts = plain_table("", "")
    facts.show_header = False
    facts.add_row("artifact", f"{artifact.name}  ({made.kind}, version {made.kind_version})")
    facts.add_row("made by", f"{made.stage}, version {made.stage_version}, {made.finished}, {duration(made.seconds)}")
    if made.resumed:
        facts.add_row("continued", amount(made.resumed, "time"))
    inputs = ", ".join(f"{key}: {record['artifact']}" for key, record in made.inputs.items())
    facts.add_row("inputs", inputs or "-")
    facts.add_row("files", f"{made.count}, {size(made.bytes)}")
    facts.add_row("folder", str(artifact.path))
    facts.add_row("fingerprint", made.fingerprint[:16])
    console.print(facts)
    console.print(_settings_table(artifact))
    if artifact.kind == "dataset":
        from semiseg_cli.data_commands import dataset_tables

        tables, summary = dataset_tables(artifact)
        for table in tables:
            console.print(table)
    for table in _summary_tables(summary):
        console.print(table)


def _settings_table(artifact: Artifact) -> Table:
    """The settings that differ from their defaults; all settings if this version cannot read them."""
    made = artifact.manifest
    config, title = None, "settings that this version cannot read"
    if made.stage in STAGE_MODULES:
        config, _ = mistakes(load_stage(made.stage).config, made.config, recorded=True)
    if config is not None:
        title = "settings (the rest: defaults)"
    table = plain_table(title, "")
    for key, value in flatten(made.config).items() if config is None else settings_apart(config):
        table.add_row(key, "''" if value == "" else _shown(value))
    if not table.row_count:
        table.add_row("all defaults", "")
    return table


def _summary_tables(summary: dict[str, Any]) -> list[Table]:
    """The plain values, and a table for every group of records with the same fields (figures of each class)."""
    plain = plain_table("summary", "")
    tables = [plain]

    def add(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if not isinstance(value, dict):
                plain.add_row(name, _shown(value, name))
            elif records := _records(value):
                fields = next(iter(records.values()))
                table = plain_table(name, *fields)
                for column in table.columns[1:]:
                    column.justify = "right"
                for label, record in records.items():
                    table.add_row(label, *(_shown(record[field], f"{name}.{field}") for field in fields))
                tables.append(table)
            else:
                add(value, f"{name}.")

    add(summary, "")
    return [table for table in tables if table.row_count]


def _records(value: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """`value` if it holds two or more records with the same plain fields, else None."""
    inner = list(value.values())
    if len(inner) < 2 or not all(isinstance(record, dict) and record for record in inner):
        return None
    same = all(record.keys() == inner[0].keys() for record in inner)
    plain = not any(isinstance(field, dict | list) for record in inner for field in record.values())
    return value if same and plain else None


def _shown(value: Any, key: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{100 * value:.2f} %" if is_share(key) else f"{value:.4g}"
    if isinstance(value, list):
        text = ", ".join(map(_shown, value))
        return text if len(text) <= 200 else f"{text[:197]}..."
    return str(value)


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Artifacts; left out: all of them.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every byte of artifacts with their manifests; exit with 3 when something is damaged."""
    target = existing_workspace(workspace)
    found: dict[str, list[str]] = {}
    older = []
    for name in names or target.names():
        try:
            found[name] = named_artifact(target, name).verify(default_workers())
        except ArtifactError as error:
            if name not in target.names():
                raise
            found[name] = [error.message]
            older += [name] if isinstance(error, OlderFormatError) else []
    if as_json:
        write_json([{"name": name, "whole": not problems, "problems": problems} for name, problems in found.items()])
    else:
        table = plain_table("artifact", "state", "problems")
        for name, problems in found.items():
            more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
            fault = state_text("stale", "older format") if name in older else state_text("damaged")
            state = fault if problems else state_text("done", "whole")
            table.add_row(name, state, "\n".join([*problems[:5], *more]))
        out().print(table)
    damaged = [name for name, problems in found.items() if problems and name not in older]
    faults = [(damaged, "damaged"), (older, "of an older format, which cannot be checked")]
    if damaged or older:
        raise ArtifactError(
            "; ".join(f"{len(those)} {what}: {', '.join(those)}" for those, what in faults if those),
            "make it again: semiseg clean NAME, then the command that made it (semiseg show NAME)",
        )


def clean(
    names: Annotated[list[str] | None, typer.Argument(help="Artifacts to remove as well.")] = None,
    workspace: WorkspaceOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every artifact of the workspace.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove unfinished work; with names or --all, artifacts too. Asks before it removes."""
    target = existing_workspace(workspace)
    remove = target.names() if everything else list(names or [])
    for name in remove:
        if name not in target.names():  # an artifact with a damaged manifest can be removed, too
            named_artifact(target, name)
    leftovers = unfinished_work(target)
    if not remove and not leftovers:
        say("nothing to clean")
        return
    lines = [f"artifact {name}" for name in remove]
    lines += [
        f"unfinished work of {name}: {path.name} ({size(_bytes(path))})"
        for name, paths in leftovers.items()
        for path in paths
    ]
    say("\n".join(f"  {line}" for line in lines))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("clean asks before it removes, and there is no terminal to ask on", "add --yes")
        typer.confirm(f"Remove {len(lines)}?", abort=True, err=True)
    for name in dict.fromkeys([*remove, *leftovers]):
        try:
            target.remove(name) if name in remove else target.discard_partials(name)
        except BusyError as error:
            say(f"kept: {error.message}")
    say("removed")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
