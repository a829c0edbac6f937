"""What is fresh in a workspace, what is stale and why, what is missing, half done, running or damaged.

Reads manifests, file names and sizes only; loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError, ConfigError, SemisegError
from artifacts.provenance import source_commit
from artifacts.store import Artifact, Workspace
from stages.config import Config, mistakes
from stages.contract import STAGE_MODULES, Stage, external_digests, fingerprint, load_stage
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
    if manifest.stage != stage.name:
        return [f"made by the stage {manifest.stage}, expected {stage.name}"]
    reasons = []
    if manifest.stage_version != stage.version:
        reasons.append(f"stage version {manifest.stage_version} -> {stage.version}")
    for key, before, now in differences(manifest.config, expected.config.model_dump(mode="json")):
        if key not in manifest.externals:
            reasons.append(f"config {key}: {before} -> {now}")
    contents = {key: record["content"] for key, record in manifest.inputs.items()}
    present = _published(workspace, expected)
    for key in sorted(set(manifest.inputs) | set(expected.inputs)):
        source = expected.inputs.get(key)
        if source is None:
            reasons.append(f"input {key} was {manifest.inputs[key]['artifact']}, now none")
        elif key not in manifest.inputs:
            reasons.append(f"input {key} was none, now {source}")
        elif source not in present:
            reasons.append(f"input {source} is not made")
        elif present[source].manifest.content != contents[key]:
            before = manifest.inputs[key]["artifact"]
            reasons.append(f"input {source} changed" if before == source else f"input {key}: {before} -> {source}")
    reasons += _external_reasons(artifact, expected)
    if not reasons and all(source in present for source in expected.inputs.values()):
        given = {key: present[source].manifest.content for key, source in expected.inputs.items()}
        if fingerprint(stage, expected.config, given, manifest.externals) != manifest.fingerprint:
            reasons.append("fingerprint differs")
    return reasons


def _external_reasons(artifact: Artifact, expected: Expected) -> list[str]:
    """Files outside the workspace that changed. A file that is gone is no reason: the result still stands."""
    try:
        now = external_digests(expected.stage, expected.config)
    except ConfigError:
        return []
    before = artifact.manifest.externals
    reasons = []
    for key in sorted(set(now) | set(before)):
        if now.get(key) != before.get(key):
            change = "is a file now" if key not in before else "was a file" if key not in now else "changed its content"
            reasons.append(f"the file of config {key} {change}")
    return reasons


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


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, str, str]]:
    """Where two configs differ: (dotted key, before, now), values as short text, "absent" where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in sorted(before.keys() | now.keys()):
            inner = f"{key}.{name}" if key else name
            if name not in before:
                found.append((inner, "absent", _short(now[name])))
            elif name not in now:
                found.append((inner, _short(before[name]), "absent"))
            else:
                found += differences(before[name], now[name], inner)
        return found
    return [] if before == now else [(key, _short(before), _short(now))]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
