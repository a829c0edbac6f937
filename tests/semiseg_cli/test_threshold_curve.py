"""What `semiseg evaluate --maps` prints and draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Workspace
from semiseg_cli.main import main
from tests.stages.conftest import publish

SMALL = ("train=6", "weak=2", "val=2", "long_side=48")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A drawn data set with two images set aside, and score maps of its images that know where the objects are."""
    monkeypatch.chdir(tmp_path)
    settings = [part for setting in SMALL for part in ("--set", f"dataset.{setting}")]
    assert main(["prepare-data", *settings, "--set", "holdout=2", "--workspace", "w"]) == 0
    workspace = Workspace("w")
    dataset = Dataset(workspace.artifact("data"))

    def write(writer):
        ids = [*dataset.ids("train"), *dataset.ids("holdout")]
        with ScoreMapWriter(writer, class_names=dataset.class_names) as scores:
            scores.plan(ids)
            for image_id in ids:
                mask, classes = dataset.mask(image_id), dataset.tags(image_id)
                maps = [np.where(mask == class_id, 1.0, 0.125) for class_id in classes]
                scores.add(image_id, np.array(maps), classes, size=mask.shape, stride=1)

    publish(workspace, "maps", "seeds", write)
    return workspace


def test_the_table_the_json_and_the_plot(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "--maps", "maps", "--split", "train", "--choose-on", "holdout", "--workspace", "w"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.strip().splitlines()[0].split() == [
        "class",
        "IoU,",
        "%",
        "precision,",
        "%",
        "recall,",
        "%",
        "coverage,",
        "%",
    ]
    assert "threshold 0.13: chosen on 2 images of holdout" in shown
    assert "mean IoU 100.00, pixel accuracy 100.00" in shown
    assert "4 images of train" in shown
    assert "best point of their curve: threshold 0.13, mean IoU 100.00" in shown
    assert main([*command, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert len(metrics["sweep"]["thresholds"]) == len(metrics["sweep"]["mean_iou"]) == 60
    assert metrics == json.loads((workspace.path / "evaluation" / "metrics.json").read_text())
    for name in ("curve.png", "curve.svg"):
        assert main([*command, "--plot", name]) == 0
    assert Image.open("curve.png").size == (1200, 750)
    assert "<svg" in Path("curve.svg").read_text()
    assert "wrote curve.svg" in capsys.readouterr().err


def test_a_figure_that_flatters_says_so_in_table_and_plot(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--maps", "maps", "--split", "train", "--workspace", "w"]
    assert main(command) == 0
    found = capsys.readouterr()
    for text in (found.out, found.err):
        assert "the threshold was chosen on the scored images: the figure flatters" in text


def test_options_that_do_not_go_together_are_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--workspace", "w"]
    for arguments, words in (
        (["evaluate", "--predictions", "maps", "--plot", "x.png", *place], "--plot needs --maps NAME"),
        (["evaluate", "--maps", "maps", "--split", "train", "--plot", "x.doc", *place], "cannot be written as .doc"),
        (
            ["evaluate", "--maps", "maps", "--ground-truth", "x", "--num-classes", "2"],
            "scoring folders needs three options",
        ),
        (
            ["evaluate", "--predictions", "x", "--maps", "maps", "--ground-truth", "x", "--num-classes", "2"],
            "--maps: no effect when folders are scored",
        ),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    assert main(["evaluate", "--maps", "maps", *place]) == 3
    assert "name splits it has (train, holdout)" in capsys.readouterr().err
