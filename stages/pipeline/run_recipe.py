"""Runs the nodes of a recipe that are not fresh: in order in this process, or several at a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from artifacts.canonical import pretty_json
from artifacts.disk_errors import disk_errors
from artifacts.errors import ArtifactError, ConfigError
from artifacts.json_items import Anything, Shape, Text, read_json, shaped
from artifacts.store import TEMPORARY, Artifact, Workspace, Writer, check_name
from artifacts.text import did_you_mean
from stages.config import mistakes
from stages.contract import STAGE_MODULES, Execution, load_stage
from stages.parallel.processes import preload
from stages.pipeline.changes import Change
from stages.pipeline.graph import upstream
from stages.pipeline.observer import Observer, RunReport
from stages.pipeline.recipe import Node, Recipe
from stages.pipeline.run_stage import run_stage
from stages.pipeline.side_by_side import run_side_by_side
from stages.pipeline.status import Expected
from stages.pipeline.table import Table

RECORD_NAME = ".recipe.json"
WRITE_ANEW = "run the recipe again (it writes the file anew), or delete the file"
_RECORD_SCHEMA = 1


def run_recipe(
    recipe: Recipe,
    workspace: Workspace,
    execution: Execution,
    observer: Observer,
    force: Collection[str] = (),
    done: Collection[str] = (),
    only: Collection[str] = (),
    jobs: int = 1,
) -> RunReport:
    """Makes every node that is not fresh. A node that fails stops those that need it, not the others.

    done: nodes that an earlier part of the same run has made, which are passed over. only: if any, the others are
    passed over. jobs: so many nodes at a time, each in a process; with 1 they are made in this one.

    Raises ConfigError when `force` or `only` name a node that the recipe does not have.
    """
    check_nodes(recipe, force, only)
    if execution.rank == 0:
        save_record(workspace, recipe)
    left = {n: node for n, node in recipe.nodes.items() if n not in done and (not only or n in only)}
    if jobs > 1:
        return run_side_by_side(left, recipe.reads, workspace, execution, observer, force, jobs)
    if any(node.stage.name == "refine" for node in left.values()):
        preload(["torch"])  # the server of all pools starts with the first of them, and those of refiners need it
    report = RunReport()
    for name, node in left.items():
        lost = sorted(upstream(recipe.reads, name) & report.failed.keys())
        if lost:
            report.skipped.append(name)
            observer.skipped(node, lost)
            continue
        try:
            outcome = run_stage(
                node.stage,
                node.config,
                workspace,
                name,
                node.inputs,
                execution,
                force=name in force,
                started=_tell_start(observer, node),
                replacing=_tell_replaced(observer, node),
            )
        except Exception as error:
            report.failed[name] = error
            observer.failed(node, error)
            continue
        if outcome.ran:
            report.made.append(name)
            observer.finished(node, outcome.artifact)
        else:
            report.fresh.append(name)
            observer.fresh(node, outcome.artifact)
    return report


def check_nodes(recipe: Recipe, force: Collection[str], only: Collection[str] = ()) -> None:
    """ConfigError where --force or --only names a node that the recipe does not have."""
    for option, names in (("--force", force), ("--only", only)):
        for name in names:
            if name not in recipe.nodes:
                raise ConfigError(f"{option} {name}: no such node{did_you_mean(name, recipe.nodes)}")


def _tell_start(observer: Observer, node: Node) -> Callable[[Writer], None]:
    return lambda writer: observer.started(node, writer.resumed)


def _tell_replaced(observer: Observer, node: Node) -> Callable[[Artifact, list[Change]], None]:
    return lambda artifact, changes: observer.replacing(node, artifact.manifest.finished, changes)


# --- the record of the recipe in its workspace ---


def save_record(workspace: Workspace, recipe: Recipe) -> None:
    """Writes the resolved recipe into the workspace, so that `status` and `report` know what belongs there."""
    record = {
        "schema": _RECORD_SCHEMA,
        "name": recipe.name,
        "source": recipe.source,
        "profile": recipe.profile,
        "parameters": recipe.parameters,
        "settings": recipe.settings,
        "assumptions": recipe.assumptions,
        "nodes": {
            name: {
                "stage": node.stage.name,
                "config": node.config.model_dump(mode="json"),
                "inputs": node.inputs,
            }
            for name, node in recipe.nodes.items()
        },
        "table": None if recipe.table is None else _table_record(recipe.table),
    }
    target = workspace.path / RECORD_NAME
    # the nodes of a cluster may write it at a time, and share process numbers
    temporary = workspace.path / f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-recipe.json"
    try:
        with disk_errors(target):
            workspace.path.mkdir(parents=True, exist_ok=True)
            temporary.write_text(pretty_json(record), encoding="utf-8")
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _table_record(table: Table) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(table)


class _NodeRecord(Shape):
    stage: str
    config: Anything
    inputs: dict[str, str]


class _RecordFile(Shape):
    """.recipe.json."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    source: Text
    profile: str | None
    nodes: dict[Annotated[str, AfterValidator(check_name)], _NodeRecord]
    table: Anything | None
    parameters: Anything = Field(default_factory=dict)
    settings: list[Text] | None = None  # older records lack it
    assumptions: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """The record of the last `semiseg run` in a workspace."""

    name: str
    source: str
    profile: str | None
    expected: dict[str, Expected]
    table: Table | None
    problems: list[str]  # nodes that the present code can no longer make
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: list[str] | None = None  # the texts of --set; older records lack them
    assumptions: list[str] = field(default_factory=list)


def read_record(workspace: Workspace) -> Record | None:
    """The record of the last recipe run in the workspace; None when there was none.

    Raises ArtifactError when the record is damaged.
    """
    path = workspace.path / RECORD_NAME
    if not os.path.lexists(path):
        return None
    raw = read_json(path, _RecordFile, WRITE_ANEW)
    expected, problems = _expected_nodes(raw.nodes)
    return Record(
        raw.name,
        raw.source,
        raw.profile,
        expected,
        None if raw.table is None else _table_from(raw.table, str(path)),
        problems,
        raw.parameters,
        raw.settings,
        raw.assumptions,
    )


def _expected_nodes(nodes: Mapping[str, _NodeRecord]) -> tuple[dict[str, Expected], list[str]]:
    expected, problems = {}, []
    for name, node in nodes.items():
        if node.stage not in STAGE_MODULES:
            problems.append(f"{name}: there is no stage {node.stage!r} any more")
            continue
        stage = load_stage(node.stage)
        config, wrong = mistakes(stage.config, node.config)
        if config is None:
            problems += [f"{name}: config {line}" for line in wrong]
            continue
        expected[name] = Expected(stage, config, node.inputs)
    return expected, problems


def _table_from(record: dict[str, Any], source: str) -> Table:
    """The table; ArtifactError if rows or columns are missing."""
    table = shaped(record, Table, f"the table in {source}", WRITE_ANEW)
    published = [row.published.column for row in table.rows if row.published is not None]
    columns = {*published, *(table.plot.points if table.plot else ())} - set(table.columns)
    rows = {*table.order, *table.equal} - {row.label for row in table.rows}
    if rows or columns:
        named = ", ".join(map(repr, sorted(rows | columns)))
        raise ArtifactError(f"the table in {source} is damaged: it has no {named}", WRITE_ANEW)
    if len(table.equal) not in (0, 2) or not all(run for row in table.rows for run in row.costs):
        raise ArtifactError(f"the table in {source} is damaged: wrong equal, or costs without a node", WRITE_ANEW)
    return table
