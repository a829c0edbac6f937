"""Runs one stage in a workspace: locks, freshness, resume, publish."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError, ConfigError
from artifacts.file_system import remarks
from artifacts.folder_digests import KnownFolders
from artifacts.manifest import KINDS
from artifacts.store import Artifact, Work, Workspace, Writer, check_name
from stages.config import Config
from stages.contract import Execution, Inputs, Stage, external_digests, fingerprint, required_inputs
from stages.parallel.meeting import Meeting
from stages.pipeline.changes import Change, is_made_by, work_changes

REMARKED: set[Path] = set()  # workspaces of whose disks it is said what they do not promise
UNLOCKED: set[Path] = set()  # those of which it is said that their locks do not hold on other machines


@dataclass(frozen=True)
class Outcome:
    """The result of `run_stage`: the artifact, and whether work was needed."""

    artifact: Artifact
    ran: bool


def check_input_names(stage: Stage, names: Mapping[str, str | None]) -> None:
    """ConfigError for named inputs that the stage does not have."""
    if unknown := sorted(set(names) - set(stage.takes)):
        raise ConfigError(
            f"{stage.name} has no input {', '.join(map(repr, unknown))}",
            f"inputs: {', '.join(stage.takes) or 'none'}",
        )


def check_inputs(
    stage: Stage, config: Config, names: Mapping[str, str | None], artifacts: Mapping[str, Artifact]
) -> None:
    """ArtifactError for a required input that is missing, or is of a kind that the stage does not take."""
    check_input_names(stage, names)
    required = required_inputs(stage, config, [key for key, name in names.items() if name is not None])
    for key, declared in stage.takes.items():
        name = names.get(key)
        if name is None:
            if key in required:
                raise ArtifactError(
                    f"{stage.name} needs the input {key!r} ({declared.help})",
                    f"name an artifact of kind {' or '.join(declared.kinds)}: --{key.replace('_', '-')} NAME",
                )
            continue
        kind = artifacts[name].kind
        if kind not in declared.kinds:
            raise ArtifactError(
                f"{stage.name}: input {key!r} is the artifact {name!r} of kind {kind}, "
                f"expected {' or '.join(declared.kinds)} ({declared.help})",
                "name another artifact",
            )


def plan_work(
    stage: Stage,
    config: Config,
    names: Mapping[str, str | None],
    artifacts: Mapping[str, Artifact],
    folders: KnownFolders | None = None,
) -> Work:
    """The record of the work to be done, with its fingerprint. folders: digests that were taken before."""
    given = {key: artifacts[name] for key, name in names.items() if name is not None}
    externals = external_digests(stage, config, folders)
    contents = {key: artifact.manifest.content for key, artifact in given.items()}
    return Work(
        stage=stage.name,
        stage_version=stage.version,
        kind=stage.output,
        fingerprint=fingerprint(stage, config, contents, externals),
        config=config.model_dump(mode="json"),
        inputs={
            key: {
                "artifact": artifact.name,
                "kind": artifact.kind,
                "kind_version": KINDS[artifact.kind],
                "content": artifact.manifest.content,
                "fingerprint": artifact.manifest.fingerprint,
            }
            for key, artifact in given.items()
        },
        externals=externals,
    )


def published_if_fresh(workspace: Workspace, name: str, stage: Stage, config: Config, work: Work) -> Artifact | None:
    """The artifact `name` when it was made by this work, else None."""
    artifact = _published(workspace, name)
    return artifact if artifact is not None and is_made_by(stage, config, work, artifact.manifest) else None


def _published(workspace: Workspace, name: str) -> Artifact | None:
    try:
        return workspace.artifact(name)
    except ArtifactError:
        return None


def fresh_artifact(
    stage: Stage, config: Config, workspace: Workspace, name: str, inputs: Mapping[str, str | None]
) -> Artifact | None:
    """The artifact `name` where it is fresh, else None: then `run_stage` has work to do. Loads no torch."""
    with _inputs(stage, config, workspace, name, inputs) as artifacts:
        work = plan_work(stage, config, inputs, artifacts, workspace.folders)
        return published_if_fresh(workspace, name, stage, config, work)


@contextlib.contextmanager
def _inputs(
    stage: Stage, config: Config, workspace: Workspace, name: str, inputs: Mapping[str, str | None]
) -> Iterator[dict[str, Artifact]]:
    """The input artifacts, of the right kinds, which nobody can replace while the block runs."""
    check_name(name)
    check_input_names(stage, inputs)
    wanted = [name_ for name_ in inputs.values() if name_ is not None]
    if name in wanted:
        raise ConfigError(f"{stage.name}: {name!r} would be its own input", "write under another name")
    with workspace.reading(wanted) as artifacts:
        check_inputs(stage, config, inputs, artifacts)
        yield artifacts


def run_stage(
    stage: Stage,
    config: Config,
    workspace: Workspace,
    name: str,
    inputs: Mapping[str, str | None],
    execution: Execution,
    force: bool = False,
    started: Callable[[Writer], None] | None = None,
    replacing: Callable[[Artifact, list[Change]], None] | None = None,
) -> Outcome:
    """Makes the artifact `name` unless it is fresh; continues unfinished work of the same fingerprint.

    `started` is called when there is work to do, before it begins. `replacing` is called before that, with the artifact
    that would be replaced and their differences (none if the same work is forced); what it raises ends the run.

    Under torchrun every rank calls this: rank 0 holds the locks and publishes, the others work in the same folder.
    """
    with _met(execution) as meeting, _inputs(stage, config, workspace, name, inputs) as artifacts:
        folders = workspace.folders
        folders.threads = execution.own_workers
        work = plan_work(stage, config, inputs, artifacts, folders)
        fresh = None if force else published_if_fresh(workspace, name, stage, config, work)
        if meeting is not None:
            _check_agreement(meeting, name, work, fresh)
        if fresh is not None:
            return Outcome(fresh, ran=False)
        opened = stage.open({key: artifacts[name] for key, name in inputs.items() if name is not None})
        stage.check(config, opened)  # may load torch, which what is fresh does without
        if replacing is not None and (old := _published(workspace, name)):
            replacing(old, work_changes(stage, work, old.manifest))
        remark_on_disk(workspace, execution)
        if meeting is not None:
            return Outcome(
                _run_distributed(stage, config, opened, workspace, name, work, execution, started, meeting), ran=True
            )
        with workspace.writing(name, work) as writer:
            folders.keep()  # now that there is a workspace
            if not force and (fresh := published_if_fresh(workspace, name, stage, config, work)):
                writer.discard()  # another process made it between the check and the lock
                return Outcome(fresh, ran=False)
            if started is not None:
                started(writer)
            summary = _checked(stage, stage.run(config, opened, writer, execution))
            device = summary.pop("device", None)
            published = workspace.publish(name, writer, work, summary, device, workers=execution.workers)
            return Outcome(published, ran=True)


def _met(execution: Execution) -> contextlib.AbstractContextManager[Meeting | None]:
    """Where the ranks of torchrun meet, those of all machines; None for a single process."""
    if execution.world_size == 1:
        return contextlib.nullcontext()
    from stages.engine.distributed import meeting

    return meeting()


def _check_agreement(meeting: Meeting, name: str, work: Work, fresh: Artifact | None) -> None:
    """ArtifactError where ranks see another workspace, or were given another command, than rank 0."""
    found = meeting.exchange([work.fingerprint, fresh is not None])
    if others := [rank for rank, one in enumerate(found) if one != found[0]]:
        raise ArtifactError(
            f"{name}: rank {', '.join(map(str, others))} finds other inputs, settings or results than rank 0",
            "give all ranks the same command, and a workspace that all machines share (docs/shared-disks.md)",
        )


def remark_on_disk(workspace: Workspace, execution: Execution) -> None:
    """Says once what the disk of the workspace does not promise."""
    if execution.rank == 0 and workspace.path not in REMARKED:
        REMARKED.add(workspace.path)
        for sentence in remarks(workspace.path, execution.world_size > execution.local_world_size):
            execution.progress.note(sentence)


def _checked(stage: Stage, summary: Any) -> dict[str, Any]:
    """A copy of what the stage returned, which must be a dict."""
    if not isinstance(summary, dict):
        raise ArtifactError(
            f"the stage {stage.name} returned a {type(summary).__name__}, expected its summary as a dict",
            "this is a bug in the stage; finished items are kept",
        )
    return dict(summary)


def _check_lock(meeting: Meeting, workspace: Workspace, name: str, execution: Execution) -> None:
    """Says once where the lock that rank 0 holds does not exclude the processes of another machine."""
    found = meeting.exchange([socket.gethostname(), workspace.holder(name) is not None])
    if workspace.path not in UNLOCKED and (free := sorted({host for host, locked in found if not locked})):
        UNLOCKED.add(workspace.path)
        execution.progress.note(
            f"locks of {workspace.path} that {found[0][0]} holds do not hold on {', '.join(free)}: another command "
            f"there could write {name!r} at the same time (docs/shared-disks.md)"
        )


def _run_distributed(
    stage: Stage,
    config: Config,
    inputs: Inputs,
    workspace: Workspace,
    name: str,
    work: Work,
    execution: Execution,
    started: Callable[[Writer], None] | None,
    meeting: Meeting,
) -> Artifact:
    from stages.engine import distributed

    with distributed.process_group(execution.device), contextlib.ExitStack() as stack:
        if execution.rank == 0:
            writer = stack.enter_context(workspace.writing(name, work))
            if started is not None:
                started(writer)
        meeting.exchange()  # the folder exists and is locked before the other ranks enter
        _check_lock(meeting, workspace, name, execution)
        if execution.rank != 0:
            writer = Writer(workspace.partial_folder(name, work.fingerprint), reports=False)
        returned = stage.run(config, inputs, writer, execution)
        meeting.exchange()
        if execution.rank == 0:
            summary = _checked(stage, returned)
            device = summary.pop("device", None)
            workspace.publish(name, writer, work, summary, device, execution.world_size, execution.workers)
    return workspace.artifact(name)
