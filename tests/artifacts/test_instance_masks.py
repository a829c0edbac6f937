"""artifacts/instance_masks.py: run lengths as pycocotools has them, and a file that its classes read."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from artifacts.errors import ArtifactError
from artifacts.instance_masks import Instance, InstanceMasks, annotations_of, document_of, run_lengths
from artifacts.masks import write_mask
from artifacts.store import Work, Workspace

NAMES = ("background", "cat", "dog")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_run_lengths_are_those_of_pycocotools(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert run_lengths(mask) == expected


def test_long_runs_are_those_of_pycocotools():
    mask = np.zeros((700, 900), bool)
    mask[100:600, 300:301] = mask[5, 500] = True
    assert run_lengths(mask) == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def drawn() -> dict[str, tuple[np.ndarray, tuple[Instance, ...]]]:
    numbers = np.zeros((30, 40), np.uint8)
    numbers[2:9, 3:20], numbers[15:29, 30:40] = 1, 2
    return {"a": (numbers, (Instance(2, 1.0), Instance(1, 0.25))), "b": (np.zeros((5, 6), np.uint8), ())}


def document() -> dict[str, object]:
    images = [
        {"image_id": name, "file_name": f"{name}.jpg", "width": numbers.shape[1], "height": numbers.shape[0]}
        for name, (numbers, _) in drawn().items()
    ]
    return document_of(NAMES, images, [annotations_of(*one) for one in drawn().values()])


def published(folder, changed=None, skip=()):
    space, work = Workspace(folder / "runs"), Work("by hand", 1, "instances", "0" * 64, {}, {}, {})
    with space.writing("instances", work) as writer:
        for name, (numbers, _) in drawn().items():
            if name not in skip:
                with writer.item(f"instances/{name}.png") as temporary:
                    write_mask(temporary, numbers)
        writer.write_json("instances.json", changed or document())
        return space.publish("instances", writer, work, {})


def test_what_is_written_is_read(tmp_path):
    found = InstanceMasks(published(tmp_path))
    assert found.class_names == NAMES
    assert list(found) == ["a", "b"]
    for name, (numbers, instances) in drawn().items():
        assert np.array_equal(found[name][0], numbers)
        assert found[name][1] == instances


def test_coco_reads_the_file_and_takes_it_as_results(tmp_path):
    path = published(tmp_path).file("instances.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
        results = coco.loadRes(json.loads(path.read_text())["annotations"])
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == {"cat", "dog"}
    for read in (coco, results):
        masks = [read.annToMask(one) for one in read.loadAnns(read.getAnnIds(imgIds=1))]
        assert [np.array_equal(mask, drawn()["a"][0] == k + 1) for k, mask in enumerate(masks)] == [True, True]
    first = coco.loadAnns(1)[0]
    assert (first["area"], first["bbox"], first["category_id"], first["score"]) == (7 * 17, [3, 2, 17, 7], 2, 1.0)
    assert coco.loadImgs(1)[0]["file_name"] == "a.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"].pop(), "does not have the 1 instance of"),
        (lambda d: d["annotations"][0].update(image_id=3), "an image or a class that is not listed"),
        (lambda d: d["annotations"][0].update(category_id=3), "an image or a class that is not listed"),
        (lambda d: d["images"][1].update(image_id="a"), "not distinct and numbered"),
        (lambda d: d["images"][0].update(image_id="../a"), "slash"),
        (lambda d: d["annotations"][0].update(score=2.0), "score"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, change, message):
    damaged = document()
    change(damaged)
    with pytest.raises(ArtifactError, match=message):
        InstanceMasks(published(tmp_path, damaged))["a"]
