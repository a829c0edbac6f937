"""The state of every artifact of a workspace: fresh, stale (and why), missing, partial, running or damaged.

Reads manifests, file names and sizes only; loads no torch.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from artifacts.errors import ArtifactError, ConfigError, OlderFormatError, SemisegError
from artifacts.item_list import Item, ListedItems, iter_files
from artifacts.provenance import source_commit
from artifacts.store import Artifact, Unfinished, Work, Workspace
from artifacts.text import amount
from stages.config import Config, mistakes
from stages.contract import STAGE_MODULES, Stage, external_digests, fingerprint, load_stage
from stages.pipeline.changes import (
    Change,
    as_read_today,
    differences,
    external_changes,
    input_changes,
    listed,
    setting_changes,
    work_changes,
)
from stages.pipeline.graph import find_cycle, topological_order
from stages.pipeline.run_stage import plan_work

FRESH, STALE, MISSING, PARTIAL, RUNNING, BLOCKED, DAMAGED = (
    "fresh",
    "stale",
    "missing",
    "partial",
    "running",
    "blocked",
    "damaged",
)

SAMPLE = 1000  # items of very many that are looked at
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")


@dataclass(frozen=True)
class Expected:
    """What an artifact should be made from: by a recipe, or by its own manifest."""

    stage: Stage
    config: Config
    inputs: dict[str, str]  # input -> artifact name


@dataclass(frozen=True)
class State:
    """The state of one artifact. `reasons`: why it is not fresh; `remarks` do not make it stale."""

    name: str
    stage: str
    state: str
    reasons: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    done: int | None = None  # partial: units done and planned
    total: int | None = None
    pid: int | None = None  # running: who, since when
    host: str | None = None
    since: str | None = None  # partial: when it last advanced
    folder: str | None = None  # partial: where it is, and the command that made it
    command: str | None = None
    finished: str | None = None
    seconds: float | None = None

    @property
    def progress(self) -> str:
        """The state as text: "stale", "partial 412/1464"."""
        counts = self.state in (PARTIAL, RUNNING) and self.total
        return f"{self.state} {self.done}/{self.total}" if counts else self.state

    @property
    def words(self) -> str:
        """The state as text: "partial 412/1464", "running 3/20 (process 12 since ...)"."""
        by = f" (process {self.pid} since {self.since})" if self.state == RUNNING else ""
        return self.progress + by


def workspace_states(workspace: Workspace, expected: Mapping[str, Expected]) -> list[State]:
    """The state of every expected artifact and of all others in the workspace, inputs before outputs."""
    wanted, damaged = _wanted(workspace, expected)
    return [*expected_states(workspace, wanted).values(), *damaged.values()]


def expected_states(workspace: Workspace, expected: Mapping[str, Expected]) -> dict[str, State]:
    """The states of the expected artifacts by name, inputs before outputs; reads no others."""
    states: dict[str, State] = {}
    for name in topological_order({name: list(e.inputs.values()) for name, e in expected.items()}):
        states[name] = _state(workspace, name, expected[name], states)
    return states


def _wanted(workspace: Workspace, expected: Mapping[str, Expected]) -> tuple[dict[str, Expected], dict[str, State]]:
    """What is expected, and what the manifests of all other artifacts record; the states of those without a record."""
    wanted = dict(expected)
    damaged: dict[str, State] = {}
    for name in workspace.names():
        if name in wanted:
            continue
        try:
            own = _from_manifest(workspace.artifact(name))
        except SemisegError as error:
            damaged[name] = _unreadable(name, error)
            continue
        if isinstance(own, State):
            damaged[name] = own
        else:
            wanted[name] = own
    while cycle := find_cycle({name: list(e.inputs.values()) for name, e in wanted.items()}):
        stage = wanted.pop(cycle[0]).stage.name
        damaged[cycle[0]] = State(cycle[0], stage, DAMAGED, [f"it was made from itself: {' from '.join(cycle)}"])
    return wanted, damaged


def _unreadable(name: str, error: SemisegError) -> State:
    """The state of an artifact that cannot be opened: damaged, or stale if only its format is older."""
    return State(name, "?", STALE if isinstance(error, OlderFormatError) else DAMAGED, [error.message])


def _from_manifest(artifact: Artifact) -> Expected | State:
    """What the artifact was made from, by its own manifest; a State if this code cannot make it any more."""
    manifest = artifact.manifest
    if manifest.stage not in STAGE_MODULES:
        return State(artifact.name, manifest.stage, STALE, [f"there is no stage {manifest.stage!r} any more"])
    stage = load_stage(manifest.stage)
    config, wrong = mistakes(stage.config, manifest.config, recorded=True)
    if config is None:
        reasons = [f"config {line}" for line in wrong]
        return State(artifact.name, manifest.stage, STALE, reasons, finished=manifest.finished)
    return Expected(stage, config, {key: record["artifact"] for key, record in manifest.inputs.items()})


def _state(workspace: Workspace, name: str, expected: Expected, earlier: Mapping[str, State]) -> State:
    """The state of the artifact `name`; `earlier` holds the states of its inputs."""
    stage = expected.stage
    running = workspace.holder(name)
    unmade = [source for source in expected.inputs.values() if source not in _published(workspace, expected)]
    published, problem = _open(workspace, name)

    if running is not None:
        return _running(workspace, name, stage.name, running)
    if problem is not None:
        return replace(problem, stage=stage.name)
    if published is None:
        return _unpublished(workspace, name, expected, unmade)

    reasons = [f"input {source} is {earlier[source].state}" for source in _unfresh(expected, earlier)]
    reasons += stale_reasons(workspace, published, expected)
    remarks = _code_remarks(published)
    own = _own_folder(workspace, name, expected)
    remarks += [
        "unfinished new work" + (f": {unfinished.done}/{unfinished.total}" if unfinished.total else "")
        for unfinished in workspace.unfinished(name)
        if unfinished.folder == own
    ]
    return State(
        name,
        stage.name,
        STALE if reasons else FRESH,
        reasons,
        remarks,
        finished=published.manifest.finished,
        seconds=published.manifest.seconds,
    )


def _running(workspace: Workspace, name: str, stage: str, holder: Mapping[str, Any]) -> State:
    """The state of an artifact that is being written: its progress is that of the folder that changed last."""
    folders = sorted(workspace.unfinished(name), key=lambda unfinished: unfinished.written)
    last = folders[-1] if folders else None
    return State(
        name,
        stage if last is None or last.work is None else last.work.stage,
        RUNNING,
        pid=holder.get("pid"),
        host=holder.get("host"),
        since=holder.get("since"),
        done=last.done if last else None,
        total=last.total if last else None,
    )


def _open(workspace: Workspace, name: str) -> tuple[Artifact | None, State | None]:
    """The published artifact, or its state by what shows without reading (files missing or of a different size)."""
    if not workspace.has(name):
        return None, None
    problems: list[str] = []
    earlier = None
    while True:
        try:
            artifact = workspace.artifact(name)
        except ArtifactError as error:
            return None, _unreadable(name, error)
        if problems and artifact.manifest == earlier:
            more = [f"and {len(problems) - 3} more"] if len(problems) > 3 else []
            return None, State(name, "?", DAMAGED, [*problems[:3], *more])
        if not (problems := at_first_sight(artifact)):
            return artifact, None
        earlier = artifact.manifest  # is it damaged, or was it replaced during the check?


def at_first_sight(artifact: Artifact) -> list[str]:
    """Missing files and wrong sizes; of very many items only a sample is looked at, and the files are counted."""
    if not isinstance(artifact.items, ListedItems):
        return list(_wrong_sizes(artifact, artifact.items.items()))
    try:
        problems = list(_wrong_sizes(artifact, artifact.items.sample(SAMPLE)))
        count = sum(1 for _ in iter_files(artifact.path))
    except (ArtifactError, OSError) as error:
        return [str(error)]
    if count != len(artifact.items):
        problems.append(f"it has {amount(count, 'file')}, expected {len(artifact.items):,}")
    return problems


def _wrong_sizes(artifact: Artifact, items: Iterable[tuple[str, Item]]) -> Iterator[str]:
    for relative, item in items:
        try:
            size = (artifact.path / relative).stat().st_size
        except OSError:
            yield f"{relative} is missing"
            continue
        if size != item["bytes"]:
            yield f"{relative} has {size} bytes, expected {item['bytes']}"


def _published(workspace: Workspace, expected: Expected) -> dict[str, Artifact]:
    found = {}
    for source in expected.inputs.values():
        try:
            found[source] = workspace.artifact(source)
        except ArtifactError:
            continue
    return found


def _unfresh(expected: Expected, earlier: Mapping[str, State]) -> list[str]:
    return [s for s in dict.fromkeys(expected.inputs.values()) if s in earlier and earlier[s].state != FRESH]


def _unpublished(workspace: Workspace, name: str, expected: Expected, unmade: list[str]) -> State:
    if unmade:
        return State(name, expected.stage.name, BLOCKED, [f"needs {source}, which is not made" for source in unmade])
    own = _own_folder(workspace, name, expected)
    for unfinished in workspace.unfinished(name):
        if unfinished.folder == own:
            return _partial(name, expected.stage.name, unfinished)
    remarks = []
    if workspace.partials(name):
        remarks.append("unfinished work with different settings (kept until `semiseg clean`)")
    return State(name, expected.stage.name, MISSING, remarks=remarks)


def _partial(name: str, stage: str, unfinished: Unfinished, reasons: list[str] | None = None) -> State:
    return State(
        name,
        stage,
        PARTIAL,
        reasons or [],
        done=unfinished.done,
        total=unfinished.total,
        since=unfinished.written,
        folder=str(unfinished.folder),
        command=typed_command(unfinished.argv),
        seconds=unfinished.seconds,
    )


def typed_command(argv: list[str]) -> str | None:
    """A recorded command line as typed in a shell; None if it is not one of semiseg (a program that uses the store)."""
    program = PurePath(argv[0]) if argv else PurePath()
    if program.name == "semiseg" or program.parts[-2:] == ("semiseg_cli", "__main__.py"):
        return shlex.join(["semiseg", *argv[1:]])
    return None


def _own_folder(workspace: Workspace, name: str, expected: Expected) -> Path | None:
    """The folder of unfinished work with exactly the expected settings; None when there is none."""
    if not workspace.partials(name):
        return None
    try:
        present = _published(workspace, expected)
        work = plan_work(expected.stage, expected.config, expected.inputs, present, workspace.folders)
    except (SemisegError, KeyError):
        return None
    folder = workspace.partial_folder(name, work.fingerprint)
    return folder if folder.is_dir() else None


def unfinished_states(workspace: Workspace, expected: Mapping[str, Expected]) -> list[State]:
    """The states that `workspace_states` does not list: unfinished work whose name is neither published nor expected,
    or whose settings differ from those.

    An artifact of the same name may have a state of its own.
    """
    wanted, _ = _wanted(workspace, expected)
    found = []
    for name in _partial_names(workspace):
        known = wanted.get(name)
        holder = workspace.holder(name)
        if holder is not None:
            found += [] if known else [_running(workspace, name, "?", holder)]
            continue
        own = _own_folder(workspace, name, known) if known else None
        for unfinished in workspace.unfinished(name):
            if unfinished.folder != own:
                stage = unfinished.work.stage if unfinished.work else "?"
                found.append(_partial(name, stage, unfinished, _apart(workspace, name, unfinished.work, known)))
    return found


def _apart(workspace: Workspace, name: str, work: Work | None, known: Expected | None) -> list[str]:
    """The differences between unfinished work and the published artifact of its name, or the expected one."""
    if work is None:
        return ["its settings were not recorded"]
    if work.stage not in STAGE_MODULES:
        return [f"there is no stage {work.stage!r} any more"]
    stage = load_stage(work.stage)
    work = replace(work, config=as_read_today(stage, work.config))
    published, _ = _open(workspace, name)
    if published is not None:
        changes = work_changes(stage, work, published.manifest)
        return [f"differs from the artifact: {listed(changes) if changes else 'of another version'}"]
    if known is None:
        return []
    if known.stage.name != work.stage:
        return [f"of the stage {work.stage}, expected {known.stage.name}"]
    asked = known.config.model_dump(mode="json")
    changes = [Change(f"{now} instead of {before}", key) for key, before, now in differences(asked, work.config)]
    return [f"different settings: {listed(changes)}" if changes else "of different inputs"]


def stale_reasons(workspace: Workspace, artifact: Artifact, expected: Expected) -> list[str]:
    """Why the artifact is not what `expected` would make now; empty if it is fresh."""
    manifest, stage = artifact.manifest, expected.stage
    changes = setting_changes(stage, manifest, expected.config.model_dump(mode="json"))
    if manifest.stage != stage.name:
        return [change.reason for change in changes]
    present = _published(workspace, expected)
    contents = {key: present[name].manifest.content for key, name in expected.inputs.items() if name in present}
    changes += input_changes(manifest, {key: (name, contents.get(key)) for key, name in expected.inputs.items()})
    with contextlib.suppress(ConfigError):  # a file that was deleted is no reason: the result is still valid
        changes += external_changes(manifest, external_digests(stage, expected.config, workspace.folders))
    if not changes and manifest.fingerprint not in (
        fingerprint(stage, expected.config, contents, manifest.externals),
        fingerprint(stage, expected.config, contents, manifest.externals, recorded=manifest.config),
    ):
        return ["fingerprint differs"]
    return [change.reason for change in changes]


def unfinished_work(workspace: Workspace) -> dict[str, list[Path]]:
    """Folders of unfinished work by artifact name, sorted; those being written now are left out."""
    names = _partial_names(workspace)
    return {name: workspace.partials(name) for name in names if workspace.holder(name) is None}


def _partial_names(workspace: Workspace) -> list[str]:
    if not workspace.path.is_dir():
        return []
    matches = (_PARTIAL.fullmatch(entry.name) for entry in workspace.path.iterdir())
    return sorted({match[1] for match in matches if match})


def _code_remarks(artifact: Artifact) -> list[str]:
    made, now = artifact.manifest.made_by.get("source"), source_commit()
    if not made or not now or made["commit"] == now["commit"]:
        return []
    return [f"code of another commit ({made['commit'][:8]})"]
