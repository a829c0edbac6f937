"""The stage predict: masks and score maps against the network itself, own pictures, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from stages.config import build
from stages.networks import load_network, normalise, upsample
from stages.predict import PredictConfig


def softmax_of(bench, image: np.ndarray) -> np.ndarray:
    """The network on one picture, written out: (C, H, W)."""
    network = load_network(bench.workspace.artifact("segmenter"))
    inputs = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        return upsample(network(inputs), inputs.shape[2:], network.stride).softmax(1)[0].numpy()


def mask_of(artifact, image_id: str) -> np.ndarray:
    return read_mask(artifact.file(f"masks/{image_id}.png"))


@pytest.fixture(scope="module")
def both(bench):
    return bench.run("predict", "both", {"splits": ["val", "train"], "stride": 4})


def test_masks_are_the_argmax_and_maps_every_fourth_pixel(bench, both):
    ids = sorted((*bench.dataset.ids("val"), *bench.dataset.ids("train")))
    maps = ScoreMaps(both, "probabilities")
    assert list(maps.ids) == ids
    assert maps.class_names == bench.dataset.class_names
    winners = set()
    for image_id in ids:
        expected = softmax_of(bench, bench.dataset.image(image_id))
        mask = mask_of(both, image_id)
        top = np.sort(expected, axis=0)
        clear = top[-1] - top[-2] > 1e-4  # elsewhere rounding may decide
        assert (mask == expected.argmax(0))[clear].all()
        assert mask.shape == bench.dataset.size(image_id)
        record = maps[image_id]
        assert (record.size, record.stride) == (mask.shape, 4)
        np.testing.assert_allclose(record.scores, expected[record.classes][:, ::4, ::4], atol=1e-3)
        left_out = np.setdiff1d(np.arange(len(expected)), record.classes)
        assert 0 in record.classes
        assert (expected[left_out][:, ::4, ::4] < 0.0101).all()
        winners |= set(np.unique(mask))
    assert len(winners) > 2  # the test would say little of a network that sees one class everywhere


def test_class_names_travel_with_the_result(bench, both):
    record = json.loads(both.file("classes.json").read_text())
    assert record["class_names"] == list(bench.dataset.class_names)
    assert record["splits"] == ["val", "train"]
    assert both.summary["images"] == 10


@pytest.mark.parametrize(("output", "folders"), [("masks", {"masks"}), ("probabilities", {"probabilities"})])
def test_only_what_is_asked_for_is_written(bench, both, output, folders):
    artifact = bench.run("predict", f"only-{output}", {"output": output})
    assert {path.name for path in artifact.path.iterdir() if path.is_dir()} == folders
    if output == "masks":
        for image_id in bench.dataset.ids("val"):
            np.testing.assert_array_equal(mask_of(artifact, image_id), mask_of(both, image_id))


def test_restricted_to_the_labels_of_the_picture(bench):
    artifact = bench.run("predict", "restricted", {"splits": ["weak"], "restrict_to_labels": True})
    maps = ScoreMaps(artifact, "probabilities")
    for image_id in bench.dataset.ids("weak"):
        allowed = [0, *bench.dataset.tags(image_id)]
        expected = softmax_of(bench, bench.dataset.image(image_id))[allowed]
        mask = mask_of(artifact, image_id)
        assert set(np.unique(mask)) <= set(allowed)
        assert (mask == np.array(allowed)[expected.argmax(0)]).mean() > 0.999
        record = maps[image_id]
        assert set(record.classes) <= set(allowed)
        renormalised = expected / expected.sum(0)
        chosen = [allowed.index(c) for c in record.classes]
        np.testing.assert_allclose(record.scores, renormalised[chosen][:, ::4, ::4], atol=2e-3)


def test_pixels_below_the_confidence_are_unknown(bench, both):
    artifact = bench.run("predict", "confident", {"output": "masks", "min_confidence": 0.6})
    unknown = 0
    for image_id in bench.dataset.ids("val"):
        highest = softmax_of(bench, bench.dataset.image(image_id)).max(0)
        mask = mask_of(artifact, image_id)
        clear = abs(highest - 0.6) > 1e-4
        assert ((mask == 255) == (highest < 0.6))[clear].all()
        known = mask != 255
        np.testing.assert_array_equal(mask[known], mask_of(both, image_id)[known])
        unknown += (~known).sum()
    assert unknown > 0


def test_own_pictures_of_every_kind(bench, tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "photo.png")
    Image.fromarray(colour[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([colour, colour[:, :, :1]])).save(tmp_path / "clear.png")
    Image.fromarray(colour[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(colour).save(tmp_path / "camera.jpg")
    values = {"images": str(tmp_path), "output": "masks"}
    artifact = bench.run("predict", "own", values, {"data": None})
    assert sorted(path.stem for path in artifact.path.glob("masks/*.png")) == [
        "camera",
        "clear",
        "deep",
        "grey",
        "photo",
    ]
    for name in ("photo", "grey", "deep", "clear", "camera"):
        with Image.open(artifact.file(f"masks/{name}.png")) as mask:
            assert (mask.size, mask.mode) == ((44, 30), "P")
    np.testing.assert_array_equal(mask_of(artifact, "grey"), mask_of(artifact, "deep"))
    assert json.loads(artifact.file("classes.json").read_text())["ids"][0] == "camera"
    # the pictures' content, not the folder's name, decides whether a result is fresh
    assert not bench.outcome("predict", "own", values, {"data": None}).ran
    Image.fromarray(255 - colour).save(tmp_path / "photo.png")
    assert bench.outcome("predict", "own", values, {"data": None}).ran


@pytest.mark.parametrize("output", ["both", "masks", "probabilities"])
def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, monkeypatch, output):
    import stages.predict as module

    monkeypatch.setattr(module, "SHARD_SIZE", 2)
    values = {"splits": ["val", "train"], "output": output}
    whole = bench.run("predict", f"whole-{output}", values)
    read = type(bench.dataset).image
    reads: list[str] = []

    def cut_off(self, image_id):
        reads.append(image_id)
        if len(reads) == 7:
            raise KeyboardInterrupt
        return read(self, image_id)

    monkeypatch.setattr(type(bench.dataset), "image", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("predict", f"cut-{output}", values)
    first = len(reads)
    monkeypatch.setattr(
        type(bench.dataset), "image", lambda self, image_id: reads.append(image_id) or read(self, image_id)
    )
    continued = bench.run("predict", f"cut-{output}", values)
    assert continued.manifest.resumed == 1
    assert continued.manifest.content == whole.manifest.content
    if output != "masks":  # whole shards were kept
        assert len(reads) - first < 10


def test_mistakes_are_named(bench, tmp_path):
    with pytest.raises(ArtifactError, match=r"needs the input .data."):
        bench.run("predict", "x", {}, {"data": None})
    with pytest.raises(DataError, match="holds no picture"):
        bench.run("predict", "x", {"images": str(tmp_path)}, {"data": None})
    with pytest.raises(ConfigError, match="restrict_to_labels needs a data set"):
        build(PredictConfig, {"images": "holiday", "restrict_to_labels": True}, "test")
    with pytest.raises(ConfigError, match="nothing to predict"):
        build(PredictConfig, {"splits": []}, "test")
    with pytest.raises(ArtifactError, match="expected segmenter"):
        bench.run("predict", "x", {}, {"segmenter": "data"})


def test_a_network_for_other_classes_is_refused(bench):
    bench.add_segmenter("stranger", ("background", "cat"))
    with pytest.raises(ConfigError, match="the network knows the classes background, cat"):
        bench.run("predict", "x", {}, {"segmenter": "stranger"})
