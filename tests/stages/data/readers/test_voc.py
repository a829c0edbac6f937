"""The VOC reader on a tiny devkit: which images, whose masks, which labels, and every mistake by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.store import Workspace
from stages.config import build
from stages.contract import Execution
from stages.data.annotations.image_labels import read_label_file
from stages.data.archives import published
from stages.data.config import VOC_CLASS_NAMES
from stages.data.lists.id_lists import read_list
from stages.data.preparation import class_map
from stages.data.preparation_config import PrepareDataConfig
from stages.data.readers.voc import EXPECTED, Lists, count_deviations, find_devkit, read_sbd_mask
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE
from tests.stages.data.archives.web_server import serving
from tests.stages.data.conftest import Kit, image_mask

CAT, DOG, PERSON, SHEEP = 8, 12, 15, 17


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


# --- which images


def test_trainaug_is_the_union_minus_val_sorted(prepare):
    result = prepare()
    assert result.dataset.ids("train") == ("t1", "t2", "t3", "t4")
    assert result.dataset.ids("weak") == ("s1", "s2", "s3", "s4")
    assert result.dataset.ids("val") == ("v1", "v2")
    assert result.summary["val_ids_removed_from_training_lists"] == 2  # v1 and v2 stand in SBD's lists


def test_without_sbd_lists_the_mat_files_are_the_list(prepare, kit):
    for name in ("train.txt", "val.txt"):
        (kit.sbd / "dataset" / name).unlink()
    assert prepare().dataset.ids("weak") == ("s1", "s2", "s3", "s4")


def test_segmentation_class_aug_serves_instead_of_sbd(prepare, kit):
    folder = kit.root / "SegmentationClassAug"
    shutil.copytree(kit.root / "SegmentationClass", folder)
    Image.fromarray(np.full((18, 24), DOG, np.uint8)).save(folder / "s1.png")
    Image.fromarray(np.full((18, 24), DOG, np.uint8)).save(folder / "t1.png")
    result = prepare(with_sbd=False)
    assert result.dataset.ids("weak") == ("s1",)
    assert (result.dataset.mask("s1") == DOG).all()
    np.testing.assert_array_equal(result.dataset.mask("t1"), pixels(kit.root / "SegmentationClass" / "t1.png"))
    kit.write_list("train_aug.txt", ["t1", "s1", "s4"])
    other = prepare("other", with_sbd=False)
    assert other.dataset.ids("weak") == ("s1", "s4")
    assert not other.dataset.has_mask("s4")
    assert other.summary["masks"] == {"official": 6, "other": 1, "none": 1}
    by_folder = prepare("by-folder", with_sbd=False, sbd=str(folder))
    assert by_folder.dataset.ids("weak") == ("s1", "s4")


def test_weak_split_can_be_left_out(prepare):
    result = prepare(others="none")
    assert result.dataset.ids("weak") == ()
    assert not result.dataset.has_mask("s1")


def test_official_counts_pass_and_others_are_named():
    ids = [str(number) for number in range(20000)]

    def lists(train: int, trainaug: int, val: int) -> Lists:
        return Lists(tuple(ids[:train]), tuple(ids[:trainaug]), tuple(ids[:val]), 0)

    assert count_deviations(lists(**EXPECTED)) == []
    assert count_deviations(lists(1464, 11355, 1449)) == [
        "trainaug has 11,355 ids, expected 10,582 (11,355 is SBD with its VOC val images)"
    ]
    assert "5,623 is SBD's train_noval.txt" in count_deviations(lists(1464, 5623, 1449))[0]


def test_a_subset_is_refused_unless_allowed(prepare):
    with pytest.raises(DataError) as caught:
        prepare(allow_subset=False)
    for part in ("train has 4 ids, expected 1,464", "trainaug has 8 ids, expected 10,582", "val has 2 ids"):
        assert part in caught.value.message
    assert "--allow-subset" in caught.value.hint
    summary = prepare().summary
    assert summary["found"] == {"train": 4, "trainaug": 8, "val": 2}
    assert len(summary["deviations"]) == 3


def test_train_and_val_lists_that_overlap(prepare, kit):
    kit.write_list("val.txt", ["v1", "t2", "v2"])
    with pytest.raises(DataError, match=r"1 id is in both .*train.txt and val.txt: t2"):
        prepare()


def test_ids_without_files_are_listed_at_once(prepare, kit):
    kit.write_list("train.txt", ["t1", "t2", "t3", "t4", *(f"ghost{n}" for n in range(7))])
    (kit.root / "SegmentationClass" / "v2.png").unlink()
    (kit.sbd / "dataset" / "cls" / "v2.mat").unlink()
    with pytest.raises(DataError) as caught:
        prepare()
    assert "7 ids of train have no image" in caught.value.message
    assert "ghost0, ghost1, ghost2, ghost3, ghost4 and 2 more" in caught.value.message
    assert "7 ids of train have no mask" in caught.value.message
    assert "1 id of val has no mask: v2" in caught.value.message


def test_the_devkit_is_found_from_its_parents(kit, tmp_path):
    for source in (tmp_path, kit.root.parent, kit.root):
        assert find_devkit(source).root == kit.root
    with pytest.raises(DataError, match="no folder JPEGImages"):
        find_devkit(kit.sbd)
    shutil.rmtree(kit.lists)
    with pytest.raises(DataError, match="no folder ImageSets/Segmentation"):
        find_devkit(kit.root)


def test_sbd_folder_without_masks(prepare, kit):
    with pytest.raises(DataError, match="neither SBD's folder cls"):
        prepare(with_sbd=False, sbd=str(kit.root / "JPEGImages"))


# --- the labelled list


@pytest.mark.parametrize(
    "text",
    [
        "t2\ns4\n",
        "/JPEGImages/t2.jpg /SegmentationClassAug/t2.png\n/JPEGImages/s4.jpg /SegmentationClassAug/s4.png\n",
        "JPEGImages/t2.jpg SegmentationClass/t2.png\nJPEGImages/s4.jpg SegmentationClass/s4.png",
        "t2.jpg 0\ns4.jpg 1\n",
        "t2 11\ns4 7 14\n",
    ],
)
def test_labelled_list_in_every_dialect(prepare, tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    result = prepare(labelled=str(tmp_path / "list.txt"))
    assert result.dataset.ids("train") == ("s4", "t2")
    assert result.dataset.ids("weak") == ("s1", "s2", "s3", "t1", "t3", "t4")
    labelled = result.summary["labelled"]
    assert (labelled["count"], labelled["official"], labelled["official_share"]) == (2, 1, 0.5)
    assert "sheep" in labelled["classes_without_an_image"]
    assert "cat" not in labelled["classes_without_an_image"]


def test_labelled_number_and_fraction_are_nested(prepare):
    half = prepare("half", labelled="1/2").dataset.ids("train")
    quarter = prepare("quarter", labelled=0.25).dataset.ids("train")
    three = prepare("three", labelled=3).dataset.ids("train")
    assert (len(quarter), len(half), len(three)) == (1, 2, 3)
    assert set(quarter) < set(half) < set(three) < {"t1", "t2", "t3", "t4"}
    every = prepare("every", labelled="8", labelled_from="all").dataset
    assert len(every.ids("train")) == 8
    assert every.ids("weak") == ()
    with pytest.raises(ConfigError, match="asks for 5 images, the list to draw from has 4"):
        prepare("five", labelled=5)


def test_labelled_images_set_aside_are_in_no_training_list(prepare, tmp_path):
    (tmp_path / "dev.txt").write_text("t2\n")
    plain = prepare("plain", labelled=3)
    result = prepare("held", labelled=3, holdout=str(tmp_path / "dev.txt"))
    assert "t2" in plain.dataset.ids("train")  # one of the first three of this draw
    assert result.dataset.ids("holdout") == ("t2",)
    assert set(result.dataset.ids("train")) == set(plain.dataset.ids("train")) - {"t2"}
    assert result.dataset.ids("weak") == plain.dataset.ids("weak")
    assert result.dataset.has_mask("t2")
    assert result.dataset.tags("t2") == plain.dataset.tags("t2")
    assert result.summary["labelled"]["held_out"] == 1
    assert result.summary["labelled"]["sha256_of_sorted_ids"] == plain.summary["labelled"]["sha256_of_sorted_ids"]
    (tmp_path / "dev.txt").write_text("v1\n")
    with pytest.raises(DataError, match=r"1 id of the holdout list .* is not in the labelled images: v1"):
        prepare("val", labelled=3, holdout=str(tmp_path / "dev.txt"))


def test_the_content_of_a_holdout_list_counts(prepare, tmp_path):
    (tmp_path / "dev.txt").write_text("t1\n")
    first = prepare(holdout=str(tmp_path / "dev.txt"))
    (tmp_path / "dev.txt").write_text("t2\n")
    assert (
        prepare(holdout=str(tmp_path / "dev.txt")).artifact.manifest.fingerprint != first.artifact.manifest.fingerprint
    )


def test_labelled_list_that_overlaps_val(prepare, tmp_path):
    (tmp_path / "list.txt").write_text("t1\nv1\nv2\n")
    with pytest.raises(DataError, match=r"2 ids are in both the labelled list .* and val: v1, v2"):
        prepare(labelled=str(tmp_path / "list.txt"))


def test_labelled_list_with_unknown_ids(prepare, tmp_path):
    (tmp_path / "list.txt").write_text("t1\nnowhere\n")
    with pytest.raises(DataError, match=r"1 id of the labelled list .*: nowhere"):
        prepare(labelled=str(tmp_path / "list.txt"))


def test_labelled_image_without_mask(prepare, kit, tmp_path):
    (kit.sbd / "dataset" / "cls" / "s4.mat").unlink()
    (tmp_path / "list.txt").write_text("t1\ns4\n")
    with pytest.raises(DataError, match="1 id of train has no mask: s4"):
        prepare(labelled=str(tmp_path / "list.txt"))
    assert prepare("default").summary["masks"]["none"] == 1  # as a weak image it needs none


# --- masks


def test_voc_mask_wins_over_sbd(prepare, kit):
    result = prepare()
    for image_id in ("t1", "v1", "v2"):
        expected = pixels(kit.root / "SegmentationClass" / f"{image_id}.png")
        np.testing.assert_array_equal(result.dataset.mask(image_id), expected)
    assert 255 in result.dataset.mask("t1")
    assert set(np.unique(result.dataset.mask("s2"))) == {0, DOG, SHEEP}
    assert result.summary["masks"] == {"official": 6, "other": 4, "none": 0}


def test_kept_classes_are_renumbered_and_the_others_ignored(prepare, kit):
    result = prepare(classes="dog,cat")
    assert result.dataset.class_names == ("background", "dog", "cat")
    new_id = {0: 0, 255: 255, DOG: 1, CAT: 2, PERSON: 255}
    for image_id in ("t3", "t4", "v2"):
        before = pixels(kit.root / "SegmentationClass" / f"{image_id}.png")
        after = [[new_id[int(value)] for value in row] for row in before]  # a plain loop
        np.testing.assert_array_equal(result.dataset.mask(image_id), after)
    assert [result.dataset.tags(i) for i in ("t1", "t2", "t3", "t4", "s2", "s4")] == [
        (2,),
        (1,),
        (1, 2),
        (),
        (1,),
        (2,),
    ]


def test_class_map_of_all_classes_changes_nothing():
    table = class_map(VOC_CLASS_NAMES, VOC_CLASS_NAMES, "ignore")
    assert table[:21].tolist() == list(range(21))
    assert (table[21:] == 255).all()


def test_images_without_a_kept_class_stay_or_go(prepare):
    kept = prepare("kept", classes=["dog"])
    assert kept.dataset.ids("train") == ("t1", "t2", "t3", "t4")
    assert kept.summary["images_without_kept_class"] == 5  # t1, t4, s1, s3, s4
    dropped = prepare("dropped", classes=["dog"], without_kept_class="drop", copy_images=True)
    assert dropped.dataset.ids("train") == ("t2", "t3")
    assert dropped.dataset.ids("weak") == ("s2",)
    assert dropped.dataset.ids("val") == ("v1", "v2")  # v1 shows no dog and is scored all the same
    for folder in ("images", "masks"):
        assert sorted(p.stem for p in (dropped.artifact.path / folder).iterdir()) == ["s2", "t2", "t3", "v1", "v2"]


def test_mask_with_colours(prepare, kit):
    Image.new("RGB", (24, 18), (192, 0, 128)).save(kit.root / "SegmentationClass" / "t2.png")
    with pytest.raises(DataError, match=r"t2.png has mode RGB: a colour image"):
        prepare()


def test_mask_of_another_size_than_its_image(prepare, kit):
    kit.add_image("t3", size=(30, 18))
    kit.add_image("s1", size=(24, 20))
    with pytest.raises(DataError) as caught:
        prepare(workers=2)
    assert "2 images cannot be used" in caught.value.message
    assert "t3.png is 24x18 (width x height), expected 30x18" in caught.value.message
    assert "s1.mat is 24x18 (width x height), expected 24x20" in caught.value.message


def test_mask_with_a_value_outside_the_classes(prepare, kit):
    mask = pixels(kit.root / "SegmentationClass" / "t4.png")
    mask[0, :3] = 33
    Image.fromarray(mask).save(kit.root / "SegmentationClass" / "t4.png")
    with pytest.raises(DataError, match=r"t4.png has values outside the classes: 33 \(3 px\)"):
        prepare(classes=["cat"])


def test_truncated_image_is_found_when_asked_for(prepare, kit):
    path = kit.root / "JPEGImages" / "s3.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"s3.jpg cannot be read"):
        prepare(verify_images=True)
    result = prepare()  # the header is whole
    with pytest.raises(DataError, match=r"id s3 .*s3.jpg cannot be read"):
        result.dataset.image("s3")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"s3.jpg cannot be read"):
        prepare("again")


def test_sbd_file_that_is_damaged_or_no_class_mask(prepare, kit):
    path = kit.sbd / "dataset" / "cls" / "s1.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"s1.mat cannot be read as an SBD annotation"):
        prepare()
    path.write_bytes(whole)
    assert set(np.unique(read_sbd_mask(path))) == {0, CAT}
    kit.add_sbd_mask("s1", [99])
    with pytest.raises(DataError, match=r"values 0..99, expected class ids 0..20"):
        prepare()


# --- labels


def test_labels_come_from_xml_and_say_so(prepare, kit):
    kit.add_xml("t1", [CAT, SHEEP])  # the sheep is not in the mask
    kit.add_xml("t2", [])
    result = prepare()
    assert (result.dataset.tag_source, result.summary["tag_source"]) == ("xml", "xml")
    assert result.dataset.tags("t1") == (CAT, SHEEP)
    assert result.dataset.tags("t2") == ()
    assert result.summary["masks_with_classes_that_are_no_label"] == 1  # t2
    assert result.summary["images_with_labels_their_mask_does_not_show"] == 1  # t1
    assert prepare("masks", tag_source="masks").dataset.tags("t1") == (CAT,)


def test_labels_are_found_in_xml_then_file_then_masks(prepare, kit):
    (kit.root / "Annotations" / "s4.xml").unlink()
    assert prepare("masks").dataset.tag_source == "masks"
    lines = "".join(f"{split}{n} dog cat\n" for split in "ts" for n in range(1, 5))
    (kit.root / "image_labels.txt").write_text(lines)
    result = prepare("file")
    assert result.dataset.tag_source == "file"
    assert result.dataset.tags("s4") == (CAT, DOG)
    with pytest.raises(DataError, match="1 training images have no labels in the source 'xml': s4"):
        prepare("xml", tag_source="xml")
    (kit.root / "image_labels.txt").unlink()
    (kit.sbd / "dataset" / "cls" / "s4.mat").unlink()
    with pytest.raises(DataError, match="labels for only some of the 8 training images: xml 7, masks 7"):
        prepare("none")


def test_label_file_by_name_counts_by_content(prepare, kit, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{split}{n} sheep\n" for split in "ts" for n in range(1, 5)))
    result = prepare(tag_file=str(path))
    assert result.dataset.tag_source == "file"
    assert result.dataset.tags("t1") == (SHEEP,)
    before = result.artifact.manifest.fingerprint
    path.write_text("".join(f"{split}{n} dog\n" for split in "ts" for n in range(1, 5)))
    again = prepare(tag_file=str(path))
    assert again.artifact.manifest.fingerprint != before
    assert again.dataset.tags("t1") == (DOG,)


def test_an_edited_list_makes_the_data_set_stale(prepare, kit):
    before = prepare().artifact.manifest
    assert {"dataset.source_train", "dataset.source_val", "dataset.sbd_train", "dataset.sbd_val"} == set(
        before.externals
    )
    kit.write_list("train.txt", ["t1", "t2", "t3"])
    after = prepare()
    assert after.artifact.manifest.fingerprint != before.fingerprint
    assert after.dataset.ids("train") == ("t1", "t2", "t3")


# --- images, resuming


def test_images_stay_in_place_or_are_copied(prepare, kit):
    in_place, copied = prepare("in-place"), prepare("copied", copy_images=True)
    assert in_place.dataset.image_path("t1") == kit.root / "JPEGImages" / "t1.jpg"
    assert json.loads((in_place.artifact.path / "local" / "images.json").read_text()) == {
        "root": str(kit.root / "JPEGImages")
    }
    assert not any("local" in item for item in in_place.artifact.manifest.items)
    assert copied.dataset.image_path("t1") == copied.artifact.path / "images" / "t1.jpg"
    np.testing.assert_array_equal(in_place.dataset.image("t1"), copied.dataset.image("t1"))
    assert in_place.dataset.size("t1") == (18, 24)


def test_images_may_be_png(prepare, kit):
    Image.open(kit.root / "JPEGImages" / "s1.jpg").save(kit.root / "JPEGImages" / "s1.png")
    (kit.root / "JPEGImages" / "s1.jpg").unlink()
    for name, copy_images in (("a", False), ("b", True)):
        assert prepare(name, copy_images=copy_images).dataset.image("s1").shape == (18, 24, 3)


def test_content_depends_neither_on_place_nor_on_workers(prepare, kit, tmp_path):
    first = prepare("first").artifact.manifest
    moved = tmp_path / "elsewhere"
    shutil.copytree(kit.root, moved)
    second = prepare("second", workers=2, source=str(moved)).artifact.manifest
    assert first.content == second.content


def test_exchanged_image_changes_the_content(prepare, kit):
    before = prepare("before").artifact.manifest.content
    Image.new("RGB", (24, 18)).save(kit.root / "JPEGImages" / "t1.jpg")
    assert prepare("after").artifact.manifest.content != before


def test_a_broken_off_run_is_continued(prepare, kit, monkeypatch, tmp_path):
    whole = prepare("whole").artifact.manifest.content
    path = kit.root / "SegmentationClass" / "v2.png"
    good = path.read_bytes()
    path.write_bytes(good[:60])
    with pytest.raises(DataError, match="v2"):
        prepare("broken")
    (partial,) = Workspace(tmp_path / "ws").partials("broken")
    done = sorted(partial.glob("masks/*.png"))
    assert len(done) == 9  # all but v2
    stamps = {p.name: p.stat().st_mtime_ns for p in done}
    path.write_bytes(good)
    result = prepare("broken")
    assert result.artifact.manifest.content == whole
    assert {p: (result.artifact.path / "masks" / p).stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.real
@pytest.mark.skipif("SEMISEG_TEST_DATA" not in os.environ, reason="SEMISEG_TEST_DATA names no folder of real images")
def test_real_subset(tmp_path):
    source = Path(os.environ["SEMISEG_TEST_DATA"]) / "data" / "voc-animals"
    values = {"dataset": {"name": "voc-aug", "source": str(source)}, "classes": "cat,cow,dog,horse,sheep"}
    with pytest.raises(DataError, match="train has 437 ids, expected 1,464"):
        run_stage(STAGE, build(PrepareDataConfig, values, "test"), Workspace(tmp_path), "a", {}, Execution())
    config = build(PrepareDataConfig, values | {"allow_subset": True}, "test")
    outcome = run_stage(STAGE, config, Workspace(tmp_path), "a", {}, Execution())
    dataset = Dataset(outcome.artifact)
    assert {split: len(ids) for split, ids in dataset.splits.items() if ids} == {"train": 437, "weak": 2694, "val": 445}
    assert dataset.class_names == ("background", "cat", "cow", "dog", "horse", "sheep")
    first, last = dataset.ids("train")[0], dataset.ids("weak")[-1]
    assert first == "2007_000063"
    assert dataset.tags(first) == (3,)
    assert dataset.image(first).shape[:2] == dataset.mask(first).shape == dataset.size(first)
    assert dataset.has_mask(last)


@pytest.mark.real
@pytest.mark.skipif("SEMISEG_TEST_DATA" not in os.environ, reason="SEMISEG_TEST_DATA names no folder of real images")
def test_labels_of_real_masks_agree_with_the_label_file(tmp_path):
    """VOC's own masks show exactly the labels. SBD's leave out objects that VOC's annotators labelled: 190 images."""
    source = Path(os.environ["SEMISEG_TEST_DATA"]) / "data" / "voc-animals"
    values = {"dataset": {"name": "voc-aug", "source": str(source)}, "allow_subset": True, "tag_source": "masks"}
    config = build(PrepareDataConfig, values, "test")
    dataset = Dataset(run_stage(STAGE, config, Workspace(tmp_path), "a", {}, Execution()).artifact)
    labels = read_label_file(source / "image_labels.txt", VOC_CLASS_NAMES)
    only_in_file, official = {}, read_list(source / "ImageSets" / "Segmentation" / "train.txt")
    for image_id in (*dataset.ids("train"), *dataset.ids("weak"), *dataset.ids("val")):
        shown = {VOC_CLASS_NAMES[tag] for tag in dataset.tags(image_id)}
        assert shown <= labels[image_id]
        if missing := labels[image_id] - shown:
            only_in_file[image_id] = missing
    assert (len(only_in_file), sum(map(len, only_in_file.values()))) == (190, 208)
    assert not set(only_in_file) & {*official, *dataset.ids("val")}
    assert only_in_file["2008_001550"] == {"sofa", "chair"}


@pytest.mark.real
@pytest.mark.skipif("SEMISEG_TEST_DATA" not in os.environ, reason="SEMISEG_TEST_DATA names no folder of real images")
def test_the_rule_gives_the_official_list_of_10582(tmp_path):
    """The official lists over stand-in images; SBD's own lists hold 1,103 images of VOC val and most of VOC train."""
    folder = Path(os.environ["SEMISEG_TEST_DATA"]) / "data" / "voc-lists" / "voc12"
    train, trainaug, val = (read_list(folder / f"{name}.txt") for name in ("train", "train_aug", "val"))
    kit = Kit(tmp_path / "VOC2012", tmp_path / "sbd")
    kit.write_list("train.txt", train)
    kit.write_list("val.txt", val)
    sbd = [*sorted(set(trainaug) - set(train[:330])), *val[:1103]]
    kit.add_image("image")
    kit.add_voc_mask("mask", [CAT])
    (kit.sbd / "dataset" / "cls").mkdir(parents=True)
    scipy.io.savemat(kit.sbd / "mask.mat", {"GTcls": {"Segmentation": image_mask([DOG], border=False)}})
    (kit.sbd / "dataset" / "train.txt").write_text("\n".join(sbd[:8498]))
    (kit.sbd / "dataset" / "val.txt").write_text("\n".join(sbd[8498:]))
    for image_id in {*trainaug, *val}:
        os.link(kit.root / "JPEGImages" / "image.jpg", kit.root / "JPEGImages" / f"{image_id}.jpg")
    for image_id in (*train, *val):
        os.link(kit.root / "SegmentationClass" / "mask.png", kit.root / "SegmentationClass" / f"{image_id}.png")
    for image_id in sbd:
        os.link(kit.sbd / "mask.mat", kit.sbd / "dataset" / "cls" / f"{image_id}.mat")
    dataset = {"name": "voc-aug", "source": str(kit.root), "sbd": str(kit.sbd)}
    config = build(PrepareDataConfig, {"dataset": dataset, "labelled": "1/8", "labelled_from": "all"}, "test")
    artifact = run_stage(STAGE, config, Workspace(tmp_path / "ws"), "a", {}, Execution()).artifact
    prepared = Dataset(artifact)
    assert (len(sbd), artifact.summary["val_ids_removed_from_training_lists"]) == (11_355, 1103)
    assert artifact.summary["deviations"] == []
    assert sorted((*prepared.ids("train"), *prepared.ids("weak"))) == sorted(trainaug)
    assert (len(prepared.ids("train")), list(prepared.ids("val"))) == (1323, sorted(val))
    assert artifact.summary["masks"] == {"official": 2913, "other": 9118, "none": 0}


def test_both_archives_are_downloaded_and_used(kit, tmp_path, monkeypatch):
    """With archives of the tiny devkit in place of the official ones, from a server of one's own (a mirror)."""
    archives = {"voc.tar": ("VOC2012", kit.root, "VOCdevkit/VOC2012"), "sbd.tgz": ("SBD", kit.sbd, "benchmark_RELEASE")}
    with serving() as site:
        for file, (name, folder, inside) in archives.items():
            with tarfile.open(tmp_path / file, "w:gz" if file.endswith("tgz") else "w") as tar:
                tar.add(folder, inside)
            site.files[f"/{file}"] = (tmp_path / file).read_bytes()
            digest = "sha256:" + hashlib.sha256(site.files[f"/{file}"]).hexdigest()
            monkeypatch.setattr(published, name, published.Archive(name, file, (), None, digest, inside))
        own = {"name": "voc-aug", "download": str(tmp_path / "fetched"), "mirrors": site.address}
        config = build(PrepareDataConfig, {"dataset": own, "allow_subset": True}, "test")
        first = run_stage(STAGE, config, Workspace(tmp_path / "ws"), "a", {}, Execution(workers=1))
    dataset = Dataset(first.artifact)
    assert (dataset.ids("weak"), dataset.ids("val")) == (("s1", "s2", "s3", "s4"), ("v1", "v2"))
    assert not run_stage(STAGE, config, Workspace(tmp_path / "ws"), "a", {}, Execution(workers=1)).ran  # fresh
    again = run_stage(STAGE, config, Workspace(tmp_path / "ws"), "b", {}, Execution(workers=1))  # the server is gone
    assert again.artifact.manifest.content == first.artifact.manifest.content
