"""Sheets of trainings on the page: which are shown, and their HTML."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.report.page.batch_section import batch_section
from stages.report.page.facts import _batches
from stages.report.page.training_sheets import MOST, read_sheets


def draw(folder: Path, *names: str, width: int = 40) -> Path:
    (folder / "local" / "batches").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((30, width, 3), 200, np.uint8)).save(folder / "local" / "batches" / name)
    return folder


def test_the_first_and_the_last_batch_are_shown_and_the_last_val(tmp_path: Path) -> None:
    draw(tmp_path, "batch-1.jpg", "batch-30.jpg", "batch-1000.jpg", "val-2.jpg", "val-1000.jpg", "other.jpg")
    found = read_sheets("train", tmp_path)
    assert found is not None
    assert [words for words, _ in found.sheets] == [
        "batch of step 1",
        "batch of step 1,000",
        "images of val after step 1,000",
    ]


def test_without_sheets_nothing_is_shown_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    assert read_sheets("train", tmp_path) is None
    draw(tmp_path, "batch-1.jpg", "batch-2.jpg")
    (tmp_path / "local" / "batches" / "batch-2.jpg").write_bytes(b"damaged")
    found = read_sheets("train", tmp_path)
    assert found is not None
    assert [words for words, _ in found.sheets] == ["batch of step 1"]
    (tmp_path / "local" / "batches" / "batch-1.jpg").write_bytes(b"")
    assert read_sheets("train", tmp_path) is None


@pytest.mark.parametrize(("width", "shown"), [(40, 40), (3000, 1000)])
def test_wide_sheets_are_made_smaller(width: int, shown: int, tmp_path: Path) -> None:
    found = read_sheets("train", draw(tmp_path, "batch-1.jpg", width=width))
    assert found is not None
    ((_, thumbnail),) = found.sheets
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.partition(",")[2])))
    assert image.size == (thumbnail.width, thumbnail.height)
    assert image.width == shown


def test_of_trainings_that_differ_by_their_seed_the_first_is_shown_and_of_many_a_few(tmp_path: Path) -> None:
    names = ["data", "a-s0", "a-s1", "b-s3", *(f"more-{k}" for k in range(20))]
    folders = {name: draw(tmp_path / name, "batch-1.jpg") for name in names if name != "data"} | {"data": tmp_path}
    assert [training.artifact for training in _batches(folders)] == ["a-s0", "b-s3", *(f"more-{k}" for k in range(6))]
    assert len(_batches(folders)) == MOST


def test_the_html_says_which_training_and_step_an_image_is_of(tmp_path: Path) -> None:
    found = read_sheets("a <b>", draw(tmp_path, "batch-7.jpg"))
    assert found is not None
    html = batch_section([found])
    assert 'alt="a &lt;b&gt;: batch of step 7"' in html
    assert "<figcaption>batch of step 7</figcaption>" in html
    assert "a <b>" not in html
