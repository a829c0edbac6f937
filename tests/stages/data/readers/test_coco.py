"""The COCO reader on a tiny tree: lists, classes, masks drawn from instances, labels, and every mistake by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact, Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.stages.data.conftest import Notes

CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
WIDTH, HEIGHT = 20, 14


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """The outline of the pixels left..right-1, top..bottom-1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def crowd(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, by a plain loop down the columns."""
    counts, value, run = [], 0, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(run)
            value, run = int(pixel), 0
        run += 1
    return {"counts": [*counts, run], "size": list(mask.shape)}


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("train", {1: [(17, box(2, 2, 12, 10)), (1, box(4, 4, 8, 8))], 2: [], 3: [(90, box(0, 0, 5, 5))]})
        self.add("val", {7: [(1, box(1, 1, 6, 6))]})

    def add(self, split: str, objects_of: dict[int, list[tuple[int, Any]]], **changes: Any) -> None:
        folder = self.root / f"{split}2017"
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number, objects in objects_of.items():
            name = f"{number:012d}.jpg"
            Image.new("RGB", (WIDTH, HEIGHT), (number * 9, 80, 90)).save(folder / name)
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for category, shape in objects:
                annotations.append(
                    {
                        "id": 100 * number + len(annotations),
                        "image_id": number,
                        "category_id": category,
                        "segmentation": shape,
                        "iscrowd": int(isinstance(shape, dict)),
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes
        (self.root / "annotations").mkdir(exist_ok=True)
        (self.root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "coco")


@pytest.fixture
def prepare(tree: Tree, tmp_path: Path) -> Callable[..., Artifact]:
    def run(name: str = "data", workers: int = 1, progress: Any = None, **settings: Any) -> Artifact:
        own = {key: settings.pop(key) for key in ("year", "crowd", "unlabelled") if key in settings}
        values = {"dataset": {"name": "coco", "source": str(tree.root), **own}, "allow_subset": True} | settings
        config = build(PrepareDataConfig, values, "test")
        execution = Execution(workers=workers, **({"progress": progress} if progress else {}))
        return run_stage(STAGE, config, Workspace(tmp_path / "ws"), name, {}, execution).artifact

    return run


def test_lists_classes_masks_and_labels(prepare):
    artifact = prepare()
    dataset = Dataset(artifact)
    assert dataset.class_names == ("background", "person", "cat", "toothbrush")  # by category id, numbered without gaps
    assert dataset.ids("train") == ("000000000001", "000000000002", "000000000003")
    assert dataset.ids("val") == ("000000000007",)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:10, 2:12] = 2
    expected[4:8, 4:8] = 1  # the smaller object lies on top
    np.testing.assert_array_equal(dataset.mask("000000000001"), expected)
    assert not dataset.mask("000000000002").any()
    assert [dataset.tags(i) for i in dataset.ids("train")] == [(1, 2), (), (3,)]
    assert artifact.summary["deviations"] == [
        "train has 3 images, expected 118,287",
        "val has 1 images, expected 5,000",
        "classes has 3 names, expected 80",
    ]
    assert dataset.image_path("000000000007").parent.name == "val2017"


def test_crowds_are_ignored_where_no_object_lies_or_their_class(prepare, tree):
    region = np.zeros((HEIGHT, WIDTH), np.uint8)
    region[1:13, 1:18] = 1
    tree.add("train", {1: [(1, crowd(region)), (17, box(2, 2, 6, 6))]})
    expected = np.where(region == 1, 255, 0).astype(np.uint8)
    expected[2:6, 2:6] = 2
    np.testing.assert_array_equal(Dataset(prepare()).mask("000000000001"), expected)
    expected[expected == 255] = 1
    np.testing.assert_array_equal(Dataset(prepare("class", crowd="class")).mask("000000000001"), expected)
    assert Dataset(prepare()).tags("000000000001") == (1, 2)  # image-level labels count crowds


def test_two_processes_give_the_same(prepare):
    assert prepare("one").manifest.content == prepare("two", workers=2).manifest.content


def test_some_classes_and_a_labelled_share(prepare):
    dataset = Dataset(prepare(classes="cat", labelled=1, labelled_seed=3))
    assert dataset.class_names == ("background", "cat")
    assert (len(dataset.ids("train")), len(dataset.ids("weak"))) == (1, 2)
    assert set(np.unique(dataset.mask("000000000001"))) == {0, 1, 255}


def test_unlabelled_images(prepare, tree):
    with pytest.raises(DataError, match="no images in unlabeled2017"):
        prepare(unlabelled=True)
    (tree.root / "unlabeled2017").mkdir()
    shutil.copy(tree.root / "val2017" / "000000000007.jpg", tree.root / "unlabeled2017" / "000000000050.jpg")
    dataset = Dataset(prepare(unlabelled=True))
    assert dataset.ids("unlabelled") == ("000000000050",)
    assert dataset.image("000000000050").shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ConfigError, match="no effect with year 2014"):
        prepare(unlabelled=True, year=2014)


def test_images_may_lie_below_images(prepare, tree):
    (tree.root / "images").mkdir()
    for split in ("train", "val"):
        (tree.root / f"{split}2017").rename(tree.root / "images" / f"{split}2017")
    assert Dataset(prepare()).image_path("000000000001").parent == tree.root / "images" / "train2017"


def test_a_subset_is_refused_unless_allowed(prepare):
    with pytest.raises(DataError, match=r"train has 3 images, expected 118,287"):
        prepare(allow_subset=False)


def test_what_is_missing_is_named(prepare, tree):
    (tree.root / "train2017" / "000000000003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 images of instances_train2017.json are not in .*: 000000000003"):
        prepare()
    shutil.rmtree(tree.root / "val2017")
    with pytest.raises(DataError, match="no folder val2017"):
        prepare()
    with pytest.raises(DataError, match=r"those of 2017 are there|no instances_train2014.json") as caught:
        prepare(year="2014")
    assert "dataset.year=2017" in str(caught.value.hint)
    shutil.rmtree(tree.root / "annotations")
    with pytest.raises(DataError, match="has no folder annotations"):
        prepare()


def test_an_annotation_without_its_image(prepare, tree):
    annotation = {"id": 5, "image_id": 99, "category_id": 1, "segmentation": box(0, 0, 2, 2), "iscrowd": 0}
    tree.add("train", {1: []}, annotations=[annotation])
    with pytest.raises(DataError, match=r"annotation 5.*99"):
        prepare()


def test_an_image_in_train_and_val(prepare, tree):
    tree.add("val", {1: []})
    with pytest.raises(DataError, match="1 id is in both"):
        prepare()


def test_damaged_annotations(prepare, tree):
    path = tree.root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(DataError, match=r"instances_val2017.json"):
        prepare()


def test_an_edited_annotation_makes_the_data_set_stale(prepare, tree):
    before = prepare().manifest.fingerprint
    tree.add("val", {7: [(1, box(1, 1, 7, 6))]})
    assert prepare().manifest.fingerprint != before


def test_images_of_other_suffixes_and_in_folders_are_found(prepare, tree):
    """People's own data in COCO's layout: PNG, upper case, and file names with folders."""
    folder = tree.root / "train2017"
    (folder / "sub").mkdir()
    Image.open(folder / "000000000001.jpg").save(folder / "000000000001.png")
    (folder / "000000000001.jpg").unlink()
    (folder / "000000000002.jpg").rename(folder / "000000000002.JPG")
    (folder / "000000000003.jpg").rename(folder / "sub" / "000000000003.jpg")
    path = tree.root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace("000000000003.jpg", "sub/000000000003.jpg"))
    dataset = Dataset(prepare())
    assert [dataset.image_path(f"00000000000{n}").relative_to(folder).as_posix() for n in (1, 2, 3)] == [
        "000000000001.png",
        "000000000002.JPG",
        "sub/000000000003.jpg",
    ]


def test_an_image_that_is_not_there_is_named_with_what_is(prepare, tree):
    (tree.root / "val2017" / "000000000007.jpg").rename(tree.root / "val2017" / "seven.jpg")
    with pytest.raises(DataError, match=r"1 images .* 000000000007\.jpg \(there are seven\.jpg\)"):
        prepare()


def test_a_file_name_that_leaves_the_folder_is_not_followed(prepare, tree):
    path = tree.root / "annotations" / "instances_val2017.json"
    (tree.root.parent / "outside.jpg").write_bytes((tree.root / "val2017" / "000000000007.jpg").read_bytes())
    path.write_text(path.read_text().replace("000000000007.jpg", "../outside.jpg"))
    with pytest.raises(DataError, match="1 images"):
        prepare()


def test_what_somebody_drew_wrong_is_refused_and_what_covers_nothing_is_said(prepare, tree):
    """The official files' few outlines without area are known; of one's own files every one is told."""
    tree.add("train", {1: [(17, box(2, 2, 12, 10)), (1, [[0, 0, 1, 1]])], 2: [], 3: []})
    told = Notes()
    prepare(progress=told)
    assert any("left out: 1 shape without area, e.g. 000000000001.jpg: annotation 101" in n for n in told.said)
    tree.add("train", {1: [(17, box(2, 2, 99, 10))], 2: [], 3: []})
    with pytest.raises(DataError, match=r"000000000001\.jpg: annotation 100: its point \(99, 2\) lies outside"):
        prepare("wrong")
