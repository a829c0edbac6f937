"""stages/pipeline/run_stage.py: fresh, stale, forced and continued work; inputs that do not fit; stages that fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from artifacts.errors import ArtifactError, BusyError, ConfigError
from artifacts.manifest import KINDS
from artifacts.store import Artifact, Work, Workspace
from stages.config import Config, ExternalFile
from stages.contract import Execution, Input
from stages.pipeline.run_stage import run_stage
from tests.artifacts.small_artifacts import leftovers
from tests.conftest import TakesMasks


class Settings(Config):
    count: int = 3
    text: str = "item"
    source: ExternalFile = ""


@pytest.fixture
def run(toy, workspace: Workspace, execution: Execution):
    """Runs the toy stage: what it made, and the outcome."""

    def act(name: str = "m", config: Any = None, given: dict | None = None, **rest: Any):
        toy.made.clear()
        options = {key: rest.pop(key) for key in ("force", "replacing") if key in rest}
        record = toy.stage(config=Settings, **rest)
        return run_stage(record, config or Settings(), workspace, name, given or {}, execution, **options)

    return act


def test_fresh_work_is_not_done_again(run, toy):
    first = run()
    assert (first.ran, len(toy.made)) == (True, 3)
    second = run()
    assert (second.ran, len(toy.made)) == (False, 0)
    assert second.artifact.manifest == first.artifact.manifest


def test_a_change_that_can_change_the_result_makes_work_and_the_old_artifact_goes(run, toy, workspace):
    old = run().artifact.manifest
    new = run(config=Settings(text="other"))
    assert (new.ran, len(toy.made)) == (True, 3)
    assert new.artifact.manifest.content != old.content
    assert workspace.names() == ["m"]
    assert leftovers(workspace) == []
    assert run(version=2, config=Settings(text="other")).ran


def test_force_does_it_again_with_the_same_result(run, toy):
    old = run().artifact.manifest
    again = run(force=True)
    assert (again.ran, len(toy.made)) == (True, 3)
    assert again.artifact.manifest.content == old.content


def test_a_stage_that_raises_keeps_its_work_and_the_old_artifact(run, toy, workspace):
    run()
    toy.fail_at = 2
    with pytest.raises(RuntimeError, match="failed at 2"):
        run(config=Settings(text="new"))
    assert toy.made == ["items/000.txt", "items/001.txt"]
    assert workspace.artifact("m").config["text"] == "item"
    assert workspace.artifact("m").verify() == []
    toy.fail_at = None
    outcome = run(config=Settings(text="new"))
    assert toy.made == ["items/002.txt"]
    assert outcome.artifact.manifest.resumed == 1
    undisturbed = run("other", config=Settings(text="new"))
    assert outcome.artifact.manifest.content == undisturbed.artifact.manifest.content


def test_a_stage_that_fails_before_its_first_item_leaves_nothing_and_is_not_continued(run, toy, workspace):
    toy.fail_at = 0
    with pytest.raises(RuntimeError, match="failed at 0"):
        run()
    assert leftovers(workspace) == []
    toy.fail_at = None
    assert run().artifact.manifest.resumed == 0


def test_work_between_keeps_the_first_unfinished_work(run, toy):
    toy.fail_at = 2
    with pytest.raises(RuntimeError, match="failed at 2"):
        run(config=Settings(text="a"))
    toy.fail_at = None
    run(config=Settings(text="b"))
    run(config=Settings(text="a"))
    assert toy.made == ["items/002.txt"]


def test_an_artifact_another_process_made_meanwhile_is_not_made_twice(run, toy, workspace, monkeypatch):
    """Between our look (not fresh) and our lock the other one published."""
    from stages.pipeline import run_stage as module

    run()
    looks = []
    real = module.published_if_fresh

    def blind_at_first(*arguments):
        looks.append(1)
        return None if len(looks) == 1 else real(*arguments)

    monkeypatch.setattr(module, "published_if_fresh", blind_at_first)
    assert not run().ran
    assert toy.made == []
    assert leftovers(workspace) == []


def test_a_damaged_manifest_is_made_again(run, toy, workspace):
    run()
    (workspace.folder("m") / "manifest.json").write_text("{")
    assert run().ran
    assert workspace.artifact("m").verify() == []


def test_what_an_older_version_made_or_began_is_made_anew(run, toy, workspace, monkeypatch):
    """Half of its files would lie elsewhere, and the whole would be a mixture of both layouts."""
    run()
    toy.fail_at = 2
    with pytest.raises(RuntimeError, match="failed at 2"):
        run("half")
    toy.fail_at = None
    monkeypatch.setitem(KINDS, "masks", KINDS["masks"] + 1)
    for name in ("m", "half"):
        outcome = run(name)
        assert outcome.ran
        assert (outcome.artifact.manifest.kind_version, outcome.artifact.manifest.resumed) == (KINDS["masks"], 0)
        assert toy.made == ["items/000.txt", "items/001.txt", "items/002.txt"]
    assert len(workspace.partials("half")) == 1  # nothing is lost


def test_what_is_replaced_is_told_before_any_work_and_can_be_kept(run, toy, workspace):
    told = []

    def refuse(old, changes) -> None:
        told.append((old.config["text"], [str(change) for change in changes]))
        raise ConfigError("keep it")

    run(replacing=refuse)  # nothing is there yet
    run(replacing=refuse)  # fresh
    assert told == []
    with pytest.raises(ConfigError, match="keep it"):
        run(config=Settings(text="new"), replacing=refuse)
    with pytest.raises(ConfigError, match="keep it"):
        run(force=True, replacing=refuse)
    assert told == [("item", ["text item -> new"]), ("item", [])]
    assert toy.made == []
    assert leftovers(workspace) == []


def test_inputs_and_stages_that_changed_are_told(run, workspace):
    told = []

    def tell(old, changes) -> None:
        told.extend(str(change) for change in changes)

    run("source")
    run("result", given={"masks": "source"}, inputs=Needs)
    run("source", config=Settings(text="changed"))
    run("result", given={"masks": "source"}, inputs=Needs, replacing=tell)
    run("other", config=Settings(text="other"))
    run("result", given={"masks": "other"}, inputs=Needs, replacing=tell)
    run("result", version=2, given={"masks": "other"}, inputs=Needs, replacing=tell)
    assert told == ["input source changed", "input masks: source -> other", "stage version 1 -> 2"]


@dataclass(frozen=True)
class Needs(TakesMasks):
    data: Annotated[Artifact | None, Input(("dataset",), "the data set")]


def test_inputs_are_recorded_and_their_content_counts(run, workspace, tmp_path):
    run("source")
    outcome = run("result", given={"masks": "source", "data": None}, inputs=Needs)
    source = workspace.artifact("source").manifest
    assert outcome.artifact.manifest.inputs == {
        "masks": {
            "artifact": "source",
            "kind": "masks",
            "kind_version": 1,
            "content": source.content,
            "fingerprint": source.fingerprint,
        }
    }
    (tmp_path / "file").write_text("x")
    assert run("source", config=Settings(source=str(tmp_path / "file"))).ran  # another fingerprint, the same bytes
    assert not run("result", given={"masks": "source"}, inputs=Needs).ran
    run("source", config=Settings(text="changed"))
    assert run("result", given={"masks": "source"}, inputs=Needs).ran


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ArtifactError, r"toy needs the input 'masks' \(label maps\)"),
        ({"masks": None}, ArtifactError, "needs the input 'masks'"),
        ({"masks": "data"}, ArtifactError, "'data' of kind dataset, expected masks or seeds"),
        ({"masks": "source", "data": "source"}, ArtifactError, "input 'data' is the artifact 'source' of kind masks"),
        ({"masks": "nowhere"}, ArtifactError, "has no artifact 'nowhere'"),
        ({"masks": "../source"}, ArtifactError, "cannot name an artifact"),
        ({"maks": "nowhere"}, ConfigError, "no input 'maks'"),
        ({"masks": "result"}, ConfigError, "'result' would be its own input"),
    ],
)
def test_inputs_that_do_not_fit_are_told_before_any_work(run, toy, workspace, given, error, words):
    run("source")
    run("data", output="dataset")
    run("result")
    with pytest.raises(error, match=words):
        run("result", given=given, inputs=Needs, version=2)
    assert toy.made == []
    assert leftovers(workspace) == []


def test_an_input_of_an_unknown_version_is_refused(run, workspace):
    run("source")
    path = workspace.folder("source") / "manifest.json"
    path.write_text(path.read_text().replace('"kind_version": 1', '"kind_version": 7'))
    with pytest.raises(ArtifactError, match="masks has version 7, this version of semiseg reads version 1"):
        run("result", given={"masks": "source"}, inputs=Needs)


def test_an_artifact_in_use_is_busy(run, toy, workspace):
    run("source")
    with workspace.reading(["source"]), pytest.raises(BusyError, match="in use as an input"):
        run("source", config=Settings(text="new"))
    assert not run("source").ran  # fresh: no lock is needed
    with (
        workspace.writing("source", Work("toy", 1, "masks", "f" * 64, {}, {}, {})),
        pytest.raises(BusyError, match="being written by process"),
    ):
        run("result", given={"masks": "source"}, inputs=Needs)


def test_the_inputs_stay_locked_while_the_stage_works(run, toy, workspace):
    run("source")
    seen = []

    def replace(_) -> None:
        try:
            workspace.remove("source")
        except BusyError as error:
            seen.append(error.message)

    toy.before = replace
    run("result", given={"masks": "source"}, inputs=Needs)
    assert len(seen) == 1


def test_checks_come_before_work(run, toy, workspace):
    def check(config, inputs) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        run(check=check)
    with pytest.raises(ConfigError, match="source names nowhere"):
        run(config=Settings(source="nowhere"))
    assert toy.made == []
    assert not workspace.path.exists()


@pytest.mark.parametrize("name", ["", "../m", "a/b", ".hidden"])
def test_names_that_leave_the_workspace(run, toy, name):
    with pytest.raises(ArtifactError, match="cannot name an artifact"):
        run(name)
    assert toy.made == []


@pytest.mark.parametrize(
    ("summary", "words"),
    [({"a": {1}}, r"summary\.a is a set"), (None, "returned a NoneType, expected its summary as a dict")],
)
def test_a_summary_that_is_not_json_publishes_nothing_and_keeps_the_work(run, toy, workspace, summary, words):
    run()
    toy.summary = summary
    with pytest.raises(ArtifactError, match=words):
        run(config=Settings(text="new"))
    assert workspace.artifact("m").config["text"] == "item"
    toy.summary = {"iou": float("nan"), "device": "cpu: test"}
    outcome = run(config=Settings(text="new"))
    assert toy.made == []
    assert outcome.artifact.summary == {"iou": None}
    assert outcome.artifact.manifest.made_by["device"] == "cpu: test"
    assert toy.summary.keys() == {"iou", "device"}
