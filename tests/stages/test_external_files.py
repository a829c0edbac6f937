"""External files: the walk over a config that finds them, and fingerprints that stay what they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from artifacts.errors import ConfigError
from artifacts.manifest import KINDS
from artifacts.store import Work, Workspace
from stages.config import Config, External, ExternalFile, build, external_files
from stages.contract import external_digests, load_stage
from stages.data.images import ImageFolder
from stages.data.preparation_config import PrepareDataConfig
from stages.pipeline.changes import is_made_by
from stages.pipeline.run_stage import plan_work
from stages.seeds import SaliencyFolder

# --- the walk ---


class Words(Config):
    kind: Literal["words"] = "words"
    text: str = "net.pth"


class Files(Config):
    kind: Literal["files"] = "files"
    file: ExternalFile = ""
    more: ExternalFile | None = None
    several: tuple[ExternalFile, ...] = ()
    pairs: tuple[tuple[int, Annotated[Path, External()]], ...] = ()


Either = Annotated[Words | Files, Field(discriminator="kind")]


def in_folder(folder: str) -> dict[str, Path]:
    return {"first": Path(folder) / "1", "last": Path(folder) / "9"} if folder else {}


class Everything(Config):
    one: Either = Words()
    many: tuple[Either, ...] = ()
    perhaps: Files | None = None
    file_or_more: ExternalFile | Files = ""
    folder: Annotated[str, External(in_folder)] = ""
    weights: Annotated[str, External(lambda name: None if name == "imagenet" else Path(name))] = "imagenet"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"one": {"kind": "words", "text": "no-file"}}, {}),
        ({"one": {"kind": "files", "file": "a"}}, {"one.file": "a"}),
        ({"one": {"kind": "files", "more": "a"}}, {"one.more": "a"}),
        ({"one": {"kind": "files", "several": ["a", "", "b"]}}, {"one.several.0": "a", "one.several.2": "b"}),
        ({"one": {"kind": "files", "pairs": [[1, "a"], [2, "b"]]}}, {"one.pairs.0.1": "a", "one.pairs.1.1": "b"}),
        ({"many": [{"kind": "words"}, {"kind": "files", "file": "a"}]}, {"many.1.file": "a"}),
        ({"perhaps": {"file": "a"}}, {"perhaps.file": "a"}),
        ({"file_or_more": "a"}, {"file_or_more": "a"}),
        ({"file_or_more": {"file": "a"}}, {"file_or_more.file": "a"}),
        ({"folder": "f"}, {"folder.first": "f/1", "folder.last": "f/9"}),
        ({"weights": "a"}, {"weights": "a"}),
    ],
)
def test_files_are_found_in_parts_lists_and_unions(values: dict[str, Any], expected: dict[str, str]) -> None:
    found = external_files(build(Everything, values, "test"))
    assert found == {key: Path(path) for key, path in expected.items()}


def test_the_home_folder_may_be_written_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert external_files(Files(file="~/a")) == {"file": tmp_path / "a"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"x")
    assert ImageFolder("~/a").file("1") == tmp_path / "a" / "1.png"
    saliency = SaliencyFolder(kind="folder", folder=Path("~/a"))
    assert saliency.folder == external_files(saliency)["folder"] == tmp_path / "a"


def test_a_folder_of_a_data_set_that_is_not_there_is_named() -> None:
    config = build(PrepareDataConfig, {"dataset": {"name": "voc-aug", "source": "nowhere"}}, "test")
    with pytest.raises(ConfigError, match="source names nowhere, which is not a folder"):
        external_files(config)


# --- fingerprints of what was made before fields were marked ---

FILES = [
    "net.pth",
    "photos/a.jpg",
    "photos/b.jpg",
    "photos/a.png",
    "masks/a.png",
    "masks/meta.json",
    "more/c.jpg",
    "classes.txt",
    "tags.txt",
    "one.txt",
    "two.txt",
    "three.txt",
    "VOC2012/ImageSets/Segmentation/train.txt",
    "VOC2012/ImageSets/Segmentation/val.txt",
    "VOC2012/ImageSets/Segmentation/trainaug.txt",
    "VOC2012/ImageSets/Segmentation/train_aug.txt",
    "VOC2012/ImageSets/Main/train.txt",
    "VOC2012/ImageSets/Main/val.txt",
    "VOC2012/JPEGImages/a.jpg",
    "sbd/cls/a.mat",
    "sbd/train.txt",
    "sbd/val.txt",
    "context/labels.txt",
    "context/a.mat",
    "coco/annotations/instances_train2017.json",
    "coco/annotations/instances_val2017.json",
]
WEIGHTS = {"network": {"weights": "net.pth"}}
FOLDER = {"name": "folder", "images": "photos", "masks": "masks", "class_table": "classes.txt"}
VOC = {"name": "voc-aug", "source": "VOC2012", "sbd": "sbd"}
VOC_KEYS = (
    "dataset.sbd_train dataset.sbd_val "
    "dataset.source_train dataset.source_train_aug dataset.source_trainaug dataset.source_val"
)
LISTS = {"labelled": "one.txt", "holdout": "two.txt", "unlabelled": "three.txt", "tag_file": "tags.txt"}

# (stage, settings as recorded, the keys of the files, the fingerprint), by the version that had a function a stage
BEFORE: list[tuple[str, dict[str, Any], str, str]] = [
    ("train", WEIGHTS, "network.weights", "2ff8602c575e712125cdd41392c2ce03eb010d51a7a8fe75708fb40858cd3bb4"),
    (
        "train",
        {"network": {"weights": "~/net.pth"}},
        "network.weights",
        "2ff8602c575e712125cdd41392c2ce03eb010d51a7a8fe75708fb40858cd3bb4",
    ),
    (
        "train",
        {"network": {"backbone": "vgg16", "output_stride": 8, "weights": "imagenet"}},
        "",
        "7954d49d6b46d6aaccfc77154e3876bb4c5a8df4fbcbc1217c04d6733a12ae2e",
    ),
    (
        "train-classifier",
        WEIGHTS,
        "network.weights",
        "b1b06ae0de7cac00513b84dd049bfadfd1c13670dd0afebc9677baa7ca35abad",
    ),
    ("train-refiner", WEIGHTS, "network.weights", "70ab3eac8265563a393b47c36816a140d4067b79148ca76a38d5a4a90a9dca01"),
    (
        "retrain",
        {"training": WEIGHTS},
        "training.network.weights",
        "f62dadcf1eb644814e1037a4ea97e1fe1f4d364889291843c525a61d86b01939",
    ),
    (
        "seeds",
        {"labels": {"mode": "seeds", "background": {"kind": "folder", "folder": "photos"}}},
        "labels.background.folder",
        "e088594878ac6f728f98408e0959b3b1a0af2dcf03b2a86d555c79023e923ce1",
    ),
    ("seeds", {"labels": {"mode": "dense"}}, "", "624f2e5c804b34bc17417b906d8c2fbae95119eb6901a74899516d0c2160e7c0"),
    ("predict", {"images": "photos"}, "images", "84ec1180303541abb4b4c191fbab46308ae40b8206e393bccefe3dedcc456587"),
    ("crf", {"images": "photos"}, "images", "bc48b05e81725eb551bed6dab6fa29ddabe2454b2eba4b448d5a15805a1c8193"),
    ("crf", {"splits": ["val"]}, "", "3b840de672536716322c17580c1a3b6e8551b0f494727c19b95bd69355b29d93"),
    (
        "prepare-data",
        {"dataset": FOLDER | {"labels": "tags.txt", "unlabelled": "more", "val": "one.txt"}},
        "dataset.class_table dataset.images dataset.labels dataset.masks dataset.meta dataset.unlabelled dataset.val",
        "f66c12c81253be60d1cf6c24753b793b2c67589a66b3ae7694e6b12699c68ca4",
    ),
    (
        "prepare-data",
        {"dataset": FOLDER | {"masks": "photos"}},
        "dataset.class_table dataset.images",
        "4541d15692786453c906958debc778ea8d260424be2c0040636605daff164d2d",
    ),
    (
        "prepare-data",
        {"dataset": VOC} | LISTS,
        VOC_KEYS + " holdout labelled tag_file unlabelled",
        "2d11b5423c5f56a9ed3e2d5ceb831cd84cf5a51000dc4927d16d91e3163b187a",
    ),
    (
        "prepare-data",
        {"dataset": VOC, "labelled": "2", "holdout": "1/2"},
        VOC_KEYS,
        "2f7b3ccb33f3f8fba7440a7c4c7ede8d6fc52930155ee7e19bfd5b6c8dc7140a",
    ),
    (
        "prepare-data",
        {"dataset": {"name": "voc-aug", "download": "VOC2012"}},
        "",
        "63f4176260342ec4cd5ca83291b8c38b29a0d5722f78877a9bdbe967981f5f95",
    ),
    (
        "prepare-data",
        {"dataset": {"name": "coco", "source": "coco"}},
        "dataset.instances_train2017 dataset.instances_val2017",
        "a7f4a6698fe47e6ffe9c1674f88667b613948686be0be01faf1d638e49d31f09",
    ),
    (
        "prepare-data",
        {"dataset": {"name": "pascal-context", "source": "VOC2012", "annotations": "context"}},
        "dataset.labels dataset.train dataset.val",
        "41e85cbd4ce2d2abfdfc03db65a3827fde108a311d8dc24af54de195a140d8a0",
    ),
    (
        "prepare-data",
        {"dataset": {"name": "cityscapes", "source": "coco"}},
        "",
        "1b01aa41d36b10fbcbd01a6086934bdbef255aff0f0feccff15fd731d93034fa",
    ),
    (
        "prepare-data",
        {"dataset": {"name": "shapes", "train": 4}},
        "",
        "92dc0fb1755188a2609e9de85d8e7745427a2eba7b40b231b3ae723863fbd0e9",
    ),
]


@pytest.mark.parametrize(("name", "values", "keys", "fingerprint"), BEFORE)
def test_what_was_made_before_fields_were_marked_is_still_fresh(
    name: str,
    values: dict[str, Any],
    keys: str,
    fingerprint: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{file}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    stage = dataclasses.replace(load_stage(name), version=1)
    monkeypatch.setitem(KINDS, stage.output, 1)
    config = build(stage.config, values, "test")
    digests = external_digests(stage, config)
    assert sorted(digests) == keys.split()
    with workspace.writing("old", Work(name, 1, stage.output, fingerprint, values, {}, digests)) as writer:
        old = workspace.publish("old", writer, Work(name, 1, stage.output, fingerprint, values, {}, digests), {})
    assert is_made_by(stage, config, plan_work(stage, config, {}, {}), old.manifest)
