"""What holds for every refiner, whatever its idea is: a new one is found and asked all of it."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import checkpoint
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from artifacts.store import Workspace
from stages.engine.method import Method
from stages.networks import load_network
from stages.refiners import REFINERS, load_refiner
from stages.refiners.refiner import Refiner
from stages.refiners.settings import TRAINED
from stages.refiners.settings.base import ForegroundRefinerSettings
from tests.stages.drawn_training import StopAt, StoppedError
from tests.stages.forks import by_two_processes
from tests.stages.refiners.small_refinement import (
    INPUTS,
    INSTANCES,
    SPLITS,
    dataset_of,
    fill,
    inputs_of,
    method_of,
    run,
    train_and_refine,
    training_of,
)

IDS = sorted(image_id for members in SPLITS.values() for image_id in members)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """NAME-whole and, where it has a training, NAME-refiner-whole of every refiner; shards of two images."""
    space = fill(Workspace(tmp_path_factory.mktemp("all-refiners") / "runs"))
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr("stages.refine.SHARD_SIZE", 2)
        for name in REFINERS:
            train_and_refine(space, name, "whole")
        yield space


@pytest.mark.parametrize("name", REFINERS)
def test_the_card_leads_to_the_classes(name):
    chosen, kind = REFINERS[name], load_refiner(name)
    assert issubclass(kind, Refiner)
    assert chosen.card.output == "refiner"
    assert (kind.training is None) == (chosen.training is None)
    if kind.training is not None:
        assert issubclass(kind.training, Method)
        assert kind.training is load_refiner(chosen.training().name).training
        assert (kind.training.prepare is not Method.prepare) == bool(kind.training.prepared)


@pytest.mark.parametrize("name", REFINERS)
def test_every_setting_is_described(name):
    for settings in filter(None, (REFINERS[name], REFINERS[name].training)):
        for key, field in settings.model_fields.items():
            assert key == "name" or field.description, f"{name}.{key}"


@pytest.mark.parametrize("name", REFINERS)
def test_every_image_has_maps_of_its_classes_from_0_to_1(name, space):
    """Also the image without a class; the masks follow the maps and the background's score."""
    artifact, dataset = space.artifact(f"{name}-whole"), dataset_of(space)
    maps = ScoreMaps(artifact)
    assert maps.meaning == "refined"
    assert list(maps.ids) == IDS
    for image_id in IDS:
        found = maps[image_id]
        assert found.size == dataset.size(image_id)
        background = () if issubclass(REFINERS[name], ForegroundRefinerSettings) else (0,)
        assert tuple(found.classes) == (*background, *dataset.tags(image_id))
        assert np.isfinite(found.scores).all()
        assert found.scores.size == 0 or 0 <= found.scores.min() <= found.scores.max() <= 1
    assert artifact.verify() == []
    assert artifact.summary["method"] == name


@pytest.mark.parametrize("name", REFINERS)
def test_the_crf_without_a_step_leaves_the_masks(name, space):
    """It has the background of the masks: the refiner's own, or the constant that it is given."""
    values = {"labels": "all", "iterations": 0}
    if issubclass(REFINERS[name], ForegroundRefinerSettings):
        values["background_score"] = REFINERS[name]().background
    refined = space.artifact(f"{name}-whole")
    crf = run(space, "crf", f"{name}-crf", values, {"data": "data", "predictions": f"{name}-whole"})
    same = [read_mask(crf.file(item)) == read_mask(refined.file(item)) for item in (f"masks/{i}.png" for i in IDS)]
    assert min(values.mean() for values in same) > 0.999


@pytest.mark.parametrize("name", REFINERS)
def test_worker_processes_do_not_change_the_content(name, space):
    inputs = inputs_of(name, f"{name}-refiner-whole")
    pooled = run(space, "refine", f"{name}-pooled", {"method": method_of(name)}, inputs, workers=3)
    assert pooled.manifest.content == space.artifact(f"{name}-whole").manifest.content


@pytest.mark.parametrize("name", REFINERS)
def test_stopped_and_continued_the_result_is_the_same(name, space):
    """Stopped while labels are made, in the training, among the maps, among the masks."""
    refiner = f"{name}-refiner-cut"
    stages = [("refine", f"{name}-cut", {"method": method_of(name)}, inputs_of(name, refiner))]
    if name in TRAINED:
        stages.insert(0, ("train-refiner", refiner, training_of(name)))
    for stage in stages:
        for at in (2, 2) if stage[0] == "train-refiner" else (3, 8):
            with pytest.raises(StoppedError):
                run(space, *stage, checkpoint_every_s=0.0, progress=StopAt(at))
        cut = run(space, *stage)
        assert cut.manifest.resumed >= 1
        assert cut.manifest.content == space.artifact(stage[1].replace("cut", "whole")).manifest.content


@pytest.mark.parametrize("name", TRAINED)
def test_every_term_of_a_training_is_felt(name, space):
    assert all(value > 0 for value in space.artifact(f"{name}-refiner-whole").summary["losses"].values())


@pytest.fixture(scope="module")
def by_two(space):
    """NAME-by-two of every refiner, and instances-by-two, by two processes."""

    def act():
        for name in REFINERS:
            train_and_refine(space, name, "by-two")
        inputs = INPUTS["instances"] | {"refiner": "irn-refiner-by-two"}
        run(space, "instances", "instances-by-two", INSTANCES, inputs)

    by_two_processes(act)
    return space


@pytest.mark.parametrize("name", REFINERS)
def test_two_processes_train_and_refine_as_one_does(name, by_two, monkeypatch):
    """The weights after three steps without momentum: each the sum of gradients of a joint batch."""
    for key in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    if name in TRAINED:
        refiners = [by_two.artifact(f"{name}-refiner-{end}") for end in ("whole", "by-two")]
        one, two = (checkpoint.load(artifact.file("weights.pt")) for artifact in refiners)
        moved = load_network(run(by_two, "train-refiner", f"{name}-step", training_of(name) | {"iterations": 1}))
        state = moved.state_dict()
        largest = max(float((one[key] - state[key]).abs().max()) for key in one)
        assert largest > 1e-4
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-3 * largest
    alone = run(
        by_two, "refine", f"{name}-by-one", {"method": method_of(name)}, inputs_of(name, f"{name}-refiner-by-two")
    )
    assert by_two.artifact(f"{name}-by-two").manifest.content == alone.manifest.content
    assert by_two.artifact(f"{name}-by-two").summary == alone.summary


def test_two_processes_find_the_instances_that_one_finds(by_two, monkeypatch):
    for key in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    inputs = INPUTS["instances"] | {"refiner": "irn-refiner-by-two"}
    alone = run(by_two, "instances", "instances-by-one", INSTANCES, inputs)
    assert alone.summary["instances"] > 2
    assert by_two.artifact("instances-by-two").manifest.content == alone.manifest.content
