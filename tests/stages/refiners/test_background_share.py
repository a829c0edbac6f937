"""stages/refiners/background_share.py: worked by hand, against a sort of all pixels, and what must hold."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from artifacts.errors import DataError
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from artifacts.store import Workspace
from stages.engine.known import Known
from stages.refiners.background_share import (
    BINS,
    FURTHEST,
    BackgroundShare,
    background_of_masks,
    factor_for,
    log_ratios,
    split,
)
from stages.refiners.first_pass import Decided
from stages.refiners.refiner import Means
from stages.refiners.settings.background_share import BackgroundShareSettings
from tests.stages.refiners.small_refinement import CLASSES, SPLITS, dataset_of, draw, fill, publish, run

IDS = sorted(image_id for members in SPLITS.values() for image_id in members)
METHOD = {"method": {"name": "background-share"}}


def known_of(scores, classes, labels, meaning="probability"):
    scores = np.asarray(scores, np.float32)
    found = ScoreMap("a", scores, np.array(classes, np.uint8), scores.shape[1:], 1, meaning)
    return Known("a", np.zeros((*scores.shape[1:], 3), np.uint8), labels, found)


def counts_of(ratios):
    return np.histogram(ratios, BINS, (-FURTHEST, FURTHEST))[0]


def test_worked_by_hand():
    """P(0) = .9, .8, .6, .2 against one label: odds 9, 4, 1.5, .25. For one half: a factor between 1/4 and 2/3."""
    background = np.array([[[0.9, 0.8, 0.6, 0.2]]])
    factor = factor_for(counts_of(log_ratios(background, 1 - background)), 0.5)
    assert 1 / 4 < factor < 1 / 1.5


def test_the_best_class_decides_and_absent_classes_do_not_count():
    """Labels 1, 3 and 4; class 2, which is absent, is left out; class 4 has no map."""
    scores = np.array([0.28, 0.21, 0.31, 0.2]).reshape(4, 1, 1)
    background, foreground, classes = split(known_of(scores, (0, 1, 2, 3), (1, 3, 4)))
    assert classes.tolist() == [0, 1, 3, 4]
    assert log_ratios(background, foreground) == pytest.approx(np.log(4 / 3))


def test_the_factor_is_of_the_background_alone():
    """P = .6, .3, .1 with k = 1/2: Z = .7. Maps without a background get one of 1/2: .5 k and .75, Z = 1."""
    refiner = BackgroundShare(BackgroundShareSettings(), None, Means(torch.device("cpu")))
    refiner.decided = Decided(["a"], np.array([1]), {"factor": np.array([0.5])})
    probabilities = known_of(np.array([0.6, 0.3, 0.1]).reshape(3, 1, 1), (0, 1, 2), (1, 2))
    (found,) = refiner.refine([[probabilities]])
    assert found.scores.ravel() == pytest.approx([0.3 / 0.7, 0.3 / 0.7, 0.1 / 0.7])
    (found,) = refiner.refine([[known_of([[[0.75]]], (1,), (1,), meaning="cam")]])
    assert found.classes.tolist() == [0, 1]
    assert found.scores.ravel() == pytest.approx([0.25, 0.75])


def test_an_image_without_known_labels_does_not_count_and_keeps_its_scores():
    refiner = BackgroundShare(BackgroundShareSettings(), None, Means(torch.device("cpu")))
    scores = np.array([0.6, 0.3, 0.1]).reshape(3, 1, 1)
    unknown = replace(known_of(scores, (0, 1, 2), (1, 2)), labelled=False)
    ((_, survey),) = refiner.survey([[unknown]])
    assert not survey["ratios"].any()
    refiner.decided = Decided(["a"], np.array([1]), {"factor": np.array([0.5])})
    (found,) = refiner.refine([[unknown]])
    assert found.scores.ravel() == pytest.approx(scores.ravel())


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.75, 1.0])
def test_the_share_is_that_of_a_sort_of_all_pixels(wanted):
    ratios = np.random.default_rng(0).normal(1, 3, 20_000).clip(-11, 11)
    factor = factor_for(counts_of(ratios), wanted)
    assert (ratios + np.log(factor) > 0).mean() == pytest.approx(wanted, abs=0.002)
    if 0 < wanted < 1:
        assert factor == pytest.approx(np.exp(-np.quantile(ratios, 1 - wanted)), rel=0.02)


def test_without_a_pixel_the_factor_is_1():
    assert factor_for(np.zeros(BINS, int), 0.7) == 1


@pytest.fixture
def space(tmp_path):
    """Predictions that find too little of every box, shared among the image's labels."""
    space = fill(Workspace(tmp_path / "runs"))

    def write(writer):
        with ScoreMapWriter(writer, class_names=CLASSES, meaning="probability") as maps:
            for shard in maps.plan(IDS):
                for image_id in shard:
                    mask = draw(IDS.index(image_id))[1]
                    box = np.random.default_rng(0).uniform(0.1, 0.45, mask.shape) * (mask > 0)
                    tags = np.unique(mask[mask > 0])
                    scores = np.stack([1 - box, *[box] * len(tags)])
                    maps.add(image_id, scores, [0, *tags], size=mask.shape, stride=1)
        writer.write_json("classes.json", {"class_names": CLASSES, "ids": IDS, "splits": list(SPLITS)})

    publish(space, "guesses", "predictions", write)
    return space


def share_of_background(artifact, ids):
    masks = [read_mask(artifact.file(f"masks/{image_id}.png")) for image_id in ids]
    return np.mean(np.concatenate([mask.ravel() for mask in masks]) == 0)


def test_as_many_pixels_become_background_as_in_the_masks(space):
    """All boxes were background; the last image has no label, and is not counted."""
    refined = run(space, "refine", "refined", METHOD, {"data": "data", "seeds": "guesses"})
    shown = [image_id for image_id in IDS if dataset_of(space).tags(image_id)]
    wanted = background_of_masks(dataset_of(space))
    assert share_of_background(refined, shown) == pytest.approx(wanted, abs=0.01)
    assert share_of_background(refined, set(IDS) - set(shown)) == 1
    assert refined.summary["whole_set"]["background"] == pytest.approx(wanted)
    assert refined.summary["whole_set"]["factor"] < 1


def test_images_without_labels_pass_as_they_are(space):
    """The data set without the labels of w1 and w2, which move to the split unlabelled; all others as before."""
    record = json.loads((space.path / "data" / "dataset.json").read_text())
    record["splits"] |= {"weak": ["w0", "w3"], "unlabelled": ["w1", "w2"]}
    for image_id in ("w1", "w2"):
        del record["tags"][image_id]

    def write(writer):
        shutil.copytree(space.path / "data", writer.path, dirs_exist_ok=True)
        (writer.path / "manifest.json").unlink()
        writer.write_json("dataset.json", record)

    publish(space, "fewer", "dataset", write)
    refined = run(space, "refine", "refined", METHOD, {"data": "fewer", "seeds": "guesses"})
    guesses, maps = ScoreMaps(space.artifact("guesses")), ScoreMaps(refined)
    assert np.abs(maps["w1"].scores - guesses["w1"].scores).max() < 1e-3
    assert np.abs(maps["w0"].scores - guesses["w0"].scores).max() > 0.05


def test_the_share_is_that_of_the_masks_of_train_that_show_something(space):
    masks, dataset = [draw(IDS.index(image_id))[1] for image_id in SPLITS["train"]], dataset_of(space)
    assert background_of_masks(dataset) == np.mean(np.concatenate([mask.ravel() for mask in masks]) == 0)
    dataset.splits["train"] = ("t0", "w3")  # nothing is in w3
    assert background_of_masks(dataset) == np.mean(masks[0] == 0)


def test_masks_without_labels_are_an_error(space):
    dataset = dataset_of(space)
    dataset._table = replace(dataset._table, labelled=np.zeros(len(IDS), bool))
    with pytest.raises(DataError, match="images with masks and labels"):
        background_of_masks(dataset)
