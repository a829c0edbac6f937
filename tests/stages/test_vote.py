"""The stage vote: masks of any stage and segments from anywhere, what is refused, and who takes the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import DataError
from artifacts.masks import read_mask, write_mask
from stages.localization.segment_layers import NONE, region_layers
from stages.localization.segment_vote import vote
from tests.stages.drawn_training import StopAt, StoppedError

INPUTS = {"data": "data", "masks": "noisy"}
TRAINING = {"iterations": 2, "batch_size": 2, "crop_size": 32, "network": "tiny", "augmentation": {"scale": [1.0, 1.0]}}


@pytest.fixture(scope="module")
def noisy(bench, tmp_path_factory):
    """Masks of the weak images, with noise, as an artifact."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("noisy")
    for image_id in bench.dataset.ids("weak"):
        mask = bench.dataset.mask(image_id)
        mask = np.where((random.random(mask.shape) < 0.2) | (mask == 255), 0, mask).astype(np.uint8)
        write_mask(folder / f"{image_id}.png", mask)
    return bench.run("import-masks", "noisy", {"folder": str(folder)}, None)


def content(artifact):
    return {path.stem: read_mask(path) for path in sorted((artifact.path / "masks").glob("*.png"))}


def test_regions_vote_on_every_mask(bench, noisy):
    voted = bench.run("vote", "voted", {"regions": [60]}, INPUTS)
    assert voted.json("classes.json") == noisy.json("classes.json")
    before, after = content(noisy), content(voted)
    assert list(before) == list(after) == sorted(bench.dataset.ids("weak"))
    for image_id, mask in after.items():
        expected = vote(before[image_id], region_layers(bench.dataset.image(image_id), (60,)))
        assert np.array_equal(mask, expected)


def segment_folder(bench, folder: Path) -> Path:
    """The true objects as segments; those of the first image cover each other."""
    folder.mkdir()
    for number, image_id in enumerate(bench.dataset.ids("weak")):
        truth = bench.dataset.mask(image_id)
        layers = np.where((truth == 0) | (truth == 255), NONE, truth)
        if number:
            Image.fromarray((layers + 1).astype(np.uint8)).save(folder / f"{image_id}.png")
        else:
            np.savez(folder / f"{image_id}.npz", masks=np.stack([layers >= 0, np.ones(truth.shape, bool)]))
    return folder


def test_segments_of_a_folder(bench, noisy, tmp_path):
    folder = segment_folder(bench, tmp_path / "segments")
    voted = bench.run("vote", "by-folder", {"segments": str(folder), "splits": ["weak"]}, INPUTS)
    image_id = bench.dataset.ids("weak")[1]
    truth = bench.dataset.mask(image_id)
    known = truth != 255
    assert np.array_equal(content(voted)[image_id][known], truth[known])
    assert voted.manifest.externals.keys() == {"segments"}


def test_workers_and_an_interruption_change_nothing(bench, noisy):
    whole = bench.run("vote", "whole", {"regions": [30]}, INPUTS)
    with pytest.raises(StoppedError):
        bench.run("vote", "cut", {"regions": [30]}, INPUTS, progress=StopAt(2))
    cut = bench.run("vote", "cut", {"regions": [30]}, INPUTS, workers=2)
    assert cut.manifest.resumed == 1
    assert cut.manifest.content == whole.manifest.content


def test_what_takes_masks_takes_these(bench, noisy):
    bench.run("vote", "taken", {}, INPUTS)
    weak = {"data": "data", "weak_labels": "taken"}
    bench.run("train", "dual", {"method": "dual-branch", **TRAINING}, weak)
    bench.run("evaluate", "scored", {"splits": ["weak"]}, {"data": "data", "predictions": "taken"})
    again = bench.run("vote", "twice", {}, {"data": "data", "masks": "taken"})
    assert len(content(again)) == len(bench.dataset.ids("weak"))


def test_images_without_segments_are_named(bench, noisy, tmp_path):
    folder = segment_folder(bench, tmp_path / "segments")
    first = bench.dataset.ids("weak")[0]
    (folder / f"{first}.npz").unlink()
    with pytest.raises(DataError, match=f"has no segments of 1 of .* images: {first}"):
        bench.run("vote", "nothing", {"segments": str(folder)}, INPUTS)
    Image.fromarray(np.ones((3, 3), np.uint8)).save(folder / f"{first}.png")
    with pytest.raises(DataError, match="are of 3x3 pixels"):
        bench.run("vote", "nothing", {"segments": str(folder)}, INPUTS)


def test_splits_without_masks_are_named(bench, noisy):
    with pytest.raises(DataError, match="noisy has no masks of"):
        bench.run("vote", "nothing", {"splits": ["train"]}, INPUTS)
