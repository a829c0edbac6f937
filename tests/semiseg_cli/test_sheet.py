"""`semiseg sheet`: which images it takes, where it writes, and one clear error for each bad request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.dataset import Dataset
from semiseg_cli.main import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with drawn data, and segments of its val and weak images."""
    path = tmp_path_factory.mktemp("sheet") / "runs"
    sizes = [f"dataset.{key}={value}" for key, value in (("train", 3), ("weak", 4), ("val", 5), ("long_side", 48))]
    words = [word for size in sizes for word in ("--set", size)]
    assert main(["prepare-data", "--dataset", "shapes", "-w", str(path), *words]) == 0
    assert main(["segments", "--split", "val,weak", "-w", str(path), "--workers", "1"]) == 0
    photos = path.parent / "photos"
    photos.mkdir()
    dataset = Dataset(path / "data")
    for image_id in dataset.ids("val"):
        Image.fromarray(dataset.image(image_id)).save(photos / f"{image_id}.png")
    return path


def sheet(runs: Path, *words: str) -> int:
    return main(["sheet", "-w", str(runs), "--workers", "1", *words])


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return image.size


def test_it_is_written_into_the_workspace_or_to_a_file(runs: Path, tmp_path: Path) -> None:
    assert sheet(runs, "segments", "--count", "4") == 0
    whole = size(runs / "sheet-segments.png")
    assert sheet(runs, "segments", "--count", "1", "--to", str(tmp_path / "one.png")) == 0
    assert size(tmp_path / "one.png")[0] < whole[0]
    assert not list(tmp_path.glob(".*"))
    before = (runs / "sheet-segments.png").read_bytes()
    assert sheet(runs, "segments", "--count", "4") == 0
    assert (runs / "sheet-segments.png").read_bytes() == before


def test_images_of_a_list_are_drawn_in_its_order(runs: Path, tmp_path: Path) -> None:
    ids = Dataset(runs / "data").ids("val")
    drawn = []
    for number, order in enumerate((ids[:2], ids[1::-1])):
        (tmp_path / "ids.txt").write_text("\n".join(order) + "\n", encoding="utf-8")
        assert (
            sheet(runs, "segments", "--list", str(tmp_path / "ids.txt"), "--to", str(tmp_path / f"{number}.png")) == 0
        )
        drawn.append(np.asarray(Image.open(tmp_path / f"{number}.png")))
    assert drawn[0].shape == drawn[1].shape
    assert (drawn[0] != drawn[1]).any()


def test_the_photos_may_lie_elsewhere(runs: Path, tmp_path: Path) -> None:
    photos = runs.parent / "photos"
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(Dataset(runs / "data").ids("val")), encoding="utf-8")
    assert sheet(runs, "segments", "--images", str(photos), "--list", str(ids), "--to", str(tmp_path / "a.png")) == 0
    assert size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing"], 3, "no artifact 'nothing'"),
        (["data"], 3, "is a data set"),
        (["segments", "--worst"], 3, "holds no masks"),
        (["segments", "--worst", "--list", "x"], 2, "both choose the images"),
        (["segments", "--list", "absent.txt"], 3, "absent.txt cannot be read"),
        (["segments", "--to", "x.jpg"], 2, "a sheet is a PNG"),
        (["segments", "--to", "/nowhere/x.png"], 3, "cannot be written"),
        (["segments", "--split", "fifth"], 2, "no split 'fifth'"),
        (["segments", "--split", "train"], 3, "no image of this split"),
        (["segments", "--data", "segments"], 3, "expected dataset"),
        (["segments", "--images", "nowhere"], 3, "nowhere is not a folder"),
        (["segments", "--images", ".", "--data", "data"], 2, "both name the images"),
        (["segments", "--count", "0"], 2, "--count"),
    ],
)
def test_a_bad_request_is_one_error(
    runs: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sheet(runs, *words) == code
    text = capsys.readouterr().err
    assert said in text
    assert text.count("error:") == 1
    assert "Traceback" not in text


def test_ids_that_are_not_there_are_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ids.txt").write_text("unknown-1\n", encoding="utf-8")
    assert sheet(runs, "segments", "--list", str(tmp_path / "ids.txt")) == 3
    assert "unknown-1" in capsys.readouterr().err
