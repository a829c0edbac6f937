"""Predictions as pre-annotations, and back: what is exported, and that our readers get the same masks of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from artifacts.canonical import digest
from artifacts.confidence import index_of_doubt
from artifacts.dataset import Dataset
from artifacts.masks import encode_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Work, Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.images import ImageFolder
from stages.data.preparation_config import PrepareDataConfig
from stages.export.annotation_tools import TOOLS
from stages.export.pre_annotations import Settings, export_annotations
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE

NAMES = ("background", "cat", "dog & <co>")
EXACT = Settings(least=1, tolerance=0)


@pytest.fixture
def execution() -> Execution:
    return Execution(workers=1)


def publish(
    root: Path,
    masks: Mapping[str, np.ndarray],
    classes: Sequence[str] = NAMES,
    confidences: Mapping[str, np.ndarray] | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Artifact:
    """An artifact as `semiseg predict --images photos` makes it, and the folder of images."""
    work = Work("predict", 1, "predictions", digest([sorted(masks)]), {"images": str(root / "photos")}, {}, {})
    workspace = Workspace(root / "ws")
    (root / "photos").mkdir(exist_ok=True)
    with workspace.writing("predictions", work) as writer:
        for image_id, mask in masks.items():
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(mask))
            Image.new("RGB", mask.shape[::-1]).save(root / "photos" / f"{image_id}.jpg")
        for image_id, values in (confidences or {}).items():
            writer.write_bytes(f"confidence/{image_id}.png", encode_mask(index_of_doubt(1 - values).astype(np.uint8)))
        if scores:
            with ScoreMapWriter(writer, class_names=classes, meaning="probability") as maps:
                for shard in maps.plan(scores):
                    for image_id in shard:
                        size = masks[image_id].shape
                        maps.add(image_id, scores[image_id], np.arange(len(classes), dtype=np.uint8), size, stride=1)
        writer.write_json("classes.json", {"class_names": list(classes), "ids": sorted(masks), "splits": []})
        workspace.publish("predictions", writer, work, {})
    return workspace.artifact("predictions")


def drawn(count: int = 4, size: tuple[int, int] = (14, 17), seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"IMG {number}": rng.choice([0, 0, 1, 2, 255], size).astype(np.uint8) for number in range(count)}


def accepted(folder: Path) -> None:
    """What Label Studio exports after every prediction was submitted as it is."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, start=1):
        result = task["predictions"][0]["result"]
        task |= {"id": number, "annotations": [{"id": number, "result": result, "was_cancelled": False}]}
    (folder / "tasks.json").write_text(json.dumps(tasks))


PLACES = {"labelme": "", "cvat": "annotations.xml", "label-studio": "tasks.json", "coco": "annotations.json"}
WAYS = [(tool, shapes) for tool in TOOLS for shapes in TOOLS[tool].shapes]


def read_back(root: Path, tool: str, folder: Path, name: str = "back") -> Dataset:
    if tool == "label-studio":
        accepted(folder)
    (root / "classes.txt").write_text("".join(f"{label}\n" for label in (*NAMES, "__ignore__")))
    dataset = {
        "name": "folder",
        "images": str(root / "photos"),
        "masks": str(folder / PLACES[tool]),
        "class_table": str(root / "classes.txt"),
        "val": "",
    }
    config = build(PrepareDataConfig, {"dataset": dataset}, "test")
    outcome = run_stage(STAGE, config, Workspace(root / name), "data", {}, Execution(workers=1))
    return Dataset(outcome.artifact)


@pytest.mark.parametrize(("tool", "shapes"), WAYS)
def test_masks_come_back_as_they_were(tmp_path, execution, tool, shapes):
    masks = drawn() | {"empty": np.zeros((5, 6), np.uint8)}
    masks["one"] = np.ones((3, 4), np.uint8)
    predictions = publish(tmp_path, masks)
    photos = ImageFolder(tmp_path / "photos")
    asked = Settings(least=1, tolerance=0, shapes=shapes)
    figures = export_annotations(TOOLS[tool], predictions, tmp_path / "out", photos, asked, execution)
    assert (figures["images"], figures["empty"], figures["left_out"]) == (6, 1, 0)
    dataset = read_back(tmp_path, tool, tmp_path / "out")
    assert dataset.class_names == NAMES
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(dataset.mask(image_id), mask, err_msg=image_id)


@given(
    masks=st.lists(
        arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 255])),
        min_size=1,
        max_size=3,
    ),
    way=st.sampled_from(WAYS),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_masks_come_back(tmp_path_factory, masks, way):
    tool, shapes = way
    if all((mask == 0).all() for mask in masks):
        masks[0][0, 0] = 1  # an export without any shape is refused
    root = tmp_path_factory.mktemp("back")
    named = {f"p{number}": mask for number, mask in enumerate(masks)}
    predictions = publish(root, named)
    asked = Settings(least=1, tolerance=0, shapes=shapes)
    export_annotations(
        TOOLS[tool], predictions, root / "out", ImageFolder(root / "photos"), asked, Execution(workers=1)
    )
    dataset = read_back(root, tool, root / "out")
    for image_id, mask in named.items():
        np.testing.assert_array_equal(dataset.mask(image_id), mask, err_msg=image_id)
