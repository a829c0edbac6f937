"""Running recipes, and what `status` says before, between and after."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ArtifactError, ConfigError
from artifacts.store import Artifact, Workspace
from stages.contract import STAGE_MODULES, Execution
from stages.pipeline.changes import Change, listed
from stages.pipeline.recipe import Node, Recipe, resolve
from stages.pipeline.run_recipe import RECORD_NAME, RunReport, read_record, run_recipe
from stages.pipeline.run_stage import run_stage
from stages.pipeline.status import State, _open, unfinished_states, unfinished_work, workspace_states
from tests.artifacts.small_artifacts import make, python
from tests.stages.pipeline.conftest import STAGES, SumConfig


class Events:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def fresh(self, node: Node, artifact: Artifact) -> None:
        self.lines.append(f"fresh {node.name}")

    def replacing(self, node: Node, made: str, changes: list[Change]) -> None:
        self.lines.append(f"replacing {node.name}: {listed(changes)}")

    def started(self, node: Node, resumed: int) -> None:
        self.lines.append(f"started {node.name}" + (" again" if resumed else ""))

    def finished(self, node: Node, artifact: Artifact) -> None:
        self.lines.append(f"finished {node.name}")

    def failed(self, node: Node, error: Exception) -> None:
        self.lines.append(f"failed {node.name}: {type(error).__name__}")

    def skipped(self, node: Node, because: list[str]) -> None:
        self.lines.append(f"skipped {node.name}: {', '.join(because)}")


def run(raw: dict[str, Any], workspace: Workspace, execution: Execution, *settings: str) -> tuple[RunReport, Events]:
    events = Events()
    return run_recipe(resolve(raw, "toy.yaml", None, settings), workspace, execution, events), events


def states(workspace: Workspace) -> dict[str, State]:
    record = read_record(workspace)
    return {state.name: state for state in workspace_states(workspace, record.expected if record else {})}


def words(workspace: Workspace) -> dict[str, str]:
    return {name: state.words for name, state in states(workspace).items()}


def test_a_recipe_runs_once_and_is_fresh_afterwards(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    report, events = run(raw_recipe, workspace, execution)
    assert report.made == ["numbers", "sum-s0", "sum-s1", "score-s0", "score-s1"]
    assert events.lines[:2] == ["started numbers", "finished numbers"]
    assert workspace.artifact("score-s1").summary == {"mean_iou": pytest.approx(0.07)}  # (0+1+2+3 + 1) * 0.01
    report, _ = run(raw_recipe, workspace, execution)
    assert report.made == []
    assert report.fresh == ["numbers", "sum-s0", "sum-s1", "score-s0", "score-s1"]
    assert set(words(workspace).values()) == {"fresh"}


def test_only_what_depends_on_a_change_runs_again(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    report, _ = run(raw_recipe, workspace, execution, "sum-s1.plus=2")
    assert report.made == ["sum-s1", "score-s1"]


def test_force_runs_a_fresh_node_and_an_equal_result_leaves_the_rest_fresh(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    report = run_recipe(resolve(raw_recipe, "toy.yaml"), workspace, execution, Events(), force=["numbers"])
    assert report.made == ["numbers"]


def test_forcing_an_unknown_node_is_an_error(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        run_recipe(resolve(raw_recipe, "toy.yaml"), workspace, execution, Events(), force=["nubmers"])


@pytest.mark.parametrize("mode", ["bad", "broken"])
def test_a_failing_node_stops_what_needs_it_and_nothing_else(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution, mode: str
) -> None:
    report, events = run(raw_recipe, workspace, execution, f"sum-s0.mode={mode}")
    assert list(report.failed) == ["sum-s0"]
    assert report.skipped == ["score-s0"]
    assert report.made == ["numbers", "sum-s1", "score-s1"]
    assert "skipped score-s0: sum-s0" in events.lines
    assert states(workspace)["sum-s0"].state == "partial"
    assert words(workspace)["score-s0"] == "blocked"
    report, events = run(raw_recipe, workspace, execution)
    assert report.made == ["sum-s0", "score-s0"]


def test_an_interrupted_node_is_continued(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(raw_recipe, workspace, execution, "sum-s0.mode=interrupted")
    assert states(workspace)["sum-s0"].total == 2
    assert {name: state.state for name, state in states(workspace).items()} == {
        "numbers": "fresh",
        "sum-s0": "partial",
        "sum-s1": "missing",
        "score-s0": "blocked",
        "score-s1": "blocked",
    }
    assert list(unfinished_work(workspace)) == ["sum-s0"]


def test_stale_says_which_config_value_changed_and_what_follows(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    record = json.loads((workspace.path / RECORD_NAME).read_text())
    record["nodes"]["sum-s0"]["config"]["plus"] = 5.0
    (workspace.path / RECORD_NAME).write_text(json.dumps(record))
    found = states(workspace)
    assert found["sum-s0"].reasons == ["config plus: 0.0 -> 5.0"]
    assert found["score-s0"].reasons == ["input sum-s0 is stale"]
    assert found["score-s1"].state == "fresh"


def test_stale_says_that_an_input_changed(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    partly = {**raw_recipe, "nodes": {"numbers": {"stage": "toy-numbers", "config": {"count": 9}}}, "table": None}
    run(partly, workspace, execution)
    found = states(workspace)  # the others are known by their own manifests now
    assert found["numbers"].state == "fresh"
    assert found["sum-s0"].reasons == ["input numbers changed"]


def test_stale_says_that_the_stage_has_a_new_version(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    run(raw_recipe, workspace, execution)
    module = sys.modules[STAGE_MODULES["toy-sum"]]
    monkeypatch.setattr(module, "STAGE", dataclasses.replace(module.STAGE, version=2))
    assert states(workspace)["sum-s0"].reasons == ["stage version 1 -> 2"]


def test_a_changed_external_file_makes_stale_and_a_missing_one_does_not(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution, tmp_path: Path
) -> None:
    source = tmp_path / "list.txt"
    source.write_text("1")
    run(raw_recipe, workspace, execution, f"numbers.source={source}")
    assert states(workspace)["numbers"].state == "fresh"
    source.write_text("2")
    assert states(workspace)["numbers"].reasons == ["the file of source changed its content"]
    source.unlink()
    assert states(workspace)["numbers"].state == "fresh"


def test_a_missing_or_shortened_file_is_damage(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    (workspace.folder("numbers") / "2.txt").unlink()
    (workspace.folder("sum-s0") / "sum.json").write_text("{")
    found = states(workspace)
    assert found["numbers"].state == "damaged"
    assert found["numbers"].reasons == ["2.txt is missing"]
    assert "expected" in found["sum-s0"].reasons[0]


def test_a_manifest_that_is_not_json_is_damage(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    (workspace.folder("numbers") / "manifest.json").write_text("{")
    (workspace.path / RECORD_NAME).unlink()
    assert states(workspace)["numbers"].state == "damaged"


def test_running_names_the_process(raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution) -> None:
    import os

    recipe = resolve(raw_recipe, "toy.yaml")
    seen: list[str] = []

    class Looks(Events):
        def started(self, node: Node, resumed: int) -> None:
            if node.name == "sum-s0":
                seen.extend(f"{state.state} {state.pid}" for state in states(workspace).values())

    run_recipe(recipe, workspace, execution, Looks())
    assert f"running {os.getpid()}" in seen


def test_artifacts_of_no_recipe_are_judged_by_their_own_manifest(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    (workspace.path / RECORD_NAME).unlink()
    assert set(words(workspace).values()) == {"fresh"}
    workspace.remove("numbers")
    assert states(workspace)["sum-s0"].reasons == ["input numbers is not made"]


def test_unfinished_work_of_other_settings_is_remarked(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution, "sum-s0.mode=bad")
    record = json.loads((workspace.path / RECORD_NAME).read_text())
    record["nodes"]["sum-s0"]["config"]["plus"] = 5.0
    (workspace.path / RECORD_NAME).write_text(json.dumps(record))
    state = states(workspace)["sum-s0"]
    assert state.state == "missing"
    assert state.remarks == ["unfinished work with different settings (kept until `semiseg clean`)"]


def leave(workspace: Workspace, execution: Execution, name: str, **config: Any) -> None:
    """Unfinished work of `name` by a command that is not a recipe's."""
    with pytest.raises(KeyboardInterrupt):
        run_stage(STAGES["toy-sum"], SumConfig(mode="interrupted", **config), workspace, name, NUMBERS, execution)


NUMBERS = {"numbers": "numbers"}


def listing(workspace: Workspace) -> list[tuple[str, str, str, list[str]]]:
    record = read_record(workspace)
    found = unfinished_states(workspace, record.expected if record else {})
    return [(state.name, state.stage, state.words, state.reasons) for state in found]


def test_unfinished_work_of_no_artifact_is_listed(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(raw_recipe, workspace, execution)
    assert listing(workspace) == []
    monkeypatch.setattr("sys.argv", ["/usr/bin/semiseg", "train", "--set", "a b"])
    leave(workspace, execution, "mine")
    assert listing(workspace) == [("mine", "toy-sum", "partial 1/2", [])]
    (state,) = unfinished_states(workspace, {})
    assert state.command == "semiseg train --set 'a b'"
    assert state.folder == str(workspace.partials("mine")[0])
    assert state.since is not None
    assert "mine" not in states(workspace)
    workspace.discard_partials("mine")
    assert listing(workspace) == []


def test_unfinished_work_beside_an_artifact_says_in_what_it_differs(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    leave(workspace, execution, "sum-s0", plus=7.0)
    assert states(workspace)["sum-s0"].state == "fresh"
    told = ["differs from the artifact: mode good -> interrupted, plus 0.0 -> 7.0"]
    assert listing(workspace) == [("sum-s0", "toy-sum", "partial 1/2", told)]


def test_unfinished_work_of_other_settings_than_the_recipes_is_listed_and_its_own_is_not(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(raw_recipe, workspace, execution, "sum-s0.mode=interrupted")
    assert listing(workspace) == []
    leave(workspace, execution, "sum-s0", plus=7.0)
    assert states(workspace)["sum-s0"].words == "partial 1/2"
    assert listing(workspace) == [
        ("sum-s0", "toy-sum", "partial 1/2", ["different settings: plus 7.0 instead of 0.0"]),
    ]


def test_unfinished_work_without_a_record_of_its_settings_is_listed(workspace: Workspace) -> None:
    (workspace.path / ".old.0123456789ab.partial").mkdir(parents=True)
    assert listing(workspace) == [("old", "?", "partial", ["its settings were not recorded"])]


def test_a_first_run_that_is_going_on_is_listed(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    seen = []
    run(raw_recipe, workspace, execution)
    (workspace.path / RECORD_NAME).unlink()

    def look(_: Any) -> None:
        seen.extend((state.name, state.stage, state.state) for state in unfinished_states(workspace, {}))

    run_stage(STAGES["toy-sum"], SumConfig(), workspace, "mine", NUMBERS, execution, started=look)
    run_stage(STAGES["toy-sum"], SumConfig(), workspace, "mine", NUMBERS, execution, force=True, started=look)
    assert seen == [("mine", "toy-sum", "running")]


def test_a_damaged_record_is_a_clear_error(workspace: Workspace) -> None:
    workspace.path.mkdir(parents=True)
    (workspace.path / RECORD_NAME).write_text('{"schema": 1}')
    with pytest.raises(ArtifactError, match=r"\.recipe\.json lacks name"):
        read_record(workspace)


def test_the_record_gives_back_the_table(
    raw_recipe: dict[str, Any], workspace: Workspace, execution: Execution
) -> None:
    run(raw_recipe, workspace, execution)
    record = read_record(workspace)
    recipe: Recipe = resolve(raw_recipe, "toy.yaml")
    assert record is not None
    assert record.table == recipe.table
    assert {name: e.config for name, e in record.expected.items()} == {n: v.config for n, v in recipe.nodes.items()}


def test_status_beside_a_process_that_publishes_finds_no_damage_and_no_missing_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    make(workspace, "m")
    code = """
    for number in range(150):
        with Workspace(path).writing("m", w) as writer:
            for item in range(1 + number % 5):
                writer.write_bytes(f"{number}-{item}.txt", b"x" * number)
            writer.advance()
            Workspace(path).publish("m", writer, w, {})
    """
    with python(code, workspace.path) as process:
        looks = 0
        while process.poll() is None:
            states = [*workspace_states(workspace, {}), *unfinished_states(workspace, {})]
            assert not [state for state in states if state.state == "damaged"], states
            assert _open(workspace, "m")[1] is None
            looks += 1
    assert (process.returncode, looks > 20) == (0, True), process.stderr
