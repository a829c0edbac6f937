"""Masks in several places: painted ones, and corrected ones of an annotation program that came later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.store import Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.stages.data.conftest import Notes

COLOURS = {0: (0, 0, 0), 1: (64, 0, 0), 2: (64, 0, 128)}
SIZE = (12, 16)


def files(root: Path) -> dict[str, np.ndarray]:
    """Five photos; painted masks of a, b and c; LabelMe's of c and d, and an index mask with another palette of e."""
    for folder in ("photos", "masks", "corrected", "ids"):
        (root / folder).mkdir()
    for name in "abcde":
        Image.new("RGB", SIZE[::-1], (40 * "abcde".index(name), 90, 7)).save(root / "photos" / f"{name}.jpg")
    (root / "classes.txt").write_text("background 0 0 0\ncat 64 0 0\ndog 64 0 128\n")
    masks = {}
    for number, name in enumerate("abc"):
        masks[name] = np.random.default_rng(number).choice(np.arange(3, dtype=np.uint8), SIZE)
        painted = np.array([[COLOURS[int(value)] for value in row] for row in masks[name]], np.uint8)
        Image.fromarray(painted).save(root / "masks" / f"{name}.png")
    for name, left in (("c", 2), ("d", 5)):
        square = [[left, 3], [left + 6, 3], [left + 6, 9], [left, 9]]
        shape = {"label": "dog", "points": square, "shape_type": "polygon", "group_id": None, "flags": {}}
        size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        text = json.dumps({"imagePath": f"../photos/{name}.jpg", "imageData": None, "shapes": [shape], **size})
        (root / "corrected" / f"{name}.json").write_text(text)
        masks[name] = np.zeros(SIZE, np.uint8)
        masks[name][3:9, left : left + 6] = 2
    (root / "corrected" / "labels.txt").write_text("__ignore__\n_background_\ncat\ndog\n")  # as the export writes it
    (root / "corrected" / "order.csv").write_text("file,confidence\nc.jpg,0.5\nd.jpg,0.6\n")
    masks["e"] = np.zeros(SIZE, np.uint8)
    masks["e"][:4] = 1
    index = Image.fromarray(masks["e"])
    index.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # VOC's first colours, as predictions have
    index.save(root / "ids" / "e.png")
    return masks


def prepare(root: Path, places: list[str], workers: int = 1) -> tuple[Dataset, list[str]]:
    settings = {
        "name": "folder",
        "images": str(root / "photos"),
        "masks": [str(root / place) for place in places],
        "class_table": str(root / "classes.txt"),
        "val": "",
    }
    notes = Notes()
    config = build(PrepareDataConfig, {"dataset": settings}, "test")
    execution = Execution(workers=workers, progress=notes)
    return Dataset(
        run_stage(STAGE, config, Workspace(root / f"ws-{workers}"), "data", {}, execution).artifact
    ), notes.said


def test_each_place_is_read_as_what_it_is_and_the_last_mask_counts(tmp_path: Path) -> None:
    masks = files(tmp_path)
    for workers in (1, 2):  # processes get the readers too
        dataset, said = prepare(tmp_path, ["masks", "corrected", "ids"], workers)
        assert sorted(dataset.ids("train")) == ["a", "b", "c", "d", "e"]
        for name, mask in masks.items():
            np.testing.assert_array_equal(dataset.mask(name), mask, err_msg=name)
    assert any("1 images have another mask in" in line and line.endswith("corrected, which counts: c") for line in said)
    assert dataset.facts["mask_format"] == ["colours", "labelme", "ids"]


def test_a_corrected_file_of_a_later_place_is_a_new_data_set(tmp_path: Path) -> None:
    files(tmp_path)
    before, _ = prepare(tmp_path, ["masks", "corrected"])
    assert set(np.unique(before.mask("d"))) == {0, 2}
    file = tmp_path / "corrected" / "d.json"
    file.write_text(file.read_text().replace("dog", "cat"))
    after, _ = prepare(tmp_path, ["masks", "corrected"])
    assert set(np.unique(after.mask("d"))) == {0, 1}


def test_one_place_in_a_list_is_that_place(tmp_path: Path) -> None:
    masks = files(tmp_path)
    dataset, _ = prepare(tmp_path, ["masks"])
    assert sorted(dataset.ids("train")) == ["a", "b", "c"]
    np.testing.assert_array_equal(dataset.mask("a"), masks["a"])
