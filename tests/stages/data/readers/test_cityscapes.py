"""The Cityscapes reader on a tiny tree: labels, splits, coarse masks, the ways the archives get unpacked, mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.masks import write_mask
from artifacts.store import Artifact, Workspace
from stages.config import build
from stages.contract import Execution, load_stage
from stages.data.config import CITYSCAPES_CLASS_NAMES
from stages.data.preparation_config import PrepareDataConfig
from stages.data.readers.cityscapes import BLACK, read_label_image
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE

WIDTH, HEIGHT = 64, 32
ROAD, SIDEWALK, RAIL_TRACK, BUILDING, SKY, CAR, BICYCLE = 7, 8, 10, 11, 23, 26, 33  # label ids, from labels.py

# name, id and train id of every label that is drawn, as labels.py has them.
LABELS_PY = """
unlabeled 0 255|ego vehicle 1 255|rectification border 2 255|out of roi 3 255|static 4 255|dynamic 5 255|ground 6 255
road 7 0|sidewalk 8 1|parking 9 255|rail track 10 255|building 11 2|wall 12 3|fence 13 4|guard rail 14 255|bridge 15 255
tunnel 16 255|pole 17 5|polegroup 18 255|traffic light 19 6|traffic sign 20 7|vegetation 21 8|terrain 22 9|sky 23 10
person 24 11|rider 25 12|car 26 13|truck 27 14|bus 28 15|caravan 29 255|trailer 30 255|train 31 16|motorcycle 32 17
bicycle 33 18
"""


def labels_py() -> list[tuple[str, int, int]]:
    rows = [row.rsplit(" ", 2) for line in LABELS_PY.split("\n") for row in line.split("|") if row]
    return [(name, int(label_id), int(train_id)) for name, label_id, train_id in rows]


TRAIN_ID = {label_id: train_id for _, label_id, train_id in labels_py()}


class Tree:
    """The official layout with 3 images of train, 2 of val, 1 of test, 2 of train_extra and the black one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label_images: dict[str, np.ndarray] = {}
        for image_id, ids in {
            "aachen_000000_000019": (ROAD, CAR),
            "aachen_000001_000019": (ROAD, SKY, BUILDING),
            "bochum_000000_000313": (SIDEWALK, RAIL_TRACK),
        }.items():
            self.add("train", "gtFine", image_id, ids)
        self.add("val", "gtFine", "munster_000000_000019", (ROAD, BICYCLE))
        self.add("val", "gtFine", "munster_000001_000019", (SKY,))
        self.add("test", "gtFine", "berlin_000000_000019", ())  # a dummy: everything is out of roi
        for image_id, ids in {"bonn_000000_000019": (CAR,), "troisdorf_000000_000072": (ROAD, SKY), BLACK: ()}.items():
            self.add("train_extra", "gtCoarse", image_id, ids)
        self.add("train", "gtCoarse", "aachen_000000_000019", (BICYCLE,), image=False)  # never to be read

    def add(self, split: str, kind: str, image_id: str, ids: tuple[int, ...], image: bool = True) -> None:
        city = image_id.split("_")[0]
        label_image = np.full((HEIGHT, WIDTH), 3 if split == "test" else 0, np.uint8)
        for place, label_id in enumerate(ids):
            label_image[4:28, 2 + 20 * place : 20 + 20 * place] = label_id
        folder = self.root / kind / split / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label_image).save(folder / f"{image_id}_{kind}_labelIds.png")
        Image.fromarray(label_image.astype(np.uint16) * 1000).save(folder / f"{image_id}_{kind}_instanceIds.png")
        (folder / f"{image_id}_{kind}_polygons.json").write_text("{}")
        if image:
            self.label_images[image_id] = label_image
            folder = self.root / "leftImg8bit" / split / city
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(len(self.label_images)).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{image_id}_leftImg8bit.png")

    def move(self, kind: str, into: str, *splits: str) -> None:
        """The folders of these splits as they lie when their archive was extracted into a folder of its own."""
        for split in splits:
            target = self.root / into / kind / split
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / kind / split).rename(target)


def by_hand(label_image: np.ndarray) -> np.ndarray:
    """The train ids of a label image, pixel by pixel."""
    return np.array([[TRAIN_ID[int(value)] for value in row] for row in label_image], np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "cityscapes")


@pytest.fixture
def prepare(tree: Tree, tmp_path: Path) -> Callable[..., Artifact]:
    def run(name: str = "data", workers: int = 1, **settings: Any) -> Artifact:
        own = {"source": str(settings.pop("source", tree.root))}
        own |= {key: settings.pop(key) for key in ("coarse",) if key in settings}
        values = {"dataset": {"name": "cityscapes", **own}, "allow_subset": True} | settings
        config = build(PrepareDataConfig, values, "test")
        return run_stage(STAGE, config, Workspace(tmp_path / "ws"), name, {}, Execution(workers=workers)).artifact

    return run


# ------------------------------------------------------------------------------------------------- masks


def test_the_classes_are_those_of_labels_py():
    names = [name for name, _, train_id in labels_py() if train_id != 255]
    assert names == list(CITYSCAPES_CLASS_NAMES)


@settings(max_examples=30)
@given(label_image=arrays.arrays(np.uint8, (5, 7), elements=st.integers(0, 33)))
def test_label_ids_become_train_ids(tmp_path_factory, label_image):
    folder = tmp_path_factory.mktemp("masks")
    path = folder / "a_000000_000000_gtFine_labelIds.png"
    Image.fromarray(label_image).save(path)
    np.testing.assert_array_equal(read_label_image(path), by_hand(label_image))
    path = folder / "a_000000_000000_gtFine_labelTrainIds.png"
    write_mask(path, by_hand(label_image))
    np.testing.assert_array_equal(read_label_image(path), by_hand(label_image))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("labelIds", 255, "values 255, expected the label ids 0..33"),
        ("labelIds", 34, "values 34, expected the label ids"),
        ("labelTrainIds", 26, r"values 26, expected the train ids 0..18 and 255"),
        ("labelTrainIds", 19, r"values 19, expected the train ids"),
    ],
)
def test_ids_of_the_other_kind_are_refused(tmp_path, name, value, expected):
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 2] = value
    path = tmp_path / f"a_000000_000000_gtFine_{name}.png"
    write_mask(path, mask)
    with pytest.raises(DataError, match=expected):
        read_label_image(path)


# ------------------------------------------------------------------------------------------------- the data set


def test_splits_masks_and_labels(prepare, tree):
    artifact = prepare()
    dataset = Dataset(artifact)
    assert dataset.class_names == CITYSCAPES_CLASS_NAMES
    assert not dataset.has_background
    assert {split: dataset.ids(split) for split in dataset.splits if dataset.ids(split)} == {
        "train": ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"),
        "val": ("munster_000000_000019", "munster_000001_000019"),
        "test": ("berlin_000000_000019",),
    }
    for image_id in (*dataset.ids("train"), *dataset.ids("val")):
        np.testing.assert_array_equal(dataset.mask(image_id), by_hand(tree.label_images[image_id]))
        assert dataset.image(image_id).shape == (HEIGHT, WIDTH, 3)
    assert not dataset.has_mask("berlin_000000_000019")  # its mask is a dummy
    assert [dataset.tags(image_id) for image_id in dataset.ids("train")] == [(0, 13), (0, 2, 10), (1,)]
    assert artifact.summary["tag_source"] == "masks"
    assert artifact.summary["deviations"] == [
        "train has 3 images, expected 2,975",
        "val has 2 images, expected 500",
        "test has 1 images, expected 1,525",
    ]
    assert dataset.image_path("bochum_000000_000313").parent.parent == tree.root / "leftImg8bit" / "train"


def test_two_processes_give_the_same(prepare):
    one, two = prepare("one", coarse="weak"), prepare("two", workers=2, coarse="weak")
    assert one.manifest.content == two.manifest.content


def test_coarse_images_are_weak(prepare, tree):
    artifact = prepare(coarse="weak")
    dataset = Dataset(artifact)
    assert dataset.ids("weak") == ("bonn_000000_000019", "troisdorf_000000_000072")
    for image_id in dataset.ids("weak"):
        np.testing.assert_array_equal(dataset.mask(image_id), by_hand(tree.label_images[image_id]))
    assert [dataset.tags(image_id) for image_id in dataset.ids("weak")] == [(13,), (0, 10)]
    assert dataset.tags("aachen_000000_000019") == (0, 13)  # of the fine mask
    assert "train_extra has 2 images, expected 19,997" in artifact.summary["deviations"]
    assert artifact.summary["masks"] == {"official": 5, "other": 2, "none": 1}
    labelled = Dataset(prepare("more", coarse="weak", labelled=5, labelled_from="all"))
    assert len(labelled.ids("train")) == 5


def test_coarse_images_are_unlabelled(prepare, tree):
    shutil.rmtree(tree.root / "gtCoarse")  # not needed
    dataset = Dataset(prepare(coarse="unlabelled"))
    assert dataset.ids("unlabelled") == ("bonn_000000_000019", "troisdorf_000000_000072")
    assert dataset.ids("weak") == ()
    assert not dataset.has_mask("bonn_000000_000019")
    assert not dataset.has_tags("bonn_000000_000019")


@pytest.mark.parametrize("coarse", ["weak", "unlabelled"])
def test_the_black_image_is_left_out_whether_it_is_there_or_not(prepare, tree, coarse):
    before = prepare(coarse=coarse)
    (tree.root / "leftImg8bit" / "train_extra" / "troisdorf" / f"{BLACK}_leftImg8bit.png").unlink()
    assert prepare("after", coarse=coarse).manifest.content == before.manifest.content


def test_without_the_test_images_there_is_no_split_test(prepare, tree):
    shutil.rmtree(tree.root / "leftImg8bit" / "test")
    artifact = prepare()
    assert Dataset(artifact).ids("test") == ()
    assert "test" not in artifact.summary["expected"]


def test_train_ids_serve_where_label_ids_lack(prepare, tree):
    folder = tree.root / "gtFine" / "train" / "aachen"
    label_ids = folder / "aachen_000000_000019_gtFine_labelIds.png"
    train_ids = folder / "aachen_000000_000019_gtFine_labelTrainIds.png"
    write_mask(train_ids, np.full((HEIGHT, WIDTH), 18, np.uint8))
    assert Dataset(prepare("both")).tags("aachen_000000_000019") == (0, 13)
    label_ids.unlink()
    assert Dataset(prepare("one")).tags("aachen_000000_000019") == (18,)


def test_a_published_list_chooses_the_labelled_images(prepare, tmp_path):
    path = tmp_path / "labelled.txt"
    path.write_text(
        "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png "
        "gtFine/train/aachen/aachen_000001_000019_gtFine_labelTrainIds.png"
    )
    dataset = Dataset(prepare(labelled=str(path), others="unlabelled"))
    assert dataset.ids("train") == ("aachen_000001_000019",)
    assert dataset.ids("unlabelled") == ("aachen_000000_000019", "bochum_000000_000313")


def test_some_classes_and_no_background_to_send_the_others_to(prepare, tree):
    dataset = Dataset(prepare(classes="car,road"))
    assert dataset.class_names == ("car", "road")
    assert dataset.tags("aachen_000000_000019") == (0, 1)
    assert dataset.tags("bochum_000000_000313") == ()
    assert set(np.unique(dataset.mask("aachen_000001_000019"))) == {1, 255}
    with pytest.raises(DataError, match="has no class background that others could become"):
        prepare(classes="car,road", other_classes="background")
    with pytest.raises(ConfigError, match="did you mean 'motorcycle'"):
        prepare(classes="motorcyle")


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "source",
    [".", "leftImg8bit", "leftImg8bit/train", "gtFine", "gtFine/val", ".."],
    ids=["itself", "images", "a split", "masks", "a split of masks", "its parent"],
)
def test_the_source_may_point_too_low_or_too_high(prepare, tree, source):
    whole = prepare("whole")
    found = prepare("found", source=tree.root / source)
    assert found.manifest.content == whole.manifest.content


@pytest.mark.parametrize("source", [".", "leftImg8bit_trainvaltest", "gtFine_trainvaltest/gtFine"])
def test_archives_extracted_into_folders_of_their_own(prepare, tree, source):
    whole = Dataset(prepare("whole", coarse="weak"))
    images = {image_id: whole.image(image_id) for ids in whole.splits.values() for image_id in ids}
    tree.move("leftImg8bit", "leftImg8bit_trainvaltest", "train", "val", "test")
    tree.move("leftImg8bit", "leftImg8bit_trainextra", "train_extra")
    tree.move("gtFine", "gtFine_trainvaltest", "train", "val", "test")
    (tree.root / "gtFine" / "train").mkdir()  # an empty folder holds nothing up
    tree.move("gtCoarse", "gtCoarse", "train", "train_extra")
    dataset = Dataset(prepare("own", coarse="weak", source=tree.root / source))
    assert dataset.splits == whole.splits
    for image_id, image in images.items():
        np.testing.assert_array_equal(dataset.image(image_id), image)
        if whole.has_mask(image_id):
            np.testing.assert_array_equal(dataset.mask(image_id), whole.mask(image_id))


def test_two_copies_below_the_source_are_not_chosen_from(prepare, tree, tmp_path):
    shutil.copytree(tree.root, tmp_path / "small")
    with pytest.raises(DataError, match="more than once: cityscapes, small"):
        prepare(source=tmp_path)


def test_files_of_a_mac_are_no_images(prepare, tree):
    for kind, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        (tree.root / kind / "train" / "aachen" / f"._aachen_000000_000019_{name}.png").write_bytes(b"\x00\x05")
    assert len(Dataset(prepare()).ids("train")) == 3


# ------------------------------------------------------------------------------------------------- mistakes


def test_a_subset_is_refused_unless_allowed(prepare):
    with pytest.raises(DataError, match=r"is not all of cityscapes: train has 3 images, expected 2,975"):
        prepare(allow_subset=False)


def test_all_that_lacks_is_told_at_once(prepare, tree):
    shutil.rmtree(tree.root / "gtFine")
    shutil.rmtree(tree.root / "leftImg8bit" / "val")
    shutil.rmtree(tree.root / "gtCoarse" / "train_extra")
    (tree.root / "gtFine_trainvaltest.zip").touch()
    with pytest.raises(DataError) as caught:
        prepare(coarse="weak")
    lines = caught.value.message.splitlines()
    assert [line.split("no files ")[1] for line in lines] == [
        "leftImg8bit/val/CITY/*_leftImg8bit.png (leftImg8bit_trainvaltest.zip brings them)",
        "gtFine/train/CITY/*_gtFine_labelIds.png (gtFine_trainvaltest.zip lies there, to be extracted)",
        "gtFine/val/CITY/*_gtFine_labelIds.png (gtFine_trainvaltest.zip lies there, to be extracted)",
        "gtCoarse/train_extra/CITY/*_gtCoarse_labelIds.png (gtCoarse.zip brings them)",
    ]


def test_a_folder_that_is_no_cityscapes(prepare, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(DataError, match="is not a folder of Cityscapes") as caught:
        prepare(source=folder)
    assert caught.value.hint == "give the folder that holds leftImg8bit and gtFine"
    (folder / "leftImg8bit_trainvaltest.zip").touch()
    with pytest.raises(DataError) as caught:
        prepare(source=folder)
    assert caught.value.hint == "extract leftImg8bit_trainvaltest.zip there"


def test_images_without_masks_and_masks_without_images(prepare, tree):
    (tree.root / "gtFine" / "train" / "bochum" / "bochum_000000_000313_gtFine_labelIds.png").unlink()
    (tree.root / "gtCoarse" / "train_extra" / "bonn" / "bonn_000000_000019_gtCoarse_labelIds.png").unlink()
    with pytest.raises(DataError) as caught:
        prepare(coarse="weak")
    assert caught.value.message.splitlines() == [
        "1 images of train have no mask in gtFine: bochum_000000_000313",
        "1 images of train_extra have no mask in gtCoarse: bonn_000000_000019",
    ]
    (tree.root / "leftImg8bit" / "train" / "bochum" / "bochum_000000_000313_leftImg8bit.png").unlink()
    (tree.root / "leftImg8bit" / "val" / "munster" / "munster_000001_000019_leftImg8bit.png").unlink()
    artifact = prepare()
    assert "1 masks of val have no image: munster_000001_000019" in artifact.summary["deviations"]
    assert len(Dataset(artifact).ids("val")) == 1


def test_polygons_alone_are_no_masks(prepare, tree):
    for path in (tree.root / "gtFine").rglob("*labelIds.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"train has polygons, but no files .*gtFine_labelIds.png"):
        prepare()


def test_what_is_scored_is_not_trained_on(prepare, tree):
    shutil.copytree(tree.root / "leftImg8bit" / "val", tree.root / "leftImg8bit" / "train", dirs_exist_ok=True)
    shutil.copytree(tree.root / "gtFine" / "val", tree.root / "gtFine" / "train", dirs_exist_ok=True)
    with pytest.raises(DataError, match=r"2 ids are in both the training folders and the folder val"):
        prepare()


def test_a_mask_of_another_size_is_named(prepare, tree):
    path = tree.root / "gtFine" / "val" / "munster" / "munster_000000_000019_gtFine_labelIds.png"
    Image.new("L", (WIDTH // 2, HEIGHT // 2)).save(path)
    with pytest.raises(DataError, match=r"munster_000000_000019_gtFine_labelIds.png is 32x16"):
        prepare()


# ------------------------------------------------------------------------------------------------- other stages


@pytest.fixture
def run(prepare: Callable[..., Artifact], tmp_path: Path) -> Callable[..., Artifact]:
    """run(stage, name, inputs, **settings) in the workspace that `prepare` writes to."""

    def run(stage_name: str, name: str, inputs: dict[str, str], **settings: Any) -> Artifact:
        stage = load_stage(stage_name)
        config = build(stage.config, settings, "test")
        execution = Execution(device="cpu", workers=0)
        return run_stage(stage, config, Workspace(tmp_path / "ws"), name, inputs, execution).artifact

    return run


def test_a_method_is_trained_and_scored_without_a_background(prepare, run):
    prepare(labelled=1, others="unlabelled")
    run("train", "cps", {"data": "data"}, method="cps", network="tiny", iterations=1, batch_size=2, crop_size=32)
    run("predict", "found", {"data": "data", "segmenter": "cps"}, splits=["val"])
    summary = run("evaluate", "evaluation", {"data": "data", "predictions": "found"}).summary
    assert list(summary["iou"]) == sorted(CITYSCAPES_CLASS_NAMES)
    assert {name for name, value in summary["iou"].items() if value is not None} >= {"road", "sky", "bicycle"}


def test_stages_that_need_a_background_say_so(prepare, run):
    data = prepare()
    with pytest.raises(DataError, match="train-classifier needs a class background; the data set 'cityscapes' begins"):
        run("train-classifier", "classifier", {"data": "data"}, network="tiny", iterations=1)
    stage = load_stage("seeds")
    with pytest.raises(DataError, match="stage seeds needs a class background; the data set 'cityscapes' begins with"):
        stage.check(build(stage.config, {}, "test"), stage.open({"data": data}))
