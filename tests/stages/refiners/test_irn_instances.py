"""IRNet's second half as stages: train-refiner with displacements, instances, evaluate-instances."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.instance_masks import Instance, InstanceMasks, annotations_of, document_of
from artifacts.masks import read_mask, write_mask
from artifacts.score_maps import ScoreMaps
from artifacts.store import Workspace
from stages.engine.config import OptimizerConfig
from stages.engine.optimizers import build_optimizer
from stages.localization.centroids import instances_between_boundaries
from stages.networks import load_network, normalise
from stages.refiners.irn import IrnInstances
from stages.refiners.refiner import Means
from stages.refiners.settings.irn import InstanceSettings
from tests.stages.drawn_training import StopAt, StoppedError
from tests.stages.refiners.small_refinement import (
    CLASSES,
    INSTANCES,
    SPLITS,
    TRAINING,
    dataset_of,
    draw,
    fill,
    publish,
    run,
)

IDS = sorted(image_id for members in SPLITS.values() for image_id in members)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    space = fill(Workspace(tmp_path_factory.mktemp("instances") / "runs"))
    run(space, "train-refiner", "refiner", TRAINING)
    run(space, "instances", "instances", INSTANCES)
    return space


@pytest.fixture(scope="module")
def plain(space):
    """The same training without displacements."""
    method = TRAINING["method"] | {"displacement": False}
    return run(space, "train-refiner", "plain", TRAINING | {"method": method})


def test_boundaries_and_masks_are_the_same_with_and_without_displacements(space, plain):
    with_field, without = (
        checkpoint.load(artifact.file("weights.pt")) for artifact in (space.artifact("refiner"), plain)
    )
    assert {name.partition(".")[0] for name in with_field.keys() - without.keys()} == {"displacement"}
    assert all(torch.equal(with_field[name], value) for name, value in without.items())
    contents = [
        run(
            space, "refine", f"refined-{name}", {}, {"data": "data", "seeds": "seeds", "refiner": name}
        ).manifest.content
        for name in ("refiner", "plain")
    ]
    assert contents[0] == contents[1]


def test_the_mean_displacement_is_that_of_all_images(space):
    network = load_network(space.artifact("refiner"))
    measured = network.displacement.mean.clone()
    assert measured.abs().min() > 1e-4
    network.displacement.mean.zero_()
    means = []
    with torch.no_grad():
        for index in range(len(IDS)):
            pixels = torch.from_numpy(draw(index)[0].transpose(2, 0, 1).copy())[None]
            means.append(network.with_displacement(normalise(pixels))[1][0].mean((1, 2)))
    torch.testing.assert_close(measured, torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)


def test_instances_are_those_of_the_fields(space):
    """The whole image, class by class; the image without a class has none."""
    found, dataset, maps = (
        InstanceMasks(space.artifact("instances")),
        dataset_of(space),
        ScoreMaps(space.artifact("seeds")),
    )
    assert list(found) == IDS
    settings = InstanceSettings(**INSTANCES)
    network = load_network(space.artifact("refiner"))
    irn = IrnInstances(settings, network, Means(torch.device("cpu")))
    total = 0
    for image_id in IDS:
        numbers, instances = found[image_id]
        assert numbers.shape == dataset.size(image_id)
        assert {one.class_id for one in instances} <= set(dataset.tags(image_id))
        pixels = normalise(torch.from_numpy(dataset.image(image_id).transpose(2, 0, 1).copy())[None])
        pixels = torch.nn.functional.pad(pixels, (0, (1 - pixels.shape[-1]) % 4))  # as for the mirror image
        with torch.no_grad():
            displacement = network.with_displacement(pixels)[1][0].numpy()
        known = type("Known", (), {"image": dataset.image(image_id)})
        boundaries, displacements = (found.numpy() for found in irn.fields([known]).values())
        assert np.abs(displacements[0] - displacement[..., : displacements.shape[-1]]).max() < 1e-4
        expected = instances_between_boundaries(maps[image_id], boundaries[0], displacements[0], settings)
        assert np.array_equal(numbers, expected.numbers)
        assert [one.score for one in instances] == pytest.approx([one.score for one in expected.instances], abs=1e-6)
        total += len(instances)
    summary = space.artifact("instances").summary
    assert (summary["images"], summary["instances"]) == (6, total)
    assert summary["without"] >= 1
    assert sum(summary["of_class"].values()) == total > 3


def test_stopped_and_continued_and_by_processes_the_instances_are_the_same(space):
    whole = space.artifact("instances").manifest.content
    assert run(space, "instances", "pooled", INSTANCES, workers=2).file("instances.json").read_bytes() == (
        space.artifact("instances").file("instances.json").read_bytes()
    )
    with pytest.raises(StoppedError):
        run(space, "instances", "cut", INSTANCES, progress=StopAt(3))
    cut = run(space, "instances", "cut", INSTANCES)
    assert cut.manifest.resumed == 1
    assert cut.manifest.content == whole


def test_a_network_without_displacements_is_refused(space, plain):
    with pytest.raises(ConfigError, match="the network of 'plain' has no displacement field"):
        run(space, "instances", "x", INSTANCES, {"data": "data", "seeds": "seeds", "refiner": "plain"})


def test_the_factor_of_the_learning_rate_is_that_of_the_displacements_alone():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"name": "a.new.weights", "params": parameters[:1]}, {"name": "a.new.weights", "params": parameters[1:]}]
    groups[1]["lr_factor"] = 5.0
    optimizer = build_optimizer(OptimizerConfig(lr=0.1, new_lr_factor=2), groups, fused=False)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 1.0])


def test_a_higher_learning_rate_moves_the_displacements_alone(space):
    method = TRAINING["method"] | {"displacement_lr_factor": 10.0}
    fast = checkpoint.load(run(space, "train-refiner", "fast", TRAINING | {"method": method}).file("weights.pt"))
    slow = checkpoint.load(space.artifact("refiner").file("weights.pt"))
    changed = {name.partition(".")[0] for name, value in slow.items() if not torch.equal(fast[name], value)}
    assert changed == {"displacement"}


# --- evaluate-instances ---


@pytest.fixture(scope="module")
def objects(space, tmp_path_factory):
    """The boxes of the images, with a border, and an object of no class."""
    folder = tmp_path_factory.mktemp("objects")
    for index, image_id in enumerate(IDS):
        numbers = np.where(draw(index)[1] > 0, 4, 0).astype(np.uint8)
        numbers[14, 20:50] = 255
        numbers[50:55, 50:55] = 9  # background in the masks
        write_mask(folder / f"{image_id}.png", numbers)
    return folder


INPUTS = {"data": "data", "instances": "instances"}


def test_the_precision_of_instances(space, objects):
    values = {"splits": ["train", "weak"], "objects": str(objects)}
    artifact = run(space, "evaluate-instances", "scores", values, INPUTS)
    metrics = json.loads(artifact.file("metrics.json").read_text())
    assert (metrics["images"], metrics["true_instances"]) == (6, 5)
    found = InstanceMasks(space.artifact("instances"))
    assert metrics["instances"] == sum(len(found[image_id][1]) for image_id in IDS)
    assert set(metrics["classes"]) == {"red", "green"}
    assert artifact.summary["ap50"] == metrics["ap50"] == np.mean([one["ap50"] for one in metrics["classes"].values()])
    assert (
        run(space, "evaluate-instances", "by-two", values, INPUTS, workers=2).manifest.content
        == artifact.manifest.content
    )


def test_true_instances_of_no_class_are_counted_and_told(space, objects, capsys):
    values = {"splits": ["train", "weak"], "objects": str(objects)}
    artifact = run(space, "evaluate-instances", "told", values, INPUTS)
    dropped = artifact.summary["true_instances_of_no_class"]
    assert dropped == sum((read_mask(file) == 9).any() for file in objects.glob("*.png"))  # see `objects`
    assert f"of no class in the true masks: {dropped} of {dropped + 5} true instances" in capsys.readouterr().err


def test_the_true_masks_have_the_precision_1(space, objects):
    drawn = {image_id: draw(index)[1] for index, image_id in enumerate(IDS)}

    def write(writer):
        images, annotations = [], []
        for image_id, mask in drawn.items():
            height, width = mask.shape
            numbers = (mask > 0).astype(np.uint8)
            with writer.item(f"instances/{image_id}.png") as temporary:
                write_mask(temporary, numbers)
            images.append({"image_id": image_id, "file_name": "x", "width": width, "height": height})
            annotations.append(annotations_of(numbers, [Instance(int(mask.max()), 1.0)] if mask.any() else []))
        writer.write_json("instances.json", document_of(CLASSES, images, annotations))

    publish(space, "perfect", "instances", write)
    values = {"splits": ["train", "weak"], "objects": str(objects)}
    perfect = run(space, "evaluate-instances", "best", values, INPUTS | {"instances": "perfect"}).summary
    assert (perfect["ap50"], perfect["ap75"], perfect["class_agnostic"]["ap75"]) == (1, 1, 1)
    assert perfect["instances"] == perfect["true_instances"] == 5


def test_missing_truth_is_named(space, objects, tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*objects of true instances"):
        run(space, "evaluate-instances", "x", {}, INPUTS)
    with pytest.raises(DataError, match="2 of 2 images have no true instances in"):
        run(space, "evaluate-instances", "x", {"objects": str(tmp_path)}, INPUTS)
    with pytest.raises(DataError, match="the splits val of 'drawn' are empty"):
        run(space, "evaluate-instances", "x", {"objects": str(objects), "splits": ["val"]}, INPUTS)
    run(space, "instances", "some", INSTANCES | {"splits": ["weak"]})
    with pytest.raises(DataError, match="2 of 2 images have no instances in 'some': t0, t1"):
        run(space, "evaluate-instances", "x", {"objects": str(objects)}, INPUTS | {"instances": "some"})


def test_a_true_mask_of_a_different_size_is_named(space, objects, tmp_path):
    for image_id in IDS:
        write_mask(tmp_path / f"{image_id}.png", np.zeros((5, 5), np.uint8))
    with pytest.raises((DataError, ArtifactError), match=r"is 5x5 \(width x height\), expected 90x72"):
        run(space, "evaluate-instances", "x", {"objects": str(tmp_path)}, INPUTS)
