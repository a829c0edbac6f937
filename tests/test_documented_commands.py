"""Every command of the documentation runs, on small data and in little time, or `tests.documented` says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from artifacts.dataset import Dataset
from semiseg_cli.main import main
from tests.documented import NOT_RUN, NOT_RUN_PAGES, PAGES, ROOT, SHAPES, commands, run, why_not_run
from tests.stages.data.conftest import tiny_devkit

ELSEWHERE = {"python.md": "tests/stages/serving/test_python_page.py runs its commands and its Python"}
PREPARED = "semiseg prepare-data"
CLASSIFIED = (PREPARED, "semiseg train-classifier --network tiny", "semiseg seeds")
PREDICTED = (
    PREPARED,
    "semiseg train --method supervised",
    "semiseg predict --segmenter supervised --split val --set output=both",
)
ESTIMATED = "semiseg crf --predictions seeds --set labels=tags --set splits=[weak]"
BEFORE = {  # what a reader has made before, where the page does not say it
    "semiseg train --method supervised --network mobilenet_v2 --weights mobilenet_v2.pth --iterations 300 "
    "--set crop_size=96": (PREPARED,),
    "semiseg evaluate --predictions seeds --split train --name label-maps": (
        *CLASSIFIED,
        "semiseg train-refiner --method irn --network tiny",
        "semiseg refine",
    ),
    "semiseg evaluate --maps seeds --split train --choose-on holdout --plot curve.png": (
        "semiseg prepare-data --dataset shapes --set holdout=1",
        "semiseg train-classifier --network tiny",
        "semiseg seeds --set splits=[train,holdout]",
    ),
    "semiseg train-refiner --method irn --set method.displacement=true": CLASSIFIED,
    "semiseg crf --predictions seeds --set labels=tags --set parameters=deeplab-v2 --set background_alpha=1 "
    "--set min_confidence=0.95": CLASSIFIED,
    "semiseg vote --masks crf": (ESTIMATED,),
    "semiseg vote --masks crf --segments segments": ("semiseg segments",),
    "semiseg export cvat predictions for-cvat": PREDICTED,
    "semiseg export cvat predictions for-cvat --first 50": PREDICTED,
    "semiseg train --method unimatch --weak-labels masks --set method.guidance.weight=0.1": (
        *CLASSIFIED,
        f"{ESTIMATED} --name masks",
    ),
}


def runs(page: Path) -> list[str]:
    if page.name in NOT_RUN_PAGES or page.name in ELSEWHERE:
        return []
    return [line for line in commands(page) if not why_not_run(line)]


RUN = {str(page.relative_to(ROOT)): runs(page) for page in PAGES}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos as a reader of the pages has them, here drawn ones: masks of some, labels of the others."""
    folder = tmp_path_factory.mktemp("drawn")
    settings = [part for setting in SHAPES for part in ("--set", setting)]
    assert main(["prepare-data", *settings, "--workspace", str(folder / "made")]) == 0
    data = Dataset(folder / "made" / "data")
    with_masks, labelled = (*data.ids("train"), *data.ids("val")), data.ids("weak")
    for name, ids in (("masks", with_masks), ("DIR", labelled)):
        (folder / name).mkdir()
        for image_id in ids:
            shutil.copy(data.mask_path(image_id), folder / name)
    for name, ids in (("photos", (*with_masks, *labelled)), ("NEW_PHOTOS", labelled)):
        (folder / name).mkdir()
        for image_id in ids:
            shutil.copy(data.image_path(image_id), folder / name)
    rows = [f"{image_id}.png,{';'.join(data.class_names[tag] for tag in data.tags(image_id))}" for image_id in labelled]
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("\n".join(data.class_names))
    shutil.rmtree(folder / "made")
    return folder


@pytest.fixture
def place(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of somebody who reads a page."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    kit = tiny_devkit(tmp_path)
    (tmp_path / "DEVKIT").symlink_to(kit.root)
    (tmp_path / "FILE").touch()
    (tmp_path / "LABELED.txt").write_text("t1\ns1\n")
    (tmp_path / "UNLABELED.txt").write_text("t2\nt3\nt4\ns2\ns3\ns4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    return tmp_path


def run_page(page: str) -> None:
    for line in RUN[page]:
        for earlier in BEFORE.get(line, ()):
            run(earlier)
        run(line)


@pytest.mark.parametrize("page", [page for page, lines in RUN.items() if lines and page != "docs/weak.md"])
def test_the_commands_of_a_page_run_in_order(page: str, place: Path) -> None:
    run_page(page)


def metrics(name: str) -> dict:
    return json.loads(Path("runs", "default", name, "metrics.json").read_text())


def test_the_threshold_is_chosen_on_images_set_aside(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/weak.md, whose commands do what it says of them."""
    run_page("docs/weak.md")
    assert "the threshold was chosen on the scored images: the figure flatters" in capsys.readouterr().out
    assert metrics("honest")["sweep"]["remark"] is None
    assert metrics("honest")["mean_iou"] <= metrics("honest")["sweep"]["best"]["mean_iou"]
    assert metrics("flattering")["mean_iou"] == metrics("honest")["sweep"]["best"]["mean_iou"]
    assert metrics("given")["sweep"]["thresholds"] == [0.2]
    assert Path("curve.png").is_file()
    crf = json.loads(Path("runs", "default", "crf", "manifest.json").read_text())
    assert crf["summary"]["background_score"] == metrics("honest")["sweep"]["threshold"]


def test_every_reason_is_that_of_a_command() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    used = {why_not_run(line) for line in lines}
    assert set(NOT_RUN.values()) == used - {""}
    assert set(BEFORE) <= set(lines)
    assert sum(map(len, RUN.values())) > 90
