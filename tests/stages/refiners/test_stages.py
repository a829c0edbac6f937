"""The stages train-refiner and refine: resumable, the same by any number of processes, and read by what follows."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Work, Workspace
from semiseg_cli.main import main
from stages.localization.boundary_labels import boundary_labels
from stages.localization.grid import resize_maps
from stages.localization.known_images import KnownImages
from stages.networks import load_network
from stages.refiners.settings import TrainRefinerConfig
from tests.stages.forks import killed_when
from tests.stages.refiners.small_refinement import INPUTS, SPLITS, TRAINING, dataset_of, fill, run

IDS = sorted(image_id for members in SPLITS.values() for image_id in members)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    space = fill(Workspace(tmp_path_factory.mktemp("refiners") / "runs"))
    run(space, "train-refiner", "refiner", TRAINING)
    run(space, "refine", "refined", {})
    return space


def test_the_labels_can_be_looked_at(space):
    artifact = space.artifact("refiner")
    assert artifact.kind == "refiner"
    assert artifact.verify() == []
    dataset = dataset_of(space)
    images = KnownImages(dataset, ScoreMaps(space.artifact("seeds")), space.path)
    crf = TrainRefinerConfig.model_validate(TRAINING).method.crf
    for image_id in IDS:
        labels = read_mask(artifact.file(f"labels/{image_id}.png"))
        assert np.array_equal(labels, boundary_labels(images[image_id], 0.30, 0.05, crf))
    network = load_network(artifact)
    assert network.class_names == dataset.class_names
    assert network(torch.zeros(1, 3, 61, 83)).shape == (1, 16, 21)


def test_refined_maps_and_their_masks(space):
    artifact, dataset = space.artifact("refined"), dataset_of(space)
    assert artifact.kind == "refined"
    maps = ScoreMaps(artifact)
    assert maps.meaning == "refined"
    assert list(maps.ids) == IDS == artifact.json("classes.json")["ids"]
    truth, given = [], []
    for image_id in IDS:
        found, mask = maps[image_id], read_mask(artifact.file(f"masks/{image_id}.png"))
        assert found.size == mask.shape == dataset.size(image_id)
        assert tuple(found.classes) == dataset.tags(image_id)
        full = resize_maps(found.scores, found.size, 4)
        expected = np.zeros(mask.shape, np.uint8)
        if len(found.classes):
            assert found.scores.max() == 1
            expected[full[0] > 0.25] = found.classes[0]
        assert np.array_equal(mask, expected)
        if image_id in SPLITS["weak"]:
            truth.append(dataset.mask(image_id).ravel())
            given.append(mask.ravel())
    iou = jaccard_score(np.concatenate(truth), np.concatenate(given), average=None).mean()
    assert artifact.summary["empty_maps"] == 0
    quality = artifact.summary["quality"]
    assert set(quality) == {"train", "weak"}
    assert quality["weak"]["mean"]["iou"] == pytest.approx(iou, abs=1e-5)


def test_processes_and_batches_do_not_change_the_content(space):
    pooled = run(space, "refine", "pooled", {"method": {"batch_size": 1}}, workers=2)
    first, second = (ScoreMaps(space.artifact(name)) for name in ("refined", "pooled"))
    for image_id in IDS:
        assert np.allclose(first[image_id].scores, second[image_id].scores, atol=2e-3)
    again = run(space, "refine", "again", {}, workers=3)
    assert again.manifest.content == space.artifact("refined").manifest.content
    labels = run(space, "train-refiner", "labelled-by-two", TRAINING | {"iterations": 1}, workers=2)
    for image_id in IDS:
        item = f"labels/{image_id}.png"
        assert labels.manifest.items[item] == space.artifact("refiner").manifest.items[item]
    assert pooled.summary["method"] == "irn"


def killed_with(space, pattern, count, *stage):
    """Runs a stage that is killed once so many files are there; whether it was."""
    enough = f".{stage[1]}.*.partial/{pattern}"
    act = functools.partial(run, space, *stage, checkpoint_every_s=0.0)
    return killed_when(lambda: len(list(space.path.glob(enough))) >= count, act)


def test_killed_and_continued_the_result_is_the_same(space, monkeypatch):
    """kill -9 among the labels and after a step; then in the maps and in the masks."""
    training = ("train-refiner", "cut", TRAINING)
    places = (("labels/*.png", 2), (".scratch/checkpoint.pt", 1))
    assert sum(killed_with(space, *place, *training) for place in places) >= 1
    cut = run(space, *training)
    assert cut.manifest.resumed >= 1
    assert cut.manifest.content == space.artifact("refiner").manifest.content
    monkeypatch.setattr("stages.refine.SHARD_SIZE", 2)
    whole = run(space, "refine", "whole-refined", {})
    refining = ("refine", "cut-refined", {})
    places = (("scores/shard-*.h5", 1), ("masks/*.png", 2))
    assert sum(killed_with(space, *place, *refining) for place in places) >= 1
    cut = run(space, *refining)
    assert cut.manifest.content == whole.manifest.content
    assert cut.summary == whole.summary


def test_crf_evaluate_and_train_read_what_refine_makes(space):
    values = {"labels": "tags", "parameters": "irn", "background_score": 0.25, "scale": 5.0}
    crf = run(space, "crf", "masks", values, {"data": "data", "predictions": "refined"})
    assert sorted(path.stem for path in crf.path.glob("masks/*.png")) == IDS
    inputs = {"data": "data", "predictions": "refined"}
    scores = run(space, "evaluate", "scores", {"splits": ["train", "weak"]}, inputs)
    assert scores.summary["images"] == len(IDS)
    values = {"method": {"name": "supervised", "labels": "mixed"}, "iterations": 1, "batch_size": 2, "crop_size": 48}
    trained = run(space, "train", "segmenter", values, {"data": "data", "weak_labels": "refined"})
    assert trained.kind == "segmenter"


def test_the_backbone_of_a_classifier_is_taken_where_it_fits(space):
    inputs = INPUTS["train-refiner"] | {"initial": "classifier"}
    taken = run(space, "train-refiner", "taken", TRAINING | {"iterations": 1}, inputs)
    theirs = checkpoint.load(space.artifact("classifier").file("weights.pt"))
    ours = checkpoint.load(taken.file("weights.pt"))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items() if key.startswith("backbone."))
    other = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False}
    with pytest.raises(ConfigError, match="the backbone of 'classifier' is tiny"):
        run(space, "train-refiner", "no", TRAINING | {"network": other}, inputs)


def test_inputs_that_do_not_belong_together_are_refused(space, tmp_path):
    with pytest.raises(ArtifactError, match="refiner"):
        run(space, "refine", "no", {}, {"data": "data", "seeds": "seeds"})
    with pytest.raises(DataError, match=r"has no score maps of|are empty|there are no images"):
        run(space, "refine", "no", {"splits": ["val"]})
    with pytest.raises(ConfigError, match="irm"):
        run(space, "refine", "no", {"method": "irm"})


def test_the_recipe_runs_from_images_to_the_table(tmp_path, capsys):
    """Classifier, seeds, refiner, refined maps, CRF and scores on a few drawn images, by the command line."""
    small = ("classifier_iterations=2", "refiner_iterations=2", "iterations=2", "radius=4")
    crops = ("classifier.crop_size=48", "refiner.crop_size=48", "segmenter.training.crop_size=48")
    images = ("data.dataset.train=4", "data.dataset.weak=4", "data.dataset.val=3", "data.dataset.long_side=64")
    settings = [word for setting in (*small, *crops, *images) for word in ("--set", setting)]
    assert main(["run", "irn-voc", *settings, "--workspace", str(tmp_path / "work"), "--device", "cpu"]) == 0
    assert "segmenter + CRF" in capsys.readouterr().out
    space = Workspace(tmp_path / "work")
    for name in ("evaluate-maps", "evaluate-refined"):  # the segmenter of two steps finds nothing
        assert 0 < space.artifact(name).summary["mean_iou"] < 1


def test_score_maps_that_lost_images_are_refused(space):
    """An index cut by hand: the other images would be left out without a word."""
    data = space.artifact("data").manifest
    read = {"artifact": "data", "kind": "dataset", "kind_version": data.kind_version}
    inputs = {"data": read | {"content": data.content, "fingerprint": data.fingerprint}}
    work = Work("seeds", 2, "seeds", "5" * 64, {"splits": ["train", "weak"]}, inputs, {})
    maps = ScoreMaps(space.artifact("seeds"))
    with space.writing("cut-seeds", work) as writer:
        with ScoreMapWriter(writer, class_names=maps.class_names) as written:
            for image_id in [image_id for shard in written.plan(IDS[:-1]) for image_id in shard]:
                found = maps[image_id]
                written.add(image_id, found.scores, found.classes, size=found.size, stride=found.stride)
        space.publish("cut-seeds", writer, work, {})
    for stage, values in (("refine", {}), ("train-refiner", TRAINING | {"splits": ["train"]})):
        with pytest.raises(ArtifactError, match=r"the score maps of 'cut-seeds' are of different images .* w3"):
            run(space, stage, "no", values, INPUTS[stage] | {"seeds": "cut-seeds"})
