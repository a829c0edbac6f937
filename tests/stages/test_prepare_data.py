"""The stage prepare-data: its settings, and the embedded data set from end to end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.store import Workspace
from stages.config import build
from stages.contract import Execution, Inputs, PlainProgress
from stages.data.annotations.image_labels import tags_of_mask
from stages.data.preparation import checked_mask, choose_tag_source
from stages.data.preparation_config import PrepareDataConfig
from stages.data.readers.raw import RawDataset
from stages.data.readers.shapes import draw
from stages.pipeline.run_stage import run_stage
from stages.prepare_data import STAGE

SMALL = {"dataset": {"name": "shapes", "train": 5, "weak": 12, "val": 3, "long_side": 64}}


def prepare(folder: Path, values: dict, name: str = "data", **execution):
    config = build(PrepareDataConfig, values, "test")
    return run_stage(STAGE, config, Workspace(folder), name, {}, Execution(**{"workers": 1} | execution))


def test_shapes_become_a_data_set(tmp_path):
    artifact = prepare(tmp_path, SMALL).artifact
    dataset = Dataset(artifact)
    assert artifact.kind == "dataset"
    assert dataset.class_names == ("background", "star", "ring", "boat", "mushroom", "fish", "beetle")
    assert artifact.summary["images"] == {"train": 5, "weak": 12, "val": 3}
    config = build(PrepareDataConfig, SMALL, "test").dataset
    for image_id in (dataset.ids("train")[0], dataset.ids("weak")[11], dataset.ids("val")[2]):
        drawing = draw(config, image_id)
        np.testing.assert_array_equal(dataset.image(image_id), drawing.image)
        np.testing.assert_array_equal(dataset.mask(image_id), drawing.mask)
        assert dataset.tags(image_id) == tags_of_mask(drawing.mask)
        assert dataset.size(image_id) == drawing.mask.shape


def test_shapes_write_their_objects_if_asked(tmp_path):
    plain, asked = (
        prepare(tmp_path, SMALL | {"dataset": SMALL["dataset"] | {"objects": objects}}, f"data-{objects}").artifact
        for objects in (False, True)
    )
    added = asked.manifest.items.keys() - plain.manifest.items.keys()
    assert added == {f"objects/{image_id}.png" for ids in Dataset(asked).splits.values() for image_id in ids}
    assert {path: asked.manifest.items[path] for path in plain.manifest.items} == plain.manifest.items
    config = build(PrepareDataConfig, SMALL, "test").dataset
    np.testing.assert_array_equal(read_mask(asked.file("objects/val_00001.png")), draw(config, "val_00001").objects)


def small_raw(root: Path) -> RawDataset:
    """Image-level labels come from the names of the files; its one mask is not there."""
    names = {"names": lambda ids: {image_id: frozenset({"cat"}) for image_id in ids}}
    images, masks = {"cat1": "cat1.png"}, {"cat1": root / "cat1_mask.png"}
    return RawDataset(
        "pairs", ("background", "cat"), root, images, masks, read_mask, ("cat1",), ("cat1",), (), tag_sources=names
    )


def test_the_source_of_labels_that_is_named_can_be_set(tmp_path):
    """prepare-data said that "tag_source: names" pins it, and refused the setting."""
    values = {"dataset": {"name": "cityscapes", "source": "/x"}}
    for more in ({}, {"tag_source": "names"}):
        config = build(PrepareDataConfig, values | more, "test")
        assert choose_tag_source(config, small_raw(tmp_path), ["cat1"], print)[0] == "names"
    config = build(PrepareDataConfig, values | {"tag_source": "xml"}, "test")
    with pytest.raises(DataError, match="no image-level labels of the source 'xml'") as caught:
        choose_tag_source(config, small_raw(tmp_path), ["cat1"], print)
    assert caught.value.hint == "there are: names, masks (tag_source)"


def test_a_mask_that_is_not_there_is_no_fault_of_the_disk(tmp_path):
    raw = replace(small_raw(tmp_path), read_mask=lambda path: np.frombuffer(path.read_bytes(), np.uint8))
    with pytest.raises(DataError, match=r"mask .*cat1_mask.png is not there") as caught:
        checked_mask(raw, raw.masks["cat1"])
    assert caught.value.hint == "put the file there, or take it out of what names it"


def test_processes_do_not_change_the_content(tmp_path):
    one = prepare(tmp_path, SMALL, "one").artifact.manifest.content
    two = prepare(tmp_path, SMALL, "two", workers=2).artifact.manifest.content
    assert one == two


class _Killed(BaseException):
    pass


class _KillAfter(PlainProgress):
    """Stops the stage as Ctrl-C would, after a number of images."""

    def track(self, *args, **kwargs):
        self_left = [7]

        class Tracker:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                return None

            def advance(self, count=1, **fields):
                self_left[0] -= count
                if self_left[0] == 0:
                    raise _Killed

        return Tracker()


def test_a_broken_off_drawing_is_continued(tmp_path):
    whole = prepare(tmp_path, SMALL, "whole").artifact.manifest.content
    with pytest.raises(_Killed):
        prepare(tmp_path, SMALL, "cut", progress=_KillAfter())
    (partial,) = Workspace(tmp_path).partials("cut")
    stamps = {path.name: path.stat().st_mtime_ns for path in partial.glob("masks/*.png")}
    assert len(stamps) == 7
    artifact = prepare(tmp_path, SMALL, "cut").artifact
    assert artifact.manifest.content == whole
    assert {name: (artifact.path / "masks" / name).stat().st_mtime_ns for name in stamps} == stamps


def test_some_labelled_shapes_are_held_out(tmp_path):
    """The images stay as they are; only the list they stand in changes."""
    whole = Dataset(prepare(tmp_path, SMALL, "whole").artifact)
    held = prepare(tmp_path, SMALL | {"holdout": 0.4}, "held").artifact
    dataset = Dataset(held)
    assert len(dataset.ids("holdout")) == 2
    assert tuple(sorted(dataset.ids("train") + dataset.ids("holdout"))) == whole.ids("train")
    assert dataset.ids("weak") == whole.ids("weak")
    for image_id in dataset.ids("holdout"):
        np.testing.assert_array_equal(dataset.mask(image_id), whole.mask(image_id))
        assert dataset.tags(image_id) == whole.tags(image_id)
    assert held.summary["images"] == {"train": 3, "holdout": 2, "weak": 12, "val": 3}
    for number, name in enumerate(dataset.class_names[1:], 1):
        expected = sum(bool((dataset.mask(image_id) == number).any()) for image_id in dataset.ids("holdout"))
        assert held.summary["classes"][name]["holdout_images"] == expected
    with pytest.raises(ConfigError, match="holdout takes all 5 labelled images"):
        prepare(tmp_path, SMALL | {"holdout": 5}, "none")


def test_other_ranks_leave_a_data_set_on_disk_to_the_first(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    config = build(PrepareDataConfig, {"dataset": {"name": "voc-aug", "source": "/nowhere"}}, "test")
    assert STAGE.run(config, Inputs(), None, Execution(workers=1)) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "voc-aug"}, "needs source"),
        ({"dataset": {"name": "voc-aug", "source": "/x", "download": "/y"}}, "needs source"),
        ({"dataset": {"name": "voc-aug", "source": "/x", "mirrors": "http://y"}}, "no effect without download"),
        ({"dataset": "voc"}, "did you mean 'voc-aug'"),
        ({"dataset": {"name": "shapes", "source": "/x"}}, "dataset.source: unknown key"),
        ({"dataset": {"name": "cityscapes", "source": "/x", "sbd": "/y"}}, "dataset.sbd: unknown key"),
        ({"dataset": "cityscapes"}, "dataset.source: is required"),
        ({"labelled": 10, "classes": "cat"}, "classes, labelled has no effect on dataset shapes"),
        (
            {"dataset": {"name": "voc-aug", "source": "/x"}, "classes": "cat,cta"},
            "'cta' is not a class of voc-aug, did you mean 'cat'",
        ),
        ({"dataset": {"name": "voc-aug", "source": "/x"}, "classes": ["cat", "cat"]}, "a class occurs twice"),
        ({"dataset": {"name": "voc-aug", "source": "/x"}, "classes": "background"}, "'background' is not a class"),
        (
            {"dataset": {"name": "voc-aug", "source": "/x"}, "labelled": "3/2"},
            "expected a fraction above 0 and up to 1",
        ),
        (
            {"dataset": {"name": "voc-aug", "source": "/x"}, "labelled_seed": 3},
            "need labelled to be a number or fraction",
        ),
        (
            {"dataset": {"name": "voc-aug", "source": "/x"}, "tag_file": "y", "tag_source": "xml"},
            "tag_file has no effect",
        ),
        ({"dataset": {"name": "shapes", "trian": 3}}, "did you mean 'train'"),
        ({"holdout": "1.5"}, "holdout is 1.5, expected a fraction above 0 and up to 1"),
        ({"holdout": 0}, "holdout is 0, expected at least 1 image"),
        ({"holdout_seed": 2}, "holdout_seed needs holdout to be a number or fraction"),
        ({"holdout": "dev.txt", "holdout_seed": 2}, "holdout_seed needs holdout to be a number or fraction"),
    ],
)
def test_settings_that_cannot_be_meant(values, message):
    with pytest.raises(ConfigError) as caught:
        build(PrepareDataConfig, values, "test")
    assert message in str(caught.value)


def test_labelled_and_classes_take_the_types_of_yaml_and_of_the_command_line():
    base = {"dataset": {"name": "voc-aug", "source": "/x"}}
    assert build(PrepareDataConfig, base | {"labelled": 183}, "t").labelled == "183"
    assert build(PrepareDataConfig, base | {"labelled": 0.125}, "t").labelled == "0.125"
    assert build(PrepareDataConfig, base | {"classes": "cat, cow"}, "t").classes == ("cat", "cow")
    assert build(PrepareDataConfig, base | {"classes": ["cow", "cat"]}, "t").classes == ("cow", "cat")


@pytest.mark.parametrize("key", ["source", "sbd"])
def test_folders_that_are_not_there(tmp_path, key):
    values = {"dataset": {"name": "voc-aug", "source": str(tmp_path)} | {key: str(tmp_path / "nowhere")}}
    with pytest.raises(ConfigError, match=f"{key} names .*nowhere, which is not a folder"):
        prepare(tmp_path / "ws", values)


def test_a_missing_list_file_is_named_with_its_key(tmp_path):
    values = {"dataset": {"name": "voc-aug", "source": str(tmp_path)}, "labelled": str(tmp_path / "gone.txt")}
    with pytest.raises(ConfigError, match=r"labelled names .*gone.txt"):
        prepare(tmp_path / "ws", values)


def test_reading_the_settings_loads_nothing_heavy():
    code = (
        "import sys, stages.prepare_data as p;"
        "p.PrepareDataConfig(dataset={'name': 'voc-aug', 'source': '/x'}, labelled='1/8');"
        "heavy = {'torch', 'torchvision', 'scipy', 'skimage', 'h5py', 'tensorboard'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
