"""An encoder of timm, with random weights, from image-level labels to an ONNX file, by the commands of a user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semiseg_cli.main import main

timm = pytest.importorskip("timm", reason="the extra timm is not installed")
onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

SMALL = {"iterations": 2, "batch_size": 2, "crop_size": 64}


@pytest.mark.parametrize("backbone", ["timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_an_encoder_of_timm_goes_through_all_stages(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [f"--set={key}={value}" for key, value in SMALL.items()]
    data = "dataset={name: shapes, train: 4, weak: 4, val: 2, long_side: 64}"
    network = f"--set=network={{backbone: '{backbone}', weights: none}}"
    commands = [
        ["prepare-data", "--set", data],
        ["train-classifier", network, *short],
        ["seeds"],
        ["train", "--method", "dual-branch", "--weak-labels", "seeds", network, *short, "--name", "segmenter"],
        ["predict", "--segmenter", "segmenter", "--split", "val"],
        ["evaluate"],
        ["export", "onnx", "segmenter", "segmenter.onnx"],
    ]
    for command in commands:
        assert main(command) == 0, command
    (metrics,) = Path("runs").glob("*/evaluation/metrics.json")
    assert 0 <= json.loads(metrics.read_text())["mean_iou"] <= 1
    outputs = onnx.load("segmenter.onnx").graph.output
    assert [output.name for output in outputs] == ["probabilities"]
