"""Which artifact a stage command takes for an input that is not named, and what `show` tells of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError
from artifacts.store import Work, Workspace
from semiseg_cli.inputs import choose_inputs
from semiseg_cli.main import main
from stages.config import build
from stages.contract import load_stage


def publish(
    workspace: Workspace,
    name: str,
    kind: str = "segmenter",
    snapshots: tuple[int, ...] = (),
    config: dict | None = None,
    summary: dict | None = None,
    items: tuple[str, ...] = (),
) -> None:
    work = Work("train", 1, kind, name.encode().hex().ljust(64, "0"), config or {}, {}, {})
    with workspace.writing(name, work) as writer:
        writer.write_bytes("weights.pt", b"x")
        for item in (*(f"snapshots/{step}.pt" for step in snapshots), *items):
            writer.write_bytes(item, b"x")
        workspace.publish(name, writer, work, summary or {})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    workspace = Workspace("runs/default")
    publish(workspace, "data", "dataset")
    return workspace


def chosen(workspace: Workspace, stage: str, own_name: str = "own", **given: str) -> dict[str, str | None]:
    record = load_stage(stage)
    return choose_inputs(record, build(record.config, {}, stage), given, workspace, own_name)


@pytest.mark.parametrize("name", ["fixmatch", "train", "mine"])
def test_the_only_segmenter_is_taken_whatever_its_name(workspace: Workspace, name: str) -> None:
    publish(workspace, name)
    assert chosen(workspace, "predict") == {"data": "data", "segmenter": name}


def test_of_several_segmenters_none_is_taken_and_all_are_listed(workspace: Workspace) -> None:
    publish(workspace, "train")
    publish(workspace, "fixmatch")
    with pytest.raises(ArtifactError, match=r"needs the input 'segmenter' .*; runs/default has 2 that fit") as caught:
        chosen(workspace, "predict")
    assert caught.value.hint == "choose one: --segmenter fixmatch, --segmenter train"
    assert chosen(workspace, "predict", segmenter="train")["segmenter"] == "train"


def test_what_is_made_is_not_taken_for_its_own_input(workspace: Workspace) -> None:
    publish(workspace, "fixmatch")
    publish(workspace, "retrain")
    assert chosen(workspace, "retrain", own_name="retrain")["segmenter"] == "fixmatch"


@pytest.mark.parametrize("stage", ["select", "reliability"])
def test_only_segmenters_with_snapshots_are_candidates_for_stages_that_need_them(
    workspace: Workspace, stage: str
) -> None:
    publish(workspace, "plain")
    with pytest.raises(ArtifactError, match=r"snapshots=10\); runs/default has none") as caught:
        chosen(workspace, stage)
    assert str(caught.value.hint).startswith("make it: semiseg train")
    publish(workspace, "fixmatch", snapshots=(10,))
    assert chosen(workspace, stage)["segmenter"] == "fixmatch"
    publish(workspace, "unimatch", snapshots=(10,))
    with pytest.raises(ArtifactError, match="has 2 that fit") as caught:
        chosen(workspace, stage)
    assert caught.value.hint == "choose one: --segmenter fixmatch, --segmenter unimatch"


def test_a_name_that_another_workspace_has_is_looked_for_there(workspace: Workspace) -> None:
    publish(Workspace("runs/own"), "final")
    with pytest.raises(ArtifactError, match="no artifact 'final'; there is one in runs/own") as caught:
        chosen(workspace, "predict", segmenter="final")
    assert caught.value.hint == "--workspace runs/own"
    publish(workspace, "final")
    with pytest.raises(ArtifactError, match="no artifact 'finally', did") as caught:
        chosen(workspace, "predict", segmenter="finally")
    assert caught.value.hint == "semiseg status --workspace runs/default lists them"


def test_predictions_without_masks_are_not_taken_where_masks_are_needed(workspace: Workspace) -> None:
    publish(workspace, "predictions", "predictions")
    stage = load_stage("train-classifier")
    conta = build(stage.config, {"method": "conta"}, "train-classifier")
    with pytest.raises(ArtifactError, match="runs/default has none"):
        choose_inputs(stage, conta, {}, workspace, "own")
    publish(workspace, "crf", "masks", items=("masks/a.png",))
    assert choose_inputs(stage, conta, {}, workspace, "own")["predictions"] == "crf"


def test_a_part_of_an_artifact_is_exported_without_its_folder(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(workspace, "crf", "masks", items=("masks/a.png", "masks/b.png"))
    assert main(["export", "files", "crf", "new", "--part", "masks"]) == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["a.png", "b.png"]
    assert "wrote new: 2 files, 2 B" in capsys.readouterr().err
    assert main(["export", "files", "crf", "whole"]) == 0
    assert (Path("whole") / "masks" / "a.png").is_file()
    assert main(["export", "files", "crf", "other", "--part", "mask"]) == 2
    assert "has no folder 'mask', did you mean 'masks'?" in capsys.readouterr().err


def test_a_default_name_goes_before_others(workspace: Workspace) -> None:
    publish(workspace, "other", "dataset")
    publish(workspace, "fixmatch")
    assert chosen(workspace, "predict")["data"] == "data"


def test_help_says_what_is_taken(capsys: pytest.CaptureFixture[str], workspace: Workspace) -> None:
    assert main(["select", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Default, if it is needed: data, else the only artifact that fits." in told
    assert "(segmenter). Default, if it is needed: the only artifact that fits." in told
    assert "--split A,B" in told
    assert "Make a segmenter of the best of a training's snapshots (train --set snapshots=10)" in told


SETTINGS = {"method": {"name": "fixmatch", "threshold": 0.5}, "iterations": 7}


def test_show_tells_the_settings_that_are_not_defaults_and_shares_in_percent(
    capsys: pytest.CaptureFixture[str], workspace: Workspace
) -> None:
    config = build(load_stage("train").config, SETTINGS, "train").model_dump(mode="json")
    summary = {"mean_iou": 0.1468, "losses": {"a": 0.25}, "iou": {"cat": 0.5, "dog": None}}
    publish(workspace, "mine", config=config, summary=summary)
    assert main(["show", "mine"]) == 0
    out = capsys.readouterr().out
    told = [line.split() for line in out[out.index("settings") :].splitlines()]
    first = told.index(["iterations", "7"])
    assert told[first : first + 3] == [
        ["iterations", "7"],
        ["method.name", "fixmatch"],
        ["method.threshold", "0.5"],
    ]
    assert ["mean_iou", "14.68", "%"] in told
    assert ["losses.a", "0.25"] in told
    assert ["iou.cat", "50.00", "%"] in told
    assert main(["show", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == config


def test_show_of_settings_that_are_unknown_today_lists_them_as_they_are(
    capsys: pytest.CaptureFixture[str], workspace: Workspace
) -> None:
    publish(workspace, "mine", config={"iterations": 7, "gone": {"x": ""}})
    assert main(["show", "mine"]) == 0
    out = capsys.readouterr().out
    assert "settings that this version cannot read" in out
    assert ["gone.x", "''"] in [line.split() for line in out.splitlines()]
