"""Predictions as pre-annotations, and back: what is exported, and that our readers get the same masks of it."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from artifacts.canonical import digest
from artifacts.confidence import index_of_doubt
from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, DataError, UsageError
from artifacts.masks import encode_mask, read_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Work, Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.config import VOC_CLASS_NAMES
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
                        maps.add(image_id, scores[image_id], range(len(classes)), size=size, stride=1)
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


def read_back(root: Path, tool: str, folder: Path, classes: Sequence[str] = NAMES, name: str = "back") -> Dataset:
    if tool == "label-studio":
        accepted(folder)
    (root / "classes.txt").write_text("".join(f"{label}\n" for label in (*classes, "__ignore__")))
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


# --- what the programs read ---


def exported(
    root: Path,
    tool: str,
    masks: Mapping[str, np.ndarray],
    asked: Settings = EXACT,
    folder: str = "out",
    **more: Any,
) -> Path:
    predictions = publish(root, masks, **more)
    photos = ImageFolder(root / "photos")
    export_annotations(TOOLS[tool], predictions, root / folder, photos, asked, Execution(workers=1))
    return root / folder


TWO_AREAS = np.array([[1, 1, 1, 0], [1, 0, 1, 2], [1, 1, 1, 2]], np.uint8)


def test_a_labelme_file(tmp_path):
    folder = exported(tmp_path, "labelme", {"a": TWO_AREAS})
    content = json.loads((folder / "a.json").read_text())
    assert content["imagePath"] == "../photos/a.jpg"
    assert (folder / content["imagePath"]).is_file()
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (3, 4, None)
    cat, dog = content["shapes"]
    assert [(shape["label"], shape["shape_type"]) for shape in (cat, dog)] == [
        ("cat", "polygon"),
        (NAMES[2], "polygon"),
    ]
    assert dog["points"] == [[3, 1], [4, 1], [4, 3], [3, 3]]
    assert (folder / "labels.txt").read_text() == f"__ignore__\n_background_\ncat\n{NAMES[2]}\n"
    assert (folder / "order.csv").read_text() == "file,confidence\na.jpg,\n"


@pytest.mark.parametrize("shapes", ["polygons", "masks"])
def test_a_cvat_file(tmp_path, shapes):
    empty = np.zeros((2, 2), np.uint8)
    folder = exported(tmp_path, "cvat", {"a": TWO_AREAS, "b": empty}, Settings(least=1, tolerance=0, shapes=shapes))
    first, second = ElementTree.parse(folder / "annotations.xml").getroot().findall("image")
    assert first.attrib == {"id": "0", "name": "a.jpg", "width": "4", "height": "3"}
    assert [(shape.tag, shape.get("label")) for shape in first] == [(shapes[:-1], "cat"), (shapes[:-1], NAMES[2])]
    if shapes == "masks":
        assert first[0].get("rle") == "0, 4, 1, 4"  # row by row: four of the cat, the hole, four of the cat
        assert [first[1].get(key) for key in ("left", "top", "width", "height")] == ["3", "1", "1", "2"]
    else:
        assert first[1].get("points") == "3.00,1.00;4.00,1.00;4.00,3.00;3.00,3.00"
    assert [(shape.tag, shape.get("label")) for shape in second] == [("tag", "background")]
    labels = json.loads((folder / "labels.json").read_text())
    assert [label["name"] for label in labels] == list(NAMES)
    assert [label["color"] for label in labels] == ["#000000", "#800000", "#008000"]


def test_label_studio_s_tasks(tmp_path):
    confidences = {"a b": np.full((3, 4), 0.5), "c": np.full((3, 4), 0.9)}
    masks = {"a b": TWO_AREAS, "c": TWO_AREAS}
    folder = exported(tmp_path, "label-studio", masks, EXACT, confidences=confidences)
    first, second = json.loads((folder / "tasks.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=a%20b.jpg"}
    assert first["predictions"][0]["score"] == pytest.approx(0.5, abs=0.01)
    assert second["predictions"][0]["score"] == pytest.approx(0.9, abs=0.01)
    result = first["predictions"][0]["result"][0]
    assert (result["original_width"], result["original_height"], result["image_rotation"]) == (4, 3, 0)
    assert result["value"]["brushlabels"] == ["cat"]
    interface = ElementTree.parse(folder / "labels.xml").getroot()
    assert interface.find("Image").attrib["name"] == result["to_name"]
    control = interface.find("BrushLabels")
    assert (control.get("name"), control.get("toName")) == (result["from_name"], result["to_name"])
    assert [label.get("value") for label in control] == list(NAMES[1:])


def test_label_studio_s_polygons_are_in_percent_of_the_image(tmp_path):
    folder = exported(tmp_path, "label-studio", {"a": TWO_AREAS}, Settings(1, 0, shapes="polygons", prefix="http://h/"))
    (task,) = json.loads((folder / "tasks.json").read_text())
    assert task["data"] == {"image": "http://h/a.jpg"}
    assert "score" not in task["predictions"][0]
    result = task["predictions"][0]["result"][1]
    assert (result["type"], result["from_name"]) == ("polygonlabels", "polygon")
    thirds = [[75, 100 / 3], [100, 100 / 3], [100, 100], [75, 100]]
    assert result["value"] == {"points": [pytest.approx(point) for point in thirds], "closed": True} | {
        "polygonlabels": [NAMES[2]]
    }


def test_pycocotools_reads_the_coco_file(tmp_path, capsys):
    masks = drawn() | {"dotted.name": TWO_AREAS}
    folder = exported(tmp_path, "coco", masks, Settings(least=1, prefix="sub/"))
    coco = COCO(str(folder / "annotations.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == [f"sub/{name}.jpg" for name in sorted(masks)]
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == {*NAMES[1:], "__ignore__"}
    values = {one["id"]: [*NAMES, "__ignore__"].index(one["name"]) for one in coco.loadCats(coco.getCatIds())}
    for image in coco.dataset["images"]:
        expected = masks[Path(image["file_name"]).stem]
        found = np.zeros_like(expected)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(one).astype(bool)
            found[mask] = 255 if values[one["category_id"]] == 3 else values[one["category_id"]]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (one["area"], one["bbox"], one["iscrowd"]) == (mask.sum(), box, 0)
        np.testing.assert_array_equal(found, expected)


# --- the order, and what is left out ---


@pytest.mark.parametrize("kind", ["confidences", "scores"])
def test_the_least_sure_images_come_first(tmp_path, execution, kind):
    rng = np.random.default_rng(1)
    masks = dict.fromkeys("abcde", TWO_AREAS)
    scores = {name: rng.dirichlet(np.full(3, 2.0 + ord(name) % 3), (3, 4)).transpose(2, 0, 1) for name in masks}
    if kind == "scores":
        predictions = publish(tmp_path, masks, scores={name: one.astype(np.float32) for name, one in scores.items()})
    else:
        predictions = publish(tmp_path, masks, confidences={name: one.max(0) for name, one in scores.items()})
    asked = Settings(least=1, first=3)
    figures = export_annotations(
        TOOLS["cvat"], predictions, tmp_path / "out", ImageFolder(tmp_path / "photos"), asked, execution
    )
    assert (figures["images"], figures["order"].partition(",")[0]) == (3, "least sure first")
    mean = {
        name: float(np.mean([max(one[:, row, column]) for row in range(3) for column in range(4)]))
        for name, one in scores.items()
    }
    expected = sorted(mean, key=lambda name: mean[name])[:3]
    rows = (tmp_path / "out" / "order.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"{name}.jpg" for name in expected]
    assert [float(row.split(",")[1]) for row in rows] == pytest.approx([mean[name] for name in expected], abs=0.005)


def test_the_images_of_a_list_come_in_its_order(tmp_path, execution):
    artifact = publish(tmp_path, drawn(5))
    every = list(drawn(5))
    (tmp_path / "label-next.csv").write_text(f"id,doubt\n{every[3]},0.5\n{every[1]}.jpg,0.4\n{every[2]},0.1\n")
    settings = Settings(only=tmp_path / "label-next.csv", first=2)
    figures = export_annotations(
        TOOLS["labelme"], artifact, tmp_path / "out", ImageFolder(tmp_path / "photos"), settings, execution
    )
    assert figures["images"] == 2
    rows = (tmp_path / "out" / "order.csv").read_text().splitlines()
    assert rows == ["file,confidence", f"{every[3]}.jpg,", f"{every[1]}.jpg,"]
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.json")) == sorted([every[1], every[3]])


def test_an_image_of_a_list_that_was_not_predicted_is_an_error(tmp_path, execution):
    artifact = publish(tmp_path, drawn(2))
    (tmp_path / "list.txt").write_text(f"{next(iter(drawn(2)))}\nnobody\n")
    with pytest.raises(DataError, match=r"1 id of .*list\.txt is not in 'predictions': nobody"):
        export_annotations(
            TOOLS["coco"],
            artifact,
            tmp_path / "out",
            ImageFolder(tmp_path / "photos"),
            Settings(only=tmp_path / "list.txt"),
            execution,
        )
    assert not (tmp_path / "out").exists()


def test_small_areas_and_images_beyond_the_first_are_counted(tmp_path, execution):
    predictions = publish(tmp_path, {"a": TWO_AREAS, "b": TWO_AREAS})
    asked = Settings(least=3, first=1)
    figures = export_annotations(
        TOOLS["coco"], predictions, tmp_path / "out", ImageFolder(tmp_path / "photos"), asked, execution
    )
    assert {key: figures[key] for key in ("images", "areas", "left_out", "empty")} == {
        "images": 1,
        "areas": 1,
        "left_out": 1,
        "empty": 0,
    }
    assert figures["order"].startswith("by file name")


def test_what_cannot_be_exported_is_one_error_and_leaves_nothing(tmp_path, execution):
    predictions = publish(tmp_path, {"a": TWO_AREAS})
    photos = ImageFolder(tmp_path / "photos")
    (tmp_path / "there").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "there" / "a.png")
    before = sorted(tmp_path.iterdir())
    for error, words, tool, folder, images, asked in [
        (UsageError, "there exists already", "cvat", "there", photos, EXACT),
        (UsageError, "there is no folder", "cvat", "none/out", photos, EXACT),
        (UsageError, "LabelMe is given polygons, not masks", "labelme", "out", photos, Settings(shapes="masks")),
        (DataError, "are not known", "coco", "out", None, EXACT),
        (DataError, "a.png is 4x3|expected .*9x9", "coco", "out", ImageFolder(tmp_path / "there"), EXACT),
    ]:
        with pytest.raises(error, match=words) as caught:
            export_annotations(TOOLS[tool], predictions, tmp_path / folder, images, asked, execution)
        assert caught.value.hint
        assert sorted(tmp_path.iterdir()) == before
    Image.new("RGB", (9, 9)).save(tmp_path / "there" / "b.png")
    (tmp_path / "there" / "a.png").unlink()
    there = ImageFolder(tmp_path / "there")
    with pytest.raises(DataError, match="1 id of 'predictions' is not in"):
        export_annotations(TOOLS["coco"], predictions, tmp_path / "out", there, EXACT, execution)


def test_probabilities_alone_cannot_be_exported(tmp_path, execution):
    work = Work("predict", 1, "predictions", digest([1]), {"images": ""}, {}, {})
    workspace = Workspace(tmp_path / "ws")
    with workspace.writing("predictions", work) as writer:
        writer.write_json("classes.json", {"class_names": list(NAMES), "ids": ["a"], "splits": []})
        workspace.publish("predictions", writer, work, {})
    predictions = workspace.artifact("predictions")
    with pytest.raises(ArtifactError, match="has no masks"):
        export_annotations(TOOLS["coco"], predictions, tmp_path / "out", None, EXACT, execution)


# --- real masks ---


@pytest.mark.real
@pytest.mark.skipif("SEMISEG_TEST_DATA" not in os.environ, reason="SEMISEG_TEST_DATA names no folder of real images")
@pytest.mark.parametrize(("tool", "shapes"), WAYS)
def test_masks_of_voc_come_back(tmp_path, tool, shapes):
    folder = Path(os.environ["SEMISEG_TEST_DATA"]) / "data" / "voc-animals" / "SegmentationClass"
    masks = {path.stem: read_mask(path) for path in sorted(folder.glob("*.png"))[::50]}
    out = exported(tmp_path, tool, masks, Settings(least=1, tolerance=0, shapes=shapes), classes=VOC_CLASS_NAMES)
    dataset = read_back(tmp_path, tool, out, VOC_CLASS_NAMES)
    assert len(masks) >= 10
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(dataset.mask(image_id), mask, err_msg=image_id)
    close = exported(tmp_path, tool, masks, Settings(shapes=shapes), classes=VOC_CLASS_NAMES, folder="close")
    dataset = read_back(tmp_path, tool, close, VOC_CLASS_NAMES, "close-back")
    for image_id, mask in masks.items():  # with the settings that people use, edges move and specks are left out
        assert (dataset.mask(image_id) == mask).mean() > 0.97, image_id
