"""The commands of docs/weak.md that judge score maps and bring in masks do what the page says, on a small data set."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from artifacts.dataset import Dataset
from artifacts.masks import write_mask
from semiseg_cli.main import main

PAGE = Path(__file__).parent.parent / "docs" / "weak.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SMALL = {  # stage -> settings that make it quick
    "prepare-data": ("dataset.train=8", "dataset.weak=4", "dataset.val=2", "dataset.long_side=48", "holdout=3"),
    "train-classifier": ("iterations=2", "batch_size=4", "crop_size=48"),
    "train": ("network=tiny", "iterations=2", "batch_size=4", "crop_size=48"),
    "retrain": ("training.network=tiny", "training.iterations=2", "training.batch_size=4", "training.crop_size=48"),
}


def run(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    settings = [part for setting in SMALL.get(name, ()) for part in ("--set", setting)]
    assert main([name, *arguments, *settings]) == 0, line


def metrics(name: str) -> dict:
    return json.loads(Path("runs", "default", name, "metrics.json").read_text())


def test_the_threshold_is_chosen_on_images_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (judging,) = [block for block in BLOCKS if "--choose-on holdout" in block]
    for line in judging.splitlines():
        run(line)
    assert "the threshold was chosen on the scored images: the figure flatters" in capsys.readouterr().out
    assert metrics("honest")["sweep"]["remark"] is None
    assert metrics("honest")["mean_iou"] <= metrics("honest")["sweep"]["best"]["mean_iou"]
    assert metrics("flattering")["mean_iou"] == metrics("honest")["sweep"]["best"]["mean_iou"]
    assert metrics("given")["sweep"]["thresholds"] == [0.2]
    assert Path("curve.png").is_file()
    (refining,) = [block for block in BLOCKS if "--threshold honest" in block]
    run(refining)
    crf = json.loads(Path("runs", "default", "crf", "manifest.json").read_text())
    assert crf["summary"]["background_score"] == metrics("honest")["sweep"]["threshold"]


def test_masks_made_elsewhere_are_brought_in_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("semiseg prepare-data --dataset shapes")
    dataset = Dataset(Path("runs", "default", "data"))
    Path("DIR").mkdir()
    for image_id in dataset.ids("weak"):
        values = dataset.possible_classes(image_id)
        height, width = dataset.size(image_id)
        mask = [[values[(row // 8 + column // 8) % len(values)] for column in range(width)] for row in range(height)]
        write_mask(Path("DIR", f"{image_id}.png"), np.array(mask, np.uint8))
    (importing,) = [block for block in BLOCKS if "import-masks" in block]
    for line in importing.splitlines():
        if "--split weak" in line and not all(map(dataset.has_mask, dataset.ids("weak"))):
            continue  # the page says: where the weak images have true masks
        run(line)
