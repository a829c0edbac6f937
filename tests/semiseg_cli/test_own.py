"""`semiseg run own` on folders of drawn photos: every step, the choice, and what goes wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.masks import read_mask
from artifacts.store import Workspace
from semiseg_cli.main import main
from stages.serving import Segmenter

SIDE = 48


def draw(folder: Path, masks: int, labels: int, nothing: int) -> list[str]:
    """Photos of a red or a blue square on green; the settings of `run own` for them."""
    photos, painted = folder / "photos", folder / "masks"
    photos.mkdir(parents=True)
    rows = []
    for number in range(masks + labels + nothing):
        rng, kind = np.random.default_rng(number), 1 + number % 2
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        pixels[..., 1] += 90
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left, size = rng.integers(0, 24), rng.integers(0, 24), rng.integers(14, 24)
        mask[top : top + size, left : left + size] = kind
        pixels[mask > 0] = (200, 20, 20) if kind == 1 else (20, 20, 200)
        pixels[rng.integers(0, SIDE, 40), rng.integers(0, SIDE, 40)] = 255
        Image.fromarray(pixels).save(photos / f"p{number:02}.png")
        if number < masks:
            painted.mkdir(exist_ok=True)
            Image.fromarray(mask).save(painted / f"p{number:02}.png")
        elif number < masks + labels:
            rows.append(f"p{number:02}.png,{'red' if kind == 1 else 'blue'}")
    (folder / "classes.txt").write_text("background\nred\nblue\n", encoding="utf-8")
    given = [f"images={photos}", f"classes={folder / 'classes.txt'}", "weights=none", "iterations=3"]
    if masks:
        given.append(f"masks={painted}")
    if labels:
        (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        given.append(f"labels={folder / 'labels.csv'}")
    return [word for setting in given for word in ("--set", setting)]


def own(workspace: Path, *words: str) -> int:
    return main(["run", "own", "-w", str(workspace), "--device", "cpu", "--workers", "1", *words])


def test_from_a_folder_to_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=14, labels=5, nothing=1)
    assert own(tmp_path / "ws", *given) == 0
    workspace, said = Workspace(tmp_path / "ws"), capsys.readouterr().err
    splits = {split: len(ids) for split, ids in Dataset(workspace.artifact("data")).splits.items() if ids}
    assert splits == {"train": 8, "holdout": 3, "val": 3, "weak": 5, "unlabelled": 1}
    everything = Dataset(workspace.artifact("data-all-masks")).splits
    assert len(everything["train"]) == 11
    assert everything["val"] == Dataset(workspace.artifact("data")).splits["val"]
    scores = {
        name: workspace.artifact(f"{name}-holdout-scores").recorded("summary", "mean_iou", float)
        for name in ("supervised", "self-training")
    }
    chosen = "self-training" if "chosen: self-training" in said else "supervised"
    words = (
        "" if scores[chosen] == max(scores.values()) else ", as the rule is with fewer than 120 images without masks"
    )
    assert f"chosen: {chosen}{words} (mean IoU on the holdout" in said
    assert workspace.artifact("final").manifest.config["method"]["name"] == chosen
    assert workspace.artifact("final").manifest.inputs["data"]["artifact"] == "data-all-masks"
    model = tmp_path / "ws" / "model"
    assert sorted(path.name for path in (model / "masks").iterdir()) == [f"p{n:02}.png" for n in range(20)]
    assert sorted(path.name for path in (model / "overlays").iterdir()) == [f"p{n:02}.jpg" for n in range(20)]
    assert (model / "network" / "weights.pt").is_file()
    summary = json.loads((model / "summary.json").read_text(encoding="utf-8"))
    assert summary["method"] == chosen
    assert summary["val"]["images"] == 3
    assert (model / "label-next.csv").read_text(encoding="utf-8").splitlines()[0] == "id,doubt,distance"
    assert "more masks of " in said
    assert said.count("14 images with masks") == 1  # not once for each time that the files are read
    assert f"the model in {model} is {chosen}, mean IoU" in said.splitlines()[-1]
    page = (tmp_path / "ws" / "report.html").read_text(encoding="utf-8")
    assert 'Segmenter.load("ws/model")' in page  # what is delivered, not the artifact that it is a copy of
    report = json.loads((tmp_path / "ws" / "report.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in report["rows"]][:2] == ["supervised", "self-training"]

    assert own(tmp_path / "ws", *given) == 0  # nothing is made again
    again = capsys.readouterr().err
    assert "0 made" in again
    assert "a few steps of each training are measured" not in again

    (model / "overlays" / "mine.jpg").write_bytes(b"")
    assert own(tmp_path / "ws", *given, "--set", "overlays=none") == 0
    assert [path.name for path in (model / "overlays").iterdir()] == ["mine.jpg"]  # no overlay is out of date


def test_labels_of_all_other_images_match_the_background(tmp_path: Path) -> None:
    nothing_set_aside = ["--set", "val=none", "--set", "holdout=none"]
    assert own(tmp_path / "ws", *draw(tmp_path, masks=8, labels=4, nothing=0), *nothing_set_aside) == 0
    workspace = Workspace(tmp_path / "ws")
    assert workspace.artifact("pseudo-labels").manifest.config["method"]["name"] == "background-share"
    assert workspace.artifact("self-training").manifest.inputs["weak_labels"]["artifact"] == "pseudo-labels"


def test_masks_alone_are_trained_on_without_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        own(tmp_path / "ws", *draw(tmp_path, masks=12, labels=0, nothing=0), "--set", "target=" + str(tmp_path / "m"))
        == 0
    )
    assert "chosen: supervised" in capsys.readouterr().err
    assert (tmp_path / "m" / "summary.json").is_file()


def test_the_model_can_be_moved_and_what_its_page_says_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small photos are enlarged, and large ones reduced, for the network: whoever loads it does the same."""
    given, target = draw(tmp_path, masks=2, labels=0, nothing=1), tmp_path / "my model"
    assert own(tmp_path / "ws", *given, "--set", "method=supervised", "--set", f"target={target}") == 0
    workspace = Workspace(tmp_path / "ws")
    scales = workspace.artifact("predictions").manifest.config["scales"]
    assert scales == [1.34]  # 64 pixels of 48, rounded up
    monkeypatch.chdir(tmp_path)
    shutil.copy("photos/p00.png", "photo.jpg")
    page = (target / "README.md").read_text(encoding="utf-8")
    assert "0 background, 1 red, 2 blue" in page
    assert "--set scales" not in page.partition("NEW_PHOTOS")[0]  # the network records it
    for line in re.findall("^semiseg (.*)$", page.replace("\\\n", ""), re.MULTILINE):
        assert main(shlex.split(line.replace("NEW_PHOTOS", "photos"))) == 0, line
    for name in ("p00", "p01", "p02"):
        assert (Path("new-masks") / f"{name}.png").read_bytes() == (target / "masks" / f"{name}.png").read_bytes()
    assert [path.name for path in Path("for-labelme").glob("*.json")] == ["p02.json"]
    for block in re.findall("^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, {})
    assert (read_mask(Path("mask.png")) == np.array(Image.open("mask-onnx.png"))).mean() > 0.9
    moved = Path(shutil.move(target, "elsewhere"))
    trained = Segmenter.load("ws/supervised", device="cpu", scales=scales)("photo.jpg").probabilities
    for source, close in ((moved, 0), (moved / "network", 0), (moved / "segmenter.onnx", 0.01)):
        segmenter = Segmenter.load(source, device="cpu")
        assert segmenter.config.scales == (1.34,)
        np.testing.assert_allclose(segmenter("photo.jpg").probabilities, trained, atol=close)
    assert Segmenter.load(moved, device="cpu", scales=[1]).config.scales == (1.0,)


def test_image_labels_alone_end_in_a_model_that_nothing_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own(tmp_path / "ws", *draw(tmp_path, masks=0, labels=12, nothing=0)) == 0
    said = capsys.readouterr().err
    assert "chosen: retrained, by the plan" in said
    assert "nothing can be scored" in said
    summary = json.loads((tmp_path / "ws" / "model" / "summary.json").read_text(encoding="utf-8"))
    assert "val" not in summary


@pytest.fixture(scope="module")
def of_one_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The workspace of a model that was trained on one image, and the settings."""
    folder = tmp_path_factory.mktemp("one")
    given = draw(folder, masks=1, labels=0, nothing=0)
    assert own(folder / "ws", *given) == 0
    return folder / "ws", given


def test_one_image_is_trained_on_and_nothing_is_scored(
    of_one_image: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, given = of_one_image
    assert own(workspace, *given) == 0
    said = capsys.readouterr().err
    assert "nothing can be scored" in said
    assert "0 made" in said


# ------------------------------------------------------------------------------------------------- bad input


def test_problems_of_the_files_stop_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=12, labels=0, nothing=0)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "masks" / "p03.png")
    assert own(tmp_path / "ws", *given) == 3
    assert "p03" in capsys.readouterr().out
    assert Workspace(tmp_path / "ws").names() == []


def test_no_masks_and_no_labels_is_a_clear_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert own(tmp_path / "ws", *draw(tmp_path, masks=0, labels=0, nothing=5)) == 3
    assert "neither masks nor image-level labels" in capsys.readouterr().err


def test_a_foreign_folder_is_no_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=12, labels=0, nothing=0)
    assert own(tmp_path / "ws", *given, "--set", f"target={tmp_path / 'photos'}") == 2
    assert "holds other files" in capsys.readouterr().err


def test_a_target_where_nothing_can_be_written_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = draw(tmp_path, masks=1, labels=0, nothing=0)
    assert own(tmp_path / "ws", *given, "--set", f"target={tmp_path / 'classes.txt' / 'model'}") == 2
    assert "where nothing can be written" in capsys.readouterr().err
    assert not (tmp_path / "ws").exists()


def test_a_disk_without_room_for_the_model_keeps_the_network_and_the_same_command_goes_on(
    of_one_image: tuple[Path, list[str]], small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk, workspace = small_disk("100k"), of_one_image[0]
    given = [*of_one_image[1], "--set", f"target={disk / 'model'}"]
    assert own(workspace, *given) == 3
    said = capsys.readouterr().err
    assert f"the disk is full: {disk / 'model' / 'network'} could not be written" in said
    assert f"the trained network is kept in {workspace / 'supervised'}" in said
    assert [path.name for path in (disk / "model").iterdir()] == ["summary.json"]
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert own(workspace, *given) == 0
    assert "0 made" in capsys.readouterr().err
    assert (disk / "model" / "network" / "weights.pt").is_file()


def test_weights_of_a_different_network_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"layer": torch.zeros(1)}, tmp_path / "mobilenet_v2.pth")
    given = [
        word.replace("weights=none", f"weights={tmp_path / 'mobilenet_v2.pth'}") for word in draw(tmp_path, 1, 0, 0)
    ]
    assert own(tmp_path / "ws", *given) == 3
    assert "do not fit the backbone mobilenet_v2" in capsys.readouterr().err


def test_masks_of_val_alone_leave_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=3, labels=0, nothing=3)
    (tmp_path / "val.txt").write_text("p00\np01\np02\n", encoding="utf-8")
    assert own(tmp_path / "ws", *given, "--set", f"val={tmp_path / 'val.txt'}") == 3
    assert "val asks for 3 of the 3 images with masks: none is left to train on" in capsys.readouterr().out


def test_one_class_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=3, labels=0, nothing=0)
    (tmp_path / "classes.txt").write_text("0 red\n", encoding="utf-8")
    for number in range(3):
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "masks" / f"p{number:02}.png")
    assert own(tmp_path / "ws", *given) == 3
    assert "has one class, red" in capsys.readouterr().err


def test_a_budget_of_seconds_is_refused_with_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert own(tmp_path / "ws", *draw(tmp_path, masks=12, labels=4, nothing=0), "--set", "budget=2s") == 3
    said = capsys.readouterr().err
    assert "a budget of 2 s is too small for self-training" in said
    assert "--set method=supervised" in said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("iterations=many", "iterations is many, expected a number of steps"),
        ("budget=30", "budget 30: expected a number with a unit"),
        ("memory=much", "memory much: expected a number with a unit"),
    ],
)
def test_parameters_that_are_no_number_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert own(tmp_path / "ws", *draw(tmp_path, masks=1, labels=0, nothing=0), "--set", setting) in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ws").exists()


def test_twenty_copies_of_an_image_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = draw(tmp_path, masks=20, labels=0, nothing=0)
    for number in range(1, 20):
        for folder in ("photos", "masks"):
            (tmp_path / folder / f"p{number:02}.png").write_bytes((tmp_path / folder / "p00.png").read_bytes())
    assert own(tmp_path / "ws", *given) == 3
    assert "smallest scene has 20 images" in capsys.readouterr().out
