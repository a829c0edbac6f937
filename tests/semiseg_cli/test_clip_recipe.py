"""The recipe of CLIP-ES runs to its end on the embedded data set, without a download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semiseg_cli.main import main
from semiseg_cli.recipe_commands import shipped_recipes

pytest.importorskip("timm")

SMALL = """
extends: {recipe}
nodes:
  data: {{config: {{dataset: {{name: shapes, train: 4, weak: 6, val: 2, long_side: 48}}}}}}
  segmenter: {{config: {{training: {{iterations: 2, batch_size: 4, crop_size: 48}}}}}}
"""


def test_clip_es_runs_without_a_classifier_and_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL.format(recipe=shipped_recipes()["clip-es-voc"]))
    assert main(["run", "small.yaml", "--workers", "1"]) == 0
    assert "whose maps mean nothing" in capsys.readouterr().err
    (folder,) = [path.parent for path in Path("runs").glob("*/sure-masks")]
    for step in ("maps", "masks", "predictions", "predictions-crf"):
        assert 0 <= json.loads((folder / f"evaluate-{step}" / "metrics.json").read_text())["mean_iou"] <= 1
