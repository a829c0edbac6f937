"""Archives for test servers: every pixel against the masks, every refusal, equal bytes, nothing left of a failure."""

from __future__ import annotations

import fnmatch
import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artifacts.canonical import digest, file_digest
from artifacts.dataset import Dataset, write_dataset
from artifacts.errors import ArtifactError, DataError, UsageError
from artifacts.masks import encode_mask
from artifacts.store import Artifact, Work, Workspace
from stages.contract import Execution
from stages.data.config import VOC_CLASS_NAMES
from stages.data.images import ImageFolder
from stages.export.submission import (
    CITYSCAPES_TEST,
    check_archive,
    choose_members,
    make_submission,
    predicted_images,
    voc_test,
)

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"

# The colour map of VOC's annotations: the first 21 colours as the devkit's documentation draws them.
VOC_COLOURS = """
0 0 0  128 0 0  0 128 0  128 128 0  0 0 128  128 0 128  0 128 128  128 128 128  64 0 0  192 0 0  64 128 0  192 128 0
64 0 128  192 0 128  64 128 128  192 128 128  0 64 0  128 64 0  0 192 0  128 192 0  0 64 128
"""

# name, id, train id (255: not trained on): the list of labels.py of cityscapesScripts, typed off by hand.
CITYSCAPES_LABELS = """
unlabelled 0 255|ego vehicle 1 255|rectification border 2 255|out of roi 3 255|static 4 255|dynamic 5 255|ground 6 255
road 7 0|sidewalk 8 1|parking 9 255|rail track 10 255|building 11 2|wall 12 3|fence 13 4|guard rail 14 255
bridge 15 255|tunnel 16 255|pole 17 5|polegroup 18 255|traffic light 19 6|traffic sign 20 7|vegetation 21 8
terrain 22 9|sky 23 10|person 24 11|rider 25 12|car 26 13|truck 27 14|bus 28 15|caravan 29 255|trailer 30 255
train 31 16|motorcycle 32 17|bicycle 33 18
"""


def official_labels() -> dict[int, tuple[str, int]]:
    """train id -> (name, label id)."""
    rows = [entry.rsplit(" ", 2) for entry in CITYSCAPES_LABELS.strip().replace("\n", "|").split("|")]
    return {int(train_id): (name, int(label)) for name, label, train_id in rows if train_id != "255"}


CITYSCAPES_CLASSES = tuple(name for _, (name, _) in sorted(official_labels().items()))


def publish(
    workspace: Workspace,
    masks: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str] = VOC_CLASS_NAMES,
    name: str = "predictions",
    kind: str = "predictions",
    images: str = "",
    data: Artifact | None = None,
) -> Artifact:
    """An artifact as predict (or crf) makes it."""
    inputs = {"data": {"artifact": data.name, "content": data.manifest.content}} if data else {}
    work = Work("predict", 1, kind, digest([name, sorted(masks)]), {"images": images}, inputs, {})
    with workspace.writing(name, work) as writer:
        for image_id, mask in masks.items():
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(mask))
        writer.write_json("classes.json", {"class_names": list(classes), "ids": sorted(masks), "splits": []})
        return workspace.publish(name, writer, work, {})


def random_masks(ids: Sequence[str], seed: int = 0, most: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {i: rng.integers(0, most + 1, rng.integers(2, 40, 2)).astype(np.uint8) for i in ids}


def in_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:gz") as tar:
        assert all(member.isreg() for member in tar.getmembers())
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def in_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archives go: what is left there is seen."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def pack(predictions: Artifact, archive: Path, execution: Execution, server=None, **options):
    return make_submission(server or voc_test(), predictions, archive, execution, **({"allow_subset": True} | options))


# --- what is packed: VOC ---


@settings(max_examples=15)
@given(
    ids=st.lists(st.from_regex(r"20[01][0-9]_[0-9]{6}", fullmatch=True), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_of_the_archive_is_that_of_the_predictions(ids: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        masks = random_masks(ids, seed)
        predictions = publish(Workspace(Path(place, "runs")), masks)
        figures = pack(predictions, Path(place, "results.tgz"), Execution(workers=1))
        found = in_tar(Path(place, "results.tgz"))
    assert list(found) == [f"{FOLDER}/{image_id}.png" for image_id in sorted(ids)]
    for image_id, mask in masks.items():
        image = opened(found[f"{FOLDER}/{image_id}.png"])
        assert (image.format, image.mode) == ("PNG", "P")
        assert image.getpalette()[:63] == list(map(int, VOC_COLOURS.split()))
        assert image.getpalette()[3 * 255 :] == [224, 224, 192]
        np.testing.assert_array_equal(np.array(image), mask)
    total = sum(np.bincount(mask.ravel(), minlength=21) for mask in masks.values())
    assert [record["pixels"] for record in figures["classes"].values()] == total.tolist()
    assert (figures["images"], figures["expected"], figures["sizes_checked"]) == (len(ids), 1456, 0)


def test_the_competition_names_the_folder(workspace: Workspace, folder: Path, execution: Execution) -> None:
    pack(publish(workspace, random_masks(["a"])), folder / "r.tar.gz", execution, voc_test("comp5"))
    assert list(in_tar(folder / "r.tar.gz")) == ["results/VOC2012/Segmentation/comp5_test_cls/a.png"]
    with pytest.raises(UsageError, match="no competition 'comp7'") as caught:
        voc_test("comp7")
    assert "comp5" in caught.value.hint


def test_the_full_list_of_1456_needs_no_permission(workspace: Workspace, folder: Path, execution: Execution) -> None:
    ids = [f"2008_{number:06d}" for number in range(1456)]
    masks = dict.fromkeys([*ids, "2007_000001"], np.zeros((2, 3), np.uint8))
    (folder / "test.txt").write_text("\n".join(reversed(ids)))
    predictions = publish(workspace, masks)
    figures = pack(predictions, folder / "r.tgz", execution, list_file=folder / "test.txt", allow_subset=False)
    assert (figures["images"], figures["left_out"]) == (1456, 1)
    assert list(in_tar(folder / "r.tgz")) == [f"{FOLDER}/{image_id}.png" for image_id in ids]


def test_the_official_list_is_read(real_data: Path, workspace: Workspace, folder: Path, execution: Execution) -> None:
    listed = real_data / "data" / "voc-lists" / "voc12" / "test.txt"
    predictions = publish(workspace, dict.fromkeys(listed.read_text().split(), np.full((2, 2), 20, np.uint8)))
    figures = pack(predictions, folder / "r.tgz", execution, list_file=listed, allow_subset=False)
    assert (figures["images"], figures["left_out"]) == (1456, 0)


def test_real_masks_of_the_size_of_their_images(
    real_data: Path, workspace: Workspace, folder: Path, execution: Execution
) -> None:
    devkit = real_data / "data" / "voc-animals"
    ids = (devkit / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:12]
    masks = {i: np.array(Image.open(devkit / "SegmentationClass" / f"{i}.png")) for i in ids}
    answers = {i: np.where(mask == 255, 0, mask).astype(np.uint8) for i, mask in masks.items()}
    figures = pack(publish(workspace, answers), folder / "r.tgz", execution, images=devkit / "JPEGImages")
    assert figures["sizes_checked"] == 12
    for name, data in in_tar(folder / "r.tgz").items():
        np.testing.assert_array_equal(np.array(opened(data)), answers[Path(name).stem])


def test_masks_of_the_crf_are_packed_too(workspace: Workspace, folder: Path, execution: Execution) -> None:
    predictions = publish(workspace, random_masks(["a", "b"]), name="crf", kind="masks")
    assert pack(predictions, folder / "r.tgz", execution)["images"] == 2


def test_files_are_sorted_by_their_names_not_by_ids(workspace: Workspace, folder: Path, execution: Execution) -> None:
    # "a.png" comes after "a-b.png", though "a" comes before "a-b"
    pack(publish(workspace, random_masks(["a", "a-b", "a_b"])), folder / "r.tgz", execution)
    assert list(in_tar(folder / "r.tgz")) == [f"{FOLDER}/{name}.png" for name in ("a-b", "a", "a_b")]


# --- equal masks, equal bytes ---


def test_two_exports_have_equal_bytes(tmp_path: Path, folder: Path, execution: Execution) -> None:
    masks = random_masks([f"2008_{number:06d}" for number in range(30)])
    first = publish(Workspace(tmp_path / "one"), masks)
    second = publish(Workspace(tmp_path / "two"), dict(reversed(masks.items())), name="other")
    for path in (second.path / "masks").iterdir():
        os.utime(path, (1e9, 1e9))
    one = pack(first, folder / "one.tgz", execution)
    two = pack(second, folder / "two.tar.gz", replace(execution, workers=2))
    assert (folder / "one.tgz").read_bytes() == (folder / "two.tar.gz").read_bytes()
    assert one["sha256"] == two["sha256"] == file_digest(folder / "one.tgz")


def test_neither_time_nor_owner_nor_name_is_in_the_archive(
    workspace: Workspace, folder: Path, execution: Execution
) -> None:
    pack(publish(workspace, random_masks(["a"])), folder / "r.tgz", execution)
    data = (folder / "r.tgz").read_bytes()
    assert data[3] == 0  # no flags: no file name follows
    assert data[4:8] == b"\0\0\0\0"  # time
    with tarfile.open(folder / "r.tgz") as tar:
        (member,) = tar.getmembers()
    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert member.mode == 0o644


# --- which images ---


def test_missing_and_surplus_ids_are_named(workspace: Workspace, folder: Path, execution: Execution) -> None:
    predictions = publish(workspace, random_masks(["a", "b", "x"]))
    (folder / "test.txt").write_text("a\nb\nc\nd\n")
    message = r"no masks of 2 images of .*test.txt: c, d; 1 of its masks are not in .*test.txt: x"
    with pytest.raises(DataError, match=message):
        pack(predictions, folder / "r.tgz", execution, list_file=folder / "test.txt")
    assert [path.name for path in folder.iterdir()] == ["test.txt"]


@pytest.mark.parametrize(("count", "known"), [(1449, r" \(val\)"), (1464, r" \(train\)"), (1455, ""), (1, "")])
def test_another_number_than_the_servers_is_refused(count: int, known: str) -> None:
    ids = [f"2008_{number:06d}" for number in range(count)]
    message = (
        rf"^here has {count:,} image{'s' * (count > 1)}{known}, the PASCAL VOC 2012 server takes exactly the 1,456"
    )
    with pytest.raises(DataError, match=message) as caught:
        choose_members(voc_test(), "predictions", ids, "here", None, allow_subset=False)
    assert "--allow-subset" in caught.value.hint
    members, left_out = choose_members(voc_test(), "predictions", ids, "here", None, allow_subset=True)
    assert (len(members), left_out) == (count, [])


def data_set(
    workspace: Workspace, shapes: Mapping[str, tuple[int, int]], splits: Mapping[str, Sequence[str]]
) -> Artifact:
    """A data set with grey images of the given (H, W), all without masks but those of val."""
    work = Work("prepare-data", 1, "dataset", digest([repr(shapes), repr(splits)]), {}, {}, {})
    with workspace.writing("data", work) as writer:
        for image_id, shape in shapes.items():
            with writer.item(f"images/{image_id}.png") as path:
                Image.new("RGB", shape[::-1], "grey").save(path)
            writer.write_bytes(f"masks/{image_id}.png", encode_mask(np.zeros(shape, np.uint8)))
        write_dataset(
            writer,
            name="voc",
            class_names=VOC_CLASS_NAMES,
            splits=splits,
            tags={},
            tag_source="masks",
            mask_ids=splits.get("val", ()),
        )
        return workspace.publish("data", writer, work, {})


def test_the_split_test_of_the_data_set_is_the_list(workspace: Workspace, folder: Path, execution: Execution) -> None:
    masks = random_masks(["a", "b", "c", "d"])
    data = data_set(workspace, {i: mask.shape for i, mask in masks.items()}, {"val": ["a"], "test": ["b", "d"]})
    predictions = publish(workspace, masks, data=data)
    figures = pack(predictions, folder / "r.tgz", execution, made_on=predicted_images(predictions, workspace))
    assert list(in_tar(folder / "r.tgz")) == [f"{FOLDER}/b.png", f"{FOLDER}/d.png"]
    assert (figures["left_out"], figures["sizes_checked"]) == (2, 2)
    (folder / "list.txt").write_text("c\n")
    pack(predictions, folder / "s.tgz", execution, made_on=Dataset(data), list_file=folder / "list.txt")
    assert list(in_tar(folder / "s.tgz")) == [f"{FOLDER}/c.png"]


def test_a_data_set_that_was_remade_or_removed_is_not_what_was_predicted(workspace: Workspace) -> None:
    data = data_set(workspace, {"a": (4, 5)}, {"val": ["a"]})
    predictions = publish(workspace, random_masks(["a"]), data=data)
    assert isinstance(predicted_images(predictions, workspace), Dataset)
    data_set(workspace, {"a": (6, 5)}, {"val": ["a"]})
    assert predicted_images(predictions, workspace) is None
    workspace.remove("data")
    assert predicted_images(predictions, workspace) is None


# --- sizes ---


def drawn_images(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Path:
    folder.mkdir()
    for image_id, (height, width) in shapes.items():
        Image.new("RGB", (width, height)).save(folder / f"{image_id}.jpg")
    return folder


def test_sizes_are_those_of_the_images(
    workspace: Workspace, folder: Path, tmp_path: Path, execution: Execution
) -> None:
    masks = random_masks(["a", "b", "c"])
    shapes = {image_id: mask.shape for image_id, mask in masks.items()}
    same = drawn_images(tmp_path / "same", shapes)
    predictions = publish(workspace, masks, images=str(same))
    assert pack(predictions, folder / "1.tgz", execution, images=same)["sizes_checked"] == 3
    recorded = predicted_images(predictions, workspace)
    assert isinstance(recorded, ImageFolder)
    assert pack(predictions, folder / "2.tgz", execution, made_on=recorded)["sizes_checked"] == 3
    (same / "b.jpg").unlink()
    recorded = predicted_images(predictions, workspace)
    assert pack(predictions, folder / "3.tgz", execution, made_on=recorded)["sizes_checked"] == 2
    with pytest.raises(DataError, match=r"1 id of the archive is not in .*same: b"):
        pack(predictions, folder / "4.tgz", execution, images=same)
    turned = drawn_images(tmp_path / "turned", {**shapes, "c": shapes["c"][::-1]})
    height, width = shapes["c"]
    with pytest.raises(DataError, match=rf"mask .*c.png is {width}x{height} .*, expected {height}x{width}"):
        pack(predictions, folder / "4.tgz", execution, images=turned)
    assert sorted(path.name for path in folder.iterdir()) == ["1.tgz", "2.tgz", "3.tgz"]


def test_a_folder_of_images_that_is_gone_is_not_known(workspace: Workspace, tmp_path: Path) -> None:
    predictions = publish(workspace, random_masks(["a"]), images=str(tmp_path / "gone"))
    assert predicted_images(predictions, workspace) is None


# --- what no server takes ---


def test_unknown_pixels_are_refused_with_the_images_name(
    workspace: Workspace, folder: Path, execution: Execution
) -> None:
    masks = random_masks(["a", "b", "c"])
    masks["b"][0, :2] = 255
    message = "image b: 2 pixels of its mask are 255"
    with pytest.raises(DataError, match=message) as caught:
        pack(publish(workspace, masks), folder / "r.tgz", execution)
    assert "min_confidence" in caught.value.hint
    masks["c"][0, 0] = 255
    with pytest.raises(DataError, match=rf"2 images cannot be used:\n.*{message}.*\n.*image c: 1 pixel"):
        pack(publish(workspace, masks, name="more"), folder / "r.tgz", execution)
    assert list(folder.iterdir()) == []


def test_predictions_of_fewer_classes_are_refused(workspace: Workspace, folder: Path, execution: Execution) -> None:
    kept = ("background", "bird", "cat")
    predictions = publish(workspace, random_masks(["a"], most=2), classes=kept)
    with pytest.raises(
        DataError, match=r"18 missing, 0 unknown.*Found 3: background, bird, cat\. .*aeroplane"
    ) as caught:
        pack(predictions, folder / "r.tgz", execution)
    assert "all classes" in caught.value.hint


def test_the_order_of_the_classes_counts(workspace: Workspace, folder: Path, execution: Execution) -> None:
    order = (*VOC_CLASS_NAMES[:1], *reversed(VOC_CLASS_NAMES[1:]))
    with pytest.raises(DataError, match="a different order of the classes"):
        pack(publish(workspace, random_masks(["a"]), classes=order), folder / "r.tgz", execution)


def test_artifacts_without_masks_of_predictions(workspace: Workspace, folder: Path, execution: Execution) -> None:
    with pytest.raises(ArtifactError, match="'maps' has no masks") as caught:
        pack(publish(workspace, {}, name="maps"), folder / "r.tgz", execution)
    assert "--output masks" in caught.value.hint
    with pytest.raises(ArtifactError, match="'seeds' is an artifact of kind seeds, expected predictions"):
        pack(publish(workspace, random_masks(["a"]), name="seeds", kind="seeds"), folder / "r.tgz", execution)


def test_a_mask_that_was_changed_after_it_was_made(workspace: Workspace, folder: Path, execution: Execution) -> None:
    predictions = publish(workspace, random_masks(["a", "b"]))
    (predictions.path / "masks" / "b.png").write_bytes(encode_mask(np.ones((3, 3), np.uint8)))
    with pytest.raises(DataError, match=r"mask .*b.png was changed"):
        pack(predictions, folder / "r.tgz", execution)
    assert list(folder.iterdir()) == []


def test_names_that_no_archive_can_have(workspace: Workspace, folder: Path, execution: Execution) -> None:
    predictions = publish(workspace, random_masks(["a"]))
    for name in ("r.zip", "r.tar", "r", ".tgz"):
        with pytest.raises(UsageError, match=r"takes \.tgz or \.tar\.gz"):
            pack(predictions, folder / name, execution)
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        pack(predictions, folder / "none" / "r.tgz", execution)
    (folder / "r.tgz").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        pack(predictions, folder / "r.tgz", execution)
    assert (folder / "r.tgz").read_text() == "mine"


# --- what is packed: Cityscapes ---


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two images of full size that hold every class."""
    rng = np.random.default_rng(5)
    small = rng.permutation(np.arange(2 * 8 * 16) % 19).astype(np.uint8).reshape(2, 8, 16)
    masks = np.kron(small, np.ones((128, 128), np.uint8))
    ids = ("berlin_000000_000019", "mainz_000001_010853_leftImg8bit")
    place = Workspace(tmp_path_factory.mktemp("streets"))
    return publish(place, dict(zip(ids, masks, strict=True)), classes=CITYSCAPES_CLASSES)


def test_the_label_ids_are_the_official_ones(streets: Artifact, folder: Path, execution: Execution) -> None:
    figures = pack(streets, folder / "r.zip", execution, CITYSCAPES_TEST)
    found = in_zip(folder / "r.zip")
    assert list(found) == ["berlin_000000_000019_pred_labelIds.png", "mainz_000001_010853_pred_labelIds.png"]
    labels = official_labels()
    for pattern in ("berlin_000000_000019*.png", "mainz_000001_010853*.png"):  # as the evaluation looks for them
        (name,) = fnmatch.filter(found, pattern)
        image = opened(found[name])
        assert (image.mode, image.size) == ("L", (2048, 1024))
        values = np.array(image)
        (source,) = (streets.path / "masks").glob(pattern)
        mask = np.array(Image.open(source))
        assert np.array_equal(np.unique(mask), np.arange(19))
        for train_id, (label, label_id) in labels.items():
            assert (values[mask == train_id] == label_id).all(), label
    assert {name: record["value"] for name, record in figures["classes"].items()} == dict(labels.values())
    assert (figures["sizes_checked"], figures["expected"], figures["mode"]) == (2, 1525, "L")


def test_two_zips_have_equal_bytes_and_no_time(streets: Artifact, folder: Path, execution: Execution) -> None:
    pack(streets, folder / "one.zip", execution, CITYSCAPES_TEST)
    pack(streets, folder / "two.zip", replace(execution, workers=2), CITYSCAPES_TEST)
    assert (folder / "one.zip").read_bytes() == (folder / "two.zip").read_bytes()
    with zipfile.ZipFile(folder / "one.zip") as packed:
        assert {(entry.date_time, entry.external_attr >> 16, entry.extra) for entry in packed.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644, b"")
        }


@pytest.mark.parametrize(
    ("count", "known"), [(500, r" \(val\)"), (1525, None), (2975, r" \(train\)"), (1524, ""), (1526, "")]
)
def test_the_test_split_of_cityscapes_has_1525_images(count: int, known: str | None) -> None:
    ids = [f"bonn_000000_{number:06d}" for number in range(count)]
    if known is None:
        assert len(choose_members(CITYSCAPES_TEST, "p", ids, "'p'", None, allow_subset=False)[0]) == 1525
        return
    with pytest.raises(DataError, match=rf"'p' has {count:,} images{known}, .* exactly the 1,525"):
        choose_members(CITYSCAPES_TEST, "p", ids, "'p'", None, allow_subset=False)


def test_a_list_of_file_names_finds_ids_without_the_suffix() -> None:
    listed = ["bonn_000000_000019_leftImg8bit", "bonn_000001_000019"]
    predicted = ["bonn_000000_000019", "bonn_000001_000019_leftImg8bit"]
    members, _ = choose_members(CITYSCAPES_TEST, "p", predicted, "list", listed, allow_subset=True)
    assert members == {
        "bonn_000000_000019_pred_labelIds.png": "bonn_000000_000019",
        "bonn_000001_000019_pred_labelIds.png": "bonn_000001_000019_leftImg8bit",
    }


def test_names_that_the_evaluation_would_not_find() -> None:
    for image_id in ("bonn", "bonn_1_2", "bonn_000000_0000190", "bonn_000000-000019"):
        with pytest.raises(DataError, match=f"1 id of 'p' is not a name of Cityscapes images: {image_id}"):
            choose_members(CITYSCAPES_TEST, "p", [image_id], "'p'", None, allow_subset=True)
    twice = ["bonn_000000_000019", "bonn_000000_000019_leftImg8bit"]
    with pytest.raises(DataError, match="two entries of the image bonn_000000_000019"):
        choose_members(CITYSCAPES_TEST, "p", twice, "'p'", None, allow_subset=True)


def test_images_of_half_the_size_are_refused(workspace: Workspace, folder: Path, execution: Execution) -> None:
    masks = {"bonn_000000_000019": np.zeros((512, 1024), np.uint8)}
    with pytest.raises(DataError, match=r"is 1024x512 .* expected 2048x1024"):
        pack(publish(workspace, masks, classes=CITYSCAPES_CLASSES), folder / "r.zip", execution, CITYSCAPES_TEST)


def test_predictions_of_voc_are_no_streets(workspace: Workspace, folder: Path, execution: Execution) -> None:
    with pytest.raises(DataError, match=r"different classes .* than Cityscapes"):
        pack(publish(workspace, random_masks(["a"])), folder / "r.zip", execution, CITYSCAPES_TEST)


# --- the check of a written archive ---

GOOD = np.arange(20, dtype=np.uint8).reshape(4, 5)


def as_png(mode: str, values: np.ndarray, palette: Sequence[int] | None = None, **options) -> bytes:
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(palette)
    elif mode != "L":
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def check(path: Path, members: Sequence[tuple[str, bytes]]):
    write_tar(path, members)
    seen: list[None] = []
    sizes = {f"{FOLDER}/a.png": (4, 5), f"{FOLDER}/b.png": None}
    figures = check_archive(path, voc_test(), sizes, lambda: seen.append(None))
    assert len(seen) == len(members)
    return figures


def test_the_check_passes_what_is_right(folder: Path) -> None:
    good = encode_mask(GOOD)
    figures = check(folder / "r.tgz", [(f"{FOLDER}/a.png", good), (f"{FOLDER}/b.png", good)])
    assert (figures["images"], figures["sizes_checked"]) == (2, 1)
    assert figures["classes"]["tvmonitor"] == {"value": 20, "pixels": 0}
    assert figures["classes"]["train"] == {"value": 19, "pixels": 2}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_png("L", GOOD), "a.png has mode L and 8 bits, expected P and 8"),
        (as_png("RGB", GOOD), "a.png has mode RGB"),
        (as_png("P", GOOD % 3, list(range(9))), "a.png has mode P and 2 bits, expected P and 8"),
        (as_png("P", GOOD, list(range(256)) * 3), "a.png has a different palette"),
        (encode_mask(np.where(GOOD == 3, np.uint8(21), GOOD)), "a.png has the values 21"),
        (encode_mask(np.where(GOOD == 0, np.uint8(255), GOOD)), "a.png has the values 255"),
        (encode_mask(GOOD.T), "a.png is 4x5, expected 5x4"),
        (encode_mask(GOOD)[:-9], "a.png is not a whole PNG"),
        (b"GIF89a\r\n" + encode_mask(GOOD)[8:], "a.png is not a whole PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_check_finds_each_fault_of_a_file(folder: Path, data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check(folder / "r.tgz", [(f"{FOLDER}/a.png", data), (f"{FOLDER}/b.png", encode_mask(GOOD))])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "it lacks .*b.png"),
        (["b", "a"], "not sorted"),
        (["a", "a", "b"], "not sorted, or occur twice"),
        (["a", "b", "c"], "c.png must not be in it"),
    ],
)
def test_the_check_finds_wrong_names(folder: Path, names: list[str], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check(folder / "r.tgz", [(f"{FOLDER}/{name}.png", encode_mask(GOOD)) for name in names])


def test_the_check_finds_damage(folder: Path) -> None:
    path = folder / "r.tgz"
    write_tar(path, [(f"{FOLDER}/a.png", encode_mask(GOOD))])
    whole = path.read_bytes()
    checksum = bytearray(whole)
    checksum[-8] ^= 1  # CRC-32 of the content
    other = gzip.compress(b"no tar at all" * 100)
    for data in (whole[:-20], bytes(checksum), b"\x1f\x8b nothing", other):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"r\.tgz is not what the server accepts"):
            check_archive(path, voc_test(), {f"{FOLDER}/a.png": None}, lambda: None)


def test_the_check_reads_train_ids_as_wrong_label_ids(folder: Path) -> None:
    with zipfile.ZipFile(folder / "r.zip", "w") as packed:
        packed.writestr("a_pred_labelIds.png", as_png("L", np.zeros((1024, 2048), np.uint8)))
    with pytest.raises(ArtifactError, match="has the values 0"):
        check_archive(folder / "r.zip", CITYSCAPES_TEST, {"a_pred_labelIds.png": (1024, 2048)}, lambda: None)


# --- failures ---

EXPORT = """
import sys
from pathlib import Path
from artifacts.store import Workspace
from stages.contract import Execution
from stages.export.submission import make_submission, voc_test
place = Path(sys.argv[1])
make_submission(voc_test(), Workspace(place / "runs").artifact("predictions"), place / "out" / "r.tgz",
                Execution(workers=1), allow_subset=True)
assert "torch" not in sys.modules
"""


def test_a_killed_export_leaves_no_archive_and_the_next_makes_it(tmp_path: Path, folder: Path) -> None:
    rng = np.random.default_rng(1)
    masks = {f"{number:03d}": rng.integers(0, 21, (300, 300)).astype(np.uint8) for number in range(80)}
    publish(Workspace(tmp_path / "runs"), masks)
    command = [sys.executable, "-c", EXPORT, str(tmp_path)]
    with subprocess.Popen(command) as process:
        for _ in range(2000):
            if (left := list(folder.iterdir())) and left[0].stat().st_size > 0:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in folder.iterdir()] == [".r.tgz.partial"]
    subprocess.run(command, check=True)
    assert [path.name for path in folder.iterdir()] == ["r.tgz"]
    assert len(in_tar(folder / "r.tgz")) == 80


def test_a_disk_that_takes_no_more_is_said_in_words(tmp_path: Path, folder: Path) -> None:
    rng = np.random.default_rng(1)
    publish(Workspace(tmp_path / "runs"), {"a": rng.integers(0, 21, (300, 300)).astype(np.uint8)})
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n" + EXPORT
    done = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True)
    assert "ArtifactError" in done.stderr
    assert "r.tgz could not be written: it exceeds the file size limit" in done.stderr
    assert list(folder.iterdir()) == []
