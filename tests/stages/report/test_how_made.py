"""How a table was made, in words and as a record; what of a workspace is not what its recipe asks for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import ConfigError
from artifacts.store import Work, Workspace
from semiseg_cli.recipe_commands import shipped_recipes
from stages.contract import Execution, PlainProgress
from stages.networks.config import PRESETS, NetworkConfig
from stages.pipeline.recipe import read_recipe, resolve
from stages.pipeline.run_recipe import Record, read_record, run_recipe, save_record
from stages.pipeline.status import workspace_states
from stages.pipeline.table import Row, Table
from stages.report.figures import Equality, not_fresh, read_results
from stages.report.how_made import data_words, how_made, how_made_lines, network_name, without_folders


class Quiet:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def run(raw: dict[str, Any], workspace: Workspace, *settings: str) -> Record:
    execution = Execution(device="cpu", workers=1, progress=PlainProgress(1e9))
    run_recipe(resolve(raw, "toy.yaml", None, settings), workspace, execution, Quiet())
    record = read_record(workspace)
    assert record is not None
    return record


def test_figures_of_other_settings_are_stale_until_they_are_made_again(
    raw_recipe: dict[str, Any], workspace: Workspace
) -> None:
    record = run(raw_recipe, workspace)
    assert not_fresh(workspace_states(workspace, record.expected)) == set()
    save_record(workspace, resolve(raw_recipe, "toy.yaml", None, ["sum-s1.plus=7"]))  # begun, and interrupted
    record = read_record(workspace)
    assert record is not None
    assert record.table is not None
    results = read_results(record.table, workspace, not_fresh(workspace_states(workspace, record.expected)))
    figure = results.figures["sum"]["ours"]
    assert figure.stale == ["score-s1"]
    assert figure.runs == {"score-s0": pytest.approx(6.0), "score-s1": pytest.approx(7.0)}
    record = run(raw_recipe, workspace, "sum-s1.plus=7")
    assert not_fresh(workspace_states(workspace, record.expected)) == set()


def test_the_record_gives_back_what_was_asked(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    raw_recipe["assumptions"] = ["Nothing was tuned."]
    record = run(raw_recipe, workspace, "count=5", "sum-*.plus=1")
    assert record.parameters == {"count": 5, "scale": 0.01}
    assert record.settings == ["count=5", "sum-*.plus=1"]
    assert record.assumptions == ["Nothing was tuned."]
    path = workspace.path / ".recipe.json"  # as written before these were recorded
    old = json.loads(path.read_text())
    del old["settings"], old["assumptions"]
    path.write_text(json.dumps(old))
    record_of_old = read_record(workspace)
    assert record_of_old is not None
    assert (record_of_old.settings, record_of_old.assumptions) == (None, [])
    made = how_made(record_of_old, workspace, "toy.yaml")
    assert made.command is None  # without its settings it would be another one
    assert how_made_lines(made)[0] == "Parameters: count 5, scale 0.01"


def test_command_machine_and_dates_come_from_record_and_manifests(
    raw_recipe: dict[str, Any], workspace: Workspace
) -> None:
    raw_recipe["assumptions"] = ["Nothing was tuned."]
    record = run(raw_recipe, workspace, "count=5", "sum-*.plus=1")
    made = how_made(record, workspace, "toy.yaml")
    assert made.command == "semiseg run toy.yaml --set count=5 --set 'sum-*.plus=1'"
    manifests = [workspace.artifact(name).manifest for name in record.expected]
    assert made.first == min(manifest.started for manifest in manifests)
    assert made.last == max(manifest.finished for manifest in manifests)
    assert made.versions["torch"] == [manifests[0].made_by["versions"]["torch"]]
    lines = how_made_lines(made)
    assert "Parameters: count 5, scale 0.01" in lines
    assert "Assumption: Nothing was tuned." in lines
    json.dumps(asdict(made))


def test_nothing_made_yet_is_no_mistake(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    save_record(workspace, resolve(raw_recipe, "toy.yaml"))
    record = read_record(workspace)
    assert record is not None
    made = how_made(record, workspace, "toy.yaml")
    assert (made.first, made.devices, data_words(made)) == (None, [], "toy-numbers (numbers): not made yet")


# --- rows that must be equal ---


def equality(raw: dict[str, Any], workspace: Workspace, stale: set[str] | None = None, *settings: str) -> Equality:
    """Of the rows plain (sum-s0, sum-s1) and control (the same sums in other nodes)."""
    raw["nodes"] |= {f"c{name}": node for name, node in raw["nodes"].items() if "{seed}" in name}
    raw["nodes"]["cscore-s{seed}"] = raw["nodes"]["cscore-s{seed}"] | {"inputs": {"sum": "csum-s{seed}"}}
    control = {"label": "control", "nodes": {"ours": "cscore-s{seed}"}}
    raw["table"] = raw["table"] | {"equal": ["sum", "control"], "rows": [*raw["table"]["rows"], control]}
    record = run(raw, workspace, *settings)
    assert record.table is not None
    found = read_results(record.table, workspace, stale or set()).equality
    assert found is not None
    return found


def test_equal_rows_are_said_to_be_equal(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    found = equality(raw_recipe, workspace)
    assert found.sentence == "control equals sum in every recorded figure, as it must (2 runs compared)."
    assert (found.rows, found.compared, found.planned, found.difference) == (("sum", "control"), 2, 2, 0.0)


def test_rows_that_differ_are_said_by_how_much(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    found = equality(raw_recipe, workspace, None, "csum-s1.plus=1.25")  # 7.25 instead of 7
    assert found.difference == pytest.approx(0.25)
    expected = "control differs from sum by up to 0.25 points of mean IoU (ours: 7.25 and 7.00; 2 runs compared): "
    assert found.sentence.startswith(expected)


def test_runs_of_other_settings_are_not_compared(raw_recipe: dict[str, Any], workspace: Workspace) -> None:
    found = equality(raw_recipe, workspace, {"score-s1"}, "csum-s1.plus=1.25")
    assert found.sentence.endswith("as it must (1 run of 2 compared).")
    record = read_record(workspace)
    assert record is not None
    assert record.table is not None
    none = read_results(record.table, workspace, {"score-s0", "cscore-s1"}).equality
    assert none is not None
    assert none.sentence == "Whether control equals sum, as it must: not yet known, no run of both is finished."


def test_rows_equal_in_the_metric_alone_are_not_called_equal(workspace: Workspace) -> None:
    for name, iou in (("a", 0.2), ("b", 0.3)):
        publish(workspace, name, "metrics", {"mean_iou": 0.5, "iou": {"cat": iou}}, {})
    rows = [Row(name, {"x": [name]}, None) for name in "ab"]
    found = read_results(Table("T", "mean_iou", ["x"], rows, equal=["a", "b"]), workspace).equality
    assert found is not None
    assert found.sentence == "b equals a in mean IoU, but not in iou.cat (1 run compared)."


@pytest.mark.parametrize(
    ("equal", "expected"),
    [
        (["sum", "contrl"], "table.equal: there is no row 'contrl'; rows: sum"),
        (["sum"], "table.equal: expected the labels of two rows, found 1"),
    ],
)
def test_a_mistake_in_the_rows_that_must_be_equal_is_named(
    raw_recipe: dict[str, Any], equal: list[str], expected: str
) -> None:
    raw_recipe["table"]["equal"] = equal
    with pytest.raises(ConfigError) as caught:
        resolve(raw_recipe, "toy.yaml")
    assert expected in caught.value.message


def publish(workspace: Workspace, name: str, kind: str, summary: dict[str, Any], externals: dict[str, str]) -> None:
    work = Work("train", 1, kind, name.encode().hex().ljust(64, "0")[:64], {}, {}, externals)
    with workspace.writing(name, work) as writer:
        writer.write_json("x.json", {})
        workspace.publish(name, writer, work, summary, "cpu, 1 threads")


def test_a_league_tells_images_network_weights_and_steps_and_no_folder(workspace: Workspace, tmp_path: Path) -> None:
    weights = tmp_path / "my nets" / "net.pth"
    settings = [f"data={tmp_path}/VOC2012", f"weights={weights}", "labelled=[50,200]", "seeds=[0]", "iterations=60"]
    recipe = read_recipe(shipped_recipes()["league"], "small", settings)
    save_record(workspace, recipe)
    for n in (50, 200):
        counts = {"train": n, "weak": 1464 - n, "val": 1449}
        publish(workspace, f"data-n{n}", "dataset", {"images": counts}, {})
    publish(workspace, "train-supervised-n50-s0", "segmenter", {}, {"network.weights": "ab" * 32})
    record = read_record(workspace)
    assert record is not None
    made = how_made(record, workspace, "league")
    assert [(data.dataset, data.images) for data in made.data] == [
        ("voc-aug", {"train": 50, "weak": 1414, "val": 1449}),
        ("voc-aug", {"train": 200, "weak": 1264, "val": 1449}),
    ]
    (network,) = made.networks
    assert (network.name, network.weights, network.sha256) == ("mobilenet_v2", "net.pth", "ab" * 32)
    number = sum(name.startswith(("train-", "student-")) for name in recipe.nodes)
    assert made.trainings == {60: number}
    assert made.devices == ["cpu, 1 threads"]
    assert made.assumptions == recipe.assumptions
    text = json.dumps(asdict(made)) + "\n".join(how_made_lines(made))
    assert str(tmp_path) not in text
    assert "data=.../VOC2012" in made.command
    assert "labelled=[50,200]" in made.command
    assert "Network: mobilenet_v2, initial weights: net.pth (sha256 abababababab)" in text


def test_a_network_that_a_method_brings_is_named_by_the_method(workspace: Workspace, tmp_path: Path) -> None:
    settings = [f"data={tmp_path}", f"clip={tmp_path / 'ViT-B-16.pt'}"]
    save_record(workspace, read_recipe(shipped_recipes()["weclip-voc"], "paper", settings))
    publish(workspace, "segmenter", "segmenter", {}, {"method.clip.weights": "ab" * 32})
    record = read_record(workspace)
    assert record is not None
    lines = how_made_lines(how_made(record, workspace, "weclip-voc"))
    assert "Network: that of weclip, initial weights: ViT-B-16.pt (sha256 abababababab)" in lines


@pytest.mark.parametrize("preset", PRESETS)
def test_a_network_has_the_name_of_its_preset_whatever_its_weights(preset: str) -> None:
    network = NetworkConfig.model_validate(preset)
    assert network_name(network.model_copy(update={"weights": "file.pth"})) == preset
    assert network_name(network.model_copy(update={"dropout": 0.77})) == f"{network.backbone}, {network.head}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/me/VOC2012", ".../VOC2012"),
        ("~/VOC2012", ".../VOC2012"),
        ("/data", "/data"),
        ("devkit/VOC2012", "devkit/VOC2012"),
        ("1/8", "1/8"),
        ("[/a/b/one.txt,/a/b/two.txt]", "[.../one.txt,.../two.txt]"),
        (["/a/b/c", 3, None], [".../c", 3, None]),
        ({"x": "/a/b"}, {"x": ".../b"}),
        ("/home/me/my data/VOC2012/", ".../VOC2012"),
    ],
)
def test_folders_of_absolute_paths_are_left_out(value: Any, expected: Any) -> None:
    assert without_folders(value) == expected


@given(st.lists(st.from_regex(r"[a-z][a-z0-9 _.-]{0,8}", fullmatch=True), min_size=2, max_size=5))
def test_of_a_path_the_last_part_remains(parts: list[str]) -> None:
    assert without_folders("/" + "/".join(parts)) == f".../{parts[-1]}"
