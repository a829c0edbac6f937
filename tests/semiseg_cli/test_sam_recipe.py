"""The weak league with segments of SAM: made once for all classifiers and seeds, without a download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semiseg_cli.main import main
from semiseg_cli.recipe_commands import shipped_recipes
from stages.pipeline.recipe import read_recipe

SMALL = """
extends: {recipe}
nodes:
  data: {{config: {{dataset: {{name: shapes, train: 6, weak: 6, val: 2, long_side: 48}}}}}}
"""
STEPS = [f"{name}iterations=2" for name in ("classifier_", "refiner_", "")]


def test_one_artifact_of_segments_serves_all_classifiers_and_seeds() -> None:
    file = shipped_recipes()["weak-league"]
    made = read_recipe(file, None, ["refiners=[sam,segments,irn]", "seeds=[0,1]", "sam=sam.pth"])
    nodes = [name for name, node in made.nodes.items() if node.stage.name == "segments"]
    assert nodes == ["segments-sam"]
    assert made.nodes["segments-sam"].config.source.weights == "sam.pth"
    votes = {name: node.inputs for name, node in made.nodes.items() if node.stage.name == "vote"}
    assert len(votes) == 2 * 2 * 2
    assert {inputs.get("segments") for name, inputs in votes.items() if "-sam-" in name} == {"segments-sam"}
    assert {inputs.get("segments") for name, inputs in votes.items() if "-segments-" in name} == {None}
    assert not any(node.stage.name == "segments" for node in read_recipe(file, None, []).nodes.values())


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL.format(recipe=shipped_recipes()["weak-league"]))
    settings = ["classifiers=[cam]", "refiners=[sam]", "batch_size=4", "crop_size=48", *STEPS]
    assert main(["run", "small.yaml", "--workers", "1", *(f"--set={setting}" for setting in settings)]) == 0
    assert "whose segments mean nothing" in capsys.readouterr().err
    (folder,) = [path.parent for path in Path("runs").glob("*/segments-sam")]
    assert 0 <= json.loads((folder / "evaluate-dual-cam-sam-s0" / "metrics.json").read_text())["mean_iou"] <= 1
