"""What is fresh in a workspace, what is stale and why, what is missing, half done, running or damaged.

Reads manifests, file names and sizes only; loads no torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.errors import ArtifactError, ConfigError, SemisegError
from artifacts.provenance import source_commit
from artifacts.store import Artifact, Workspace
from stages.config import Config, mistakes
from stages.contract import STAGE_MODULES, Stage, external_digests, fingerprint, load_stage
from stages.pipeline.changes import external_changes, input_changes, setting_changes
from stages.pipeline.graph import topological_order
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

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")


@dataclass(frozen=True)
class Expected:
    """What an artifact should have been made from: by a recipe, or by its own manifest."""

    stage: Stage
    config: Config
    inputs: dict[str, str]  # input -> artifact name


@dataclass(frozen=True)
class State:
    """The state of one artifact. `reasons` say why it is not fresh; `remarks` are no reason to rerun."""

    name: str
    stage: str
    state: str
    reasons: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    done: int | None = None  # partial: units done and planned
    total: int | None = None
    pid: int | None = None  # running: who, since when
    host: str | None = None
    since: str | None = None
    finished: str | None = None
    seconds: float | None = None

    @property
    def words(self) -> str:
        """The state as people read it: "partial 412/1464", "running (process 12 since ...)"."""
        if self.state == PARTIAL and self.total:
            return f"partial {self.done}/{self.total}"
        if self.state == RUNNING:
            progress = f" {self.done}/{self.total}" if self.total else ""
            return f"running{progress} (process {self.pid} since {self.since})"
        return self.state


def workspace_states(workspace: Workspace, expected: Mapping[str, Expected]) -> list[State]:
    """The state of every expected artifact and of every other one in the workspace, inputs before outputs."""
    wanted = dict(expected)
    damaged: dict[str, State] = {}
    for name in workspace.names():
        if name in wanted:
            continue
        try:
            artifact = workspace.artifact(name)
            own = _from_manifest(artifact)
        except SemisegError as error:
            damaged[name] = State(name, "?", DAMAGED, [error.message])
            continue
        if isinstance(own, State):
            damaged[name] = own
        else:
            wanted[name] = own
    order = topological_order({name: list(e.inputs.values()) for name, e in wanted.items()})
    states: dict[str, State] = {}
    for name in order:
        states[name] = artifact_state(workspace, name, wanted[name], states)
    return [*states.values(), *damaged.values()]


def _from_manifest(artifact: Artifact) -> Expected | State:
    """What the artifact's own manifest says it was made from; a State when this code cannot make it any more."""
    manifest = artifact.manifest
    if manifest.stage not in STAGE_MODULES:
        return State(artifact.name, manifest.stage, STALE, [f"there is no stage {manifest.stage!r} any more"])
    stage = load_stage(manifest.stage)
    config, wrong = mistakes(stage.config, manifest.config)
    if config is None:
        reasons = [f"config {line}" for line in wrong]
        return State(artifact.name, manifest.stage, STALE, reasons, finished=manifest.finished)
    return Expected(stage, config, {key: record["artifact"] for key, record in manifest.inputs.items()})


def artifact_state(workspace: Workspace, name: str, expected: Expected, earlier: Mapping[str, State]) -> State:
    """The state of the artifact `name`; `earlier` holds the states of its inputs."""
    stage = expected.stage
    running = workspace.holder(name)
    unmade = [source for source in expected.inputs.values() if source not in _published(workspace, expected)]
    published, problem = _open(workspace, name)

    if running is not None:
        progress = _any_progress(workspace, name)
        return State(
            name,
            stage.name,
            RUNNING,
            pid=running.get("pid"),
            host=running.get("host"),
            since=running.get("since"),
            done=progress.get("done"),
            total=progress.get("total"),
        )
    if problem is not None:
        return State(name, stage.name, DAMAGED, problem)
    if published is None:
        return _unpublished(workspace, name, expected, unmade)

    reasons = [f"input {source} is {earlier[source].state}" for source in _unfresh(expected, earlier)]
    reasons += stale_reasons(workspace, published, expected)
    remarks = _code_remarks(published)
    partial = _partial_progress(workspace, name, expected)
    if partial and partial["total"]:
        remarks.append(f"unfinished new work: {partial['done']}/{partial['total']}")
    return State(
        name,
        stage.name,
        STALE if reasons else FRESH,
        reasons,
        remarks,
        finished=published.manifest.finished,
        seconds=published.manifest.seconds,
    )


def _open(workspace: Workspace, name: str) -> tuple[Artifact | None, list[str] | None]:
    """The published artifact, and what is wrong with it at first sight (files missing or of another size)."""
    if name not in workspace.names():
        return None, None
    try:
        artifact = workspace.artifact(name)
    except ArtifactError as error:
        return None, [error.message]
    problems = []
    for relative, item in artifact.manifest.items.items():
        path = artifact.path / relative
        try:
            size = path.stat().st_size
        except OSError:
            problems.append(f"{relative} is missing")
            continue
        if size != item["bytes"]:
            problems.append(f"{relative} has {size} bytes, expected {item['bytes']}")
    if problems:
        return None, [*problems[:3], *([f"and {len(problems) - 3} more"] if len(problems) > 3 else [])]
    return artifact, None


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
    partial = _partial_progress(workspace, name, expected)
    if partial is not None:
        return State(name, expected.stage.name, PARTIAL, done=partial["done"], total=partial["total"])
    remarks = []
    if workspace.partials(name):
        remarks.append("unfinished work with other settings (kept until `semiseg clean`)")
    return State(name, expected.stage.name, MISSING, remarks=remarks)


def _partial_progress(workspace: Workspace, name: str, expected: Expected) -> dict[str, int | None] | None:
    """Units done and planned of unfinished work with exactly the expected settings; None when there is none."""
    if not workspace.partials(name):
        return None
    try:
        work = plan_work(expected.stage, expected.config, expected.inputs, _published(workspace, expected))
    except (SemisegError, KeyError):
        return None
    return workspace.progress(name, work.fingerprint)


def _any_progress(workspace: Workspace, name: str) -> dict[str, int | None]:
    """Progress of whatever is being written: the folder that changed last."""
    folders = sorted(workspace.partials(name), key=lambda path: path.stat().st_mtime)
    if not folders:
        return {}
    return workspace.progress(name, folders[-1].name.split(".")[-2]) or {}


def stale_reasons(workspace: Workspace, artifact: Artifact, expected: Expected) -> list[str]:
    """Why the artifact is not what `expected` would make now, in words; empty when it is fresh."""
    manifest, stage = artifact.manifest, expected.stage
    changes = setting_changes(stage, manifest, expected.config.model_dump(mode="json"))
    if manifest.stage != stage.name:
        return [change.reason for change in changes]
    present = _published(workspace, expected)
    contents = {key: present[name].manifest.content for key, name in expected.inputs.items() if name in present}
    changes += input_changes(manifest, {key: (name, contents.get(key)) for key, name in expected.inputs.items()})
    with contextlib.suppress(ConfigError):  # a file that is gone is no reason: the result still stands
        changes += external_changes(manifest, external_digests(stage, expected.config))
    if not changes and manifest.fingerprint not in (
        fingerprint(stage, expected.config, contents, manifest.externals),
        fingerprint(stage, expected.config, contents, manifest.externals, recorded=manifest.config),
    ):
        return ["fingerprint differs"]
    return [change.reason for change in changes]


def unfinished_work(workspace: Workspace) -> dict[str, list[Path]]:
    """Folders of unfinished work by artifact name, sorted; those being written now are left out."""
    if not workspace.path.is_dir():
        return {}
    matches = (_PARTIAL.fullmatch(entry.name) for entry in workspace.path.iterdir())
    names = sorted({match[1] for match in matches if match})
    return {name: workspace.partials(name) for name in names if workspace.holder(name) is None}


def _code_remarks(artifact: Artifact) -> list[str]:
    made, now = artifact.manifest.made_by.get("source"), source_commit()
    if not made or not now or made["commit"] == now["commit"]:
        return []
    return [f"code of another commit ({made['commit'][:8]})"]
