"""The recipes on CLIP run to their end on the embedded data set, without a download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semiseg_cli.main import main
from semiseg_cli.recipe_commands import shipped_recipes

pytest.importorskip("timm", reason="timm, of the extra clip, is not installed")

SMALL = """
extends: {recipe}
nodes:
  data: {{config: {{dataset: {{name: shapes, train: 4, weak: 6, val: 2, long_side: 48}}}}}}
  segmenter: {{config: {training}}}
"""
TRAINING = "{iterations: 2, batch_size: 4, crop_size: 48}"


def test_clip_es_runs_without_a_classifier_and_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(
        SMALL.format(recipe=shipped_recipes()["clip-es-voc"], training=f"{{training: {TRAINING}}}")
    )
    assert main(["run", "small.yaml", "--workers", "1"]) == 0
    assert "whose maps mean nothing" in capsys.readouterr().err
    (folder,) = [path.parent for path in Path("runs").glob("*/sure-masks")]
    for step in ("maps", "masks", "predictions", "predictions-crf"):
        assert 0 <= json.loads((folder / f"evaluate-{step}" / "metrics.json").read_text())["mean_iou"] <= 1


def test_weclip_trains_from_image_labels_alone_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL.format(recipe=shipped_recipes()["weclip-voc"], training=TRAINING))
    assert main(["run", "small.yaml", "--workers", "1"]) == 0
    assert "Network: that of weclip, initial weights: random" in Path("runs/small/report.md").read_text()
    (folder,) = [path.parent for path in Path("runs").glob("*/segmenter")]
    for step in ("predictions", "predictions-crf"):
        assert 0 <= json.loads((folder / f"evaluate-{step}" / "metrics.json").read_text())["mean_iou"] <= 1
    assert main(["export", "onnx", "segmenter", "segmenter.onnx", "--workspace", "runs/small"]) == 0
    assert Path("segmenter.onnx").stat().st_size
