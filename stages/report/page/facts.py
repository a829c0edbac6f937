"""Everything that a page of a workspace shows, gathered; `document` renders it.

Damage does not stop it: what cannot be read is named in `problems`, and the rest is shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import SemisegError
from artifacts.manifest import Manifest
from artifacts.provenance import package_versions, utc_now
from artifacts.store import Artifact, Workspace
from stages.config import mistakes
from stages.contract import STAGE_MODULES, Execution, load_stage
from stages.pipeline.changes import settings_apart
from stages.pipeline.run_recipe import Record
from stages.pipeline.seen import Seen
from stages.pipeline.status import DAMAGED, State
from stages.report.figures import Results
from stages.report.how_made import HowMade, command_without_folders, without_folders
from stages.report.page.advice import Advice, read_advice
from stages.report.page.curves import Training, read_training, series_of
from stages.report.page.scored import Evaluation, best_of, read_evaluation
from stages.report.page.shown_images import ShownImages, shown_images
from stages.report.page.training_sheets import MOST, TrainingSheets, read_sheets
from stages.serving.model_folder import MODEL, network_in


@dataclass(frozen=True)
class ArtifactFacts:
    """One artifact: its state, and where it is made its manifest.

    Attributes:
        inputs: input -> artifact it is (or will be) made from.
        settings: dotted key -> value of those that differ from the defaults.
        command: that made it; None: not recorded, or not one of semiseg.
    """

    state: State
    manifest: Manifest | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: list[tuple[str, Any]] = field(default_factory=list)
    command: str | None = None

    @property
    def name(self) -> str:
        return self.state.name


@dataclass(frozen=True)
class PageFacts:
    """What the page of a workspace shows."""

    workspace: str
    delivered: str | None  # the content of the network in the folder `model` of `run own`
    written: str  # UTC
    version: str
    record: Record | None
    results: Results | None
    made: HowMade | None
    artifacts: list[ArtifactFacts]
    unfinished: list[State]  # work whose artifact is not among `artifacts`, or with settings of its own
    trainings: list[Training]
    batches: list[TrainingSheets]
    evaluations: list[Evaluation]
    best: Evaluation | None
    images: ShownImages
    advice: Advice | None
    problems: list[str]


def gather(seen: Seen, results: Results | None, made: HowMade | None, execution: Execution) -> PageFacts:
    workspace, record, states = seen.workspace, seen.record, seen.states
    found = [*filter(None, [seen.problem]), *(record.problems if record else [])]
    opened: dict[str, Artifact] = {}
    for state in states:
        if state.name in workspace.names() and state.state != DAMAGED:
            try:
                opened[state.name] = workspace.artifact(state.name)
            except SemisegError as error:
                found.append(error.message)
    found += [f"{s.name} is damaged: {'; '.join(s.reasons)}" for s in states if s.state == DAMAGED]
    evaluations = []
    for artifact in opened.values():
        if artifact.manifest.stage == "evaluate":
            try:
                evaluations.append(read_evaluation(workspace, artifact, execution))
            except SemisegError as error:
                found.append(error.message)
    best = best_of(evaluations)
    advice = None
    try:
        advice = read_advice(opened)
    except SemisegError as error:
        found.append(error.message)
    folders = _training_folders(workspace, opened, [*states, *seen.unfinished])
    return PageFacts(
        workspace=workspace.path.absolute().name,
        delivered=_delivered(workspace),
        written=utc_now(),
        version=package_versions().get("semiseg", ""),
        record=record,
        results=results,
        made=made,
        artifacts=[_facts(state, opened.get(state.name), record) for state in states],
        unfinished=seen.unfinished,
        trainings=_trainings(opened, folders),
        batches=_batches(folders),
        evaluations=evaluations,
        best=best,
        images=shown_images(opened, best),
        advice=advice,
        problems=found,
    )


def _delivered(workspace: Workspace) -> str | None:
    try:
        return Artifact(network_in(workspace.path / MODEL)[0]).manifest.content
    except SemisegError:  # there is none
        return None


def _facts(state: State, artifact: Artifact | None, record: Record | None) -> ArtifactFacts:
    if artifact is None:
        expected = record.expected.get(state.name) if record and state.state != DAMAGED else None
        return ArtifactFacts(state, inputs=dict(expected.inputs) if expected else {})
    made = artifact.manifest
    inputs = {key: source["artifact"] for key, source in made.inputs.items()}
    return ArtifactFacts(state, made, inputs, _settings(made), command_without_folders(made.argv))


def _settings(made: Manifest) -> list[tuple[str, Any]]:
    """Those that differ from the defaults; all of them where this version cannot read them."""
    config = None
    if made.stage in STAGE_MODULES:
        config, _ = mistakes(load_stage(made.stage).config, made.config, recorded=True)
    apart = sorted(made.config.items()) if config is None else settings_apart(config)
    return [(key, without_folders(value)) for key, value in apart]


def _training_folders(workspace: Workspace, opened: Mapping[str, Artifact], states: Sequence[State]) -> dict[str, Path]:
    """Where the logs may lie: in finished artifacts, and in unfinished work that has no artifact."""
    found = {}
    for name in dict.fromkeys(state.name for state in states):
        partials = sorted(workspace.unfinished(name), key=lambda unfinished: unfinished.written)
        if name in opened:
            found[name] = opened[name].path
        elif partials:
            found[name] = partials[-1].folder
    return found


def _trainings(opened: Mapping[str, Artifact], folders: Mapping[str, Path]) -> list[Training]:
    read = (
        read_training(name, folder, opened[name].summary if name in opened else None)
        for name, folder in folders.items()
    )
    return [training for training in read if training]


def _batches(folders: Mapping[str, Path]) -> list[TrainingSheets]:
    """Of trainings that differ by their seed alone those of the first, of at most MOST."""
    first = {number: name for name, number in reversed(series_of(list(folders)).items())}
    read = (read_sheets(first[number], folders[first[number]]) for number in sorted(first))
    return list(itertools.islice(filter(None, read), MOST))
