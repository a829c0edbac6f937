"""What the tests of refiners share: drawn images of several sizes, their score maps, and a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from artifacts import checkpoint
from artifacts.dataset import Dataset, write_dataset
from artifacts.masks import write_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Work, Workspace
from stages.config import build
from stages.contract import Execution, load_stage
from stages.networks import build_classifier, build_segmenter
from stages.networks.config import ClassifierConfig, NetworkConfig
from stages.pipeline.run_stage import run_stage
from stages.refiners.settings import REFINERS, TRAINED

CLASSES = ("background", "red", "green")
SIZES = ((72, 90), (72, 90), (61, 83), (90, 72), (72, 90), (61, 83))
SPLITS = {"train": ["t0", "t1"], "weak": ["w0", "w1", "w2", "w3"]}
# Settings of trainings that suit small images, where the defaults do not; a refiner that is not named has its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "irn": {"radius": 4, "crf": {"scale": 5.0}, "displacement": True},
    "psa": {"radius": 3, "crf": {"scale": 5.0}},
}
# Settings of refiners that learn while they refine: fewer steps.
SHORT: dict[str, dict[str, Any]] = {
    "wsgcn": {"steps": 10, "doublings": 3},
    "label-noise": {"steps": 10, "superpixels": 60, "margin": 0.0},  # no unknown pixels, as the others
}


def training_of(name: str) -> dict[str, Any]:
    """Values of a short training without momentum, the one whose network this refiner takes."""
    training = REFINERS[name].training
    assert training is not None
    trained = training().name
    return {
        "method": {"name": trained} | SMALL.get(trained, {}),
        "iterations": 3,
        "batch_size": 4,
        "crop_size": 48,
        "log_every": 1,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    }


def method_of(name: str) -> dict[str, Any]:
    """The method of a `refine` that does not take long."""
    return {"name": name} | SHORT.get(name, {})


TRAINING = training_of("irn")


def draw(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy grey image with a red or green box, and its mask; the last image has no box."""
    random = np.random.default_rng(index)
    height, width = SIZES[index]
    mask = np.zeros((height, width), np.uint8)
    if index < len(SIZES) - 1:
        mask[15:45, 20:50] = 1 + index % 2
    colours = np.array([(120, 120, 120), (200, 40, 40), (40, 180, 40)])
    image = colours[mask] + random.normal(0, 12, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def blurred_scores(mask: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Activation maps as of a classifier: high in a part of the box, a little beside it; their classes."""
    classes = np.unique(mask[mask > 0])
    maps = []
    for value in classes:
        rows, columns = np.nonzero(mask[::4, ::4] == value)
        y, x = np.indices(mask[::4, ::4].shape)
        distance = (y - rows.mean() + 1) ** 2 + (x - columns.mean() - 1) ** 2
        scores = np.exp(-distance / 12)
        maps.append(scores / scores.max())
    return np.array(maps).reshape(len(classes), *mask[::4, ::4].shape), classes.astype(np.uint8)


def publish(space: Workspace, name: str, kind: str, write: Any) -> Artifact:
    work = Work("by hand", 1, kind, name.encode().hex().ljust(64, "0")[:64], {}, {}, {})
    with space.writing(name, work) as writer:
        write(writer)
        return space.publish(name, writer, work, {})


def fill(space: Workspace) -> Workspace:
    """data, seeds (score maps alone), classifier and segmenter."""
    ids = [image_id for members in SPLITS.values() for image_id in members]
    drawn = {image_id: draw(index) for index, image_id in enumerate(ids)}

    def write_data(writer: Any) -> None:
        for image_id, (image, mask) in drawn.items():
            with writer.item(f"images/{image_id}.png") as temporary:
                Image.fromarray(image).save(temporary)
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, mask)
        tags = {image_id: sorted(set(np.unique(mask).tolist()) - {0}) for image_id, (_, mask) in drawn.items()}
        write_dataset(
            writer, name="drawn", class_names=CLASSES, splits=SPLITS, tags=tags, tag_source="masks", mask_ids=ids
        )

    def write_seeds(writer: Any) -> None:
        with ScoreMapWriter(writer, class_names=CLASSES) as maps:
            for shard in maps.plan(ids):
                for image_id in shard:
                    mask = drawn[image_id][1]
                    scores, classes = blurred_scores(mask, ids.index(image_id))
                    maps.add(image_id, scores, classes, size=mask.shape, stride=4)

    def write_network(writer: Any, network: Any) -> None:
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(CLASSES))

    classifier = build_classifier(ClassifierConfig.model_validate("tiny"), len(CLASSES) - 1, seed=0)
    segmenter = build_segmenter(NetworkConfig.model_validate("tiny"), len(CLASSES), seed=0)

    publish(space, "data", "dataset", write_data)
    publish(space, "seeds", "seeds", write_seeds)
    publish(space, "classifier", "classifier", lambda writer: write_network(writer, classifier))
    publish(space, "segmenter", "segmenter", lambda writer: write_network(writer, segmenter))
    return space


INSTANCES = {"doublings": 4, "steps": 40, "still": 0.5}  # of a network that has hardly learned
INPUTS = {
    "train-refiner": {"data": "data", "seeds": "seeds"},
    "refine": {"data": "data", "seeds": "seeds", "refiner": "refiner"},
    "instances": {"data": "data", "seeds": "seeds", "refiner": "refiner"},
}


def run(
    space: Workspace, stage: str, name: str, values: Any, inputs: dict[str, str] | None = None, **execution: Any
) -> Artifact:
    torch.set_num_threads(1)
    record = load_stage(stage)
    doing = Execution(**({"device": "cpu", "workers": 1} | execution))
    given = INPUTS[stage] if inputs is None else inputs
    return run_stage(record, build(record.config, values, "test"), space, name, given, doing).artifact


def inputs_of(name: str, refiner: str) -> dict[str, str]:
    """What `refine` takes for a refiner whose network, where it takes one, is the artifact `refiner`."""
    return {"data": "data"} | {key: refiner if key == "refiner" else key for key in REFINERS[name]().inputs()}


def train_and_refine(space: Workspace, name: str, end: str) -> Artifact:
    """The artifacts NAME-refiner-END, where the refiner has a training, and NAME-END; returns the latter."""
    refiner = f"{name}-refiner-{end}"
    if name in TRAINED:
        run(space, "train-refiner", refiner, training_of(name))
    return run(space, "refine", f"{name}-{end}", {"method": method_of(name)}, inputs_of(name, refiner))


def dataset_of(space: Workspace) -> Dataset:
    return Dataset(space.artifact("data"))
