"""The stage predict against a plain loop over the images; its score maps; computed saliency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import torch
from PIL import Image

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.masks import encode_mask, read_mask
from artifacts.score_maps import ScoreMaps, ScoreMapWriter
from artifacts.store import Artifact, Workspace, Writer
from stages.data.config import VOC_CLASS_NAMES
from stages.localization import saliency
from stages.networks import build_segmenter, load_network, normalise, upsample
from stages.networks.config import NetworkConfig
from tests.benchmarks import inputs
from tests.benchmarks.measure import CPU, Result, in_turn

# (images, their size, repeats)
PREDICTED = {"tiny": (3, (48, 64), 1), "quick": (16, inputs.VOC_SIZE, 2), "full": (60, inputs.VOC_SIZE, 3)}
RECORDS = {"tiny": (3, (48, 64), 1), "quick": (40, inputs.VOC_SIZE, 2), "full": (200, inputs.VOC_SIZE, 5)}
SALIENT = {"tiny": (1, (48, 64), 1), "quick": (4, inputs.VOC_SIZE, 2), "full": (16, inputs.VOC_SIZE, 5)}
STRIDE = 4
FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


def untrained_segmenter(workspace: Workspace) -> Artifact:
    """An artifact `segmenter` of 21 classes whose scores are spread enough that several classes win."""
    network = build_segmenter(NetworkConfig.model_validate("tiny"), 21, seed=1)
    with torch.no_grad():
        for parameter in list(network.head.parameters())[-2:]:
            parameter.normal_(generator=torch.Generator().manual_seed(0))

    def fill(writer: Writer) -> None:
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(VOC_CLASS_NAMES))

    return inputs.hand_made(workspace, "segmenter", "segmenter", fill)


def plain_loop(segmenter: Artifact, dataset: Dataset, ids: Sequence[str], folder: Path) -> None:
    """A mask and a file of score maps of each image, one after the other."""
    network = load_network(segmenter)
    for image_id in ids:
        image = torch.from_numpy(np.array(Image.open(dataset.path / f"images/{image_id}.jpg")))
        with torch.inference_mode():
            logits = network(normalise(image.permute(2, 0, 1)[None]))
            probabilities = upsample(logits, image.shape[:2], network.stride).softmax(1)[0].numpy()
        (folder / f"{image_id}.png").write_bytes(encode_mask(probabilities.argmax(0).astype(np.uint8)))
        maps = probabilities[:, ::STRIDE, ::STRIDE].astype(np.float16)
        kept = np.flatnonzero(maps.max((1, 2)) >= 0.01)
        np.savez_compressed(folder / f"{image_id}.npz", scores=maps[kept], classes=kept)


def predict(scale: str, folder: Path) -> Result:
    """Masks and score maps of a data set, as `semiseg predict` writes them."""
    count, size, repeats = PREDICTED[scale]
    workspace = Workspace(folder / "runs")
    data, ids = inputs.images(workspace, count, size)
    segmenter, dataset = untrained_segmenter(workspace), Dataset(data)

    def plain() -> dict[str, np.ndarray]:
        plain_loop(segmenter, dataset, ids, folder)
        return {image_id: read_mask(folder / f"{image_id}.png") for image_id in ids}

    def ours() -> dict[str, np.ndarray]:
        given = {"data": "data", "segmenter": "segmenter"}
        made = inputs.stage(workspace, "predict", "predicted", {}, given, force=True, device="cpu", workers=1)
        return {image_id: read_mask(made.file(f"masks/{image_id}.png")) for image_id in ids}

    baseline, own, expected, found = in_turn(plain, ours, repeats, CPU, each=count)
    alike = float(np.mean([(expected[image_id] == found[image_id]).mean() for image_id in ids]))
    return Result(
        "predict",
        "the stage predict, masks and score maps of an image; baseline: one after the other, a PNG and an .npz each",
        f"{count} images of {size[0]}x{size[1]}, preset tiny, CPU, one worker",
        baseline,
        own,
        "at least 99.9 % of the pixels of the masks",
        alike >= 0.999,
        target_ratio=1.0,
        figures={"equal_pixels": alike},
    )


def predict_records(scale: str, folder: Path) -> Result:
    """What is done with the score maps of an image after the device has made them."""
    count, size, repeats = RECORDS[scale]
    ids = [f"{number:05d}" for number in range(count)]
    different = [_maps(number, size) for number in range(min(count, 8))]
    maps = {image_id: different[number % 8] for number, image_id in enumerate(ids)}

    def by_hdf5() -> None:
        with h5py.File(folder / "plain.h5", "w", libver="v110") as file:
            for image_id, (scores, classes) in maps.items():
                group = file.create_group(image_id)
                group.attrs["height"], group.attrs["width"] = size
                group.create_dataset("scores", data=scores, chunks=(1, *scores.shape[1:]), **FILTERS)
                group.create_dataset("classes", data=classes, chunks=classes.shape, fletcher32=True)

    def ours() -> None:
        for file in (folder / "scores").glob("*"):
            file.unlink()
        with ScoreMapWriter(
            Writer(folder), class_names=VOC_CLASS_NAMES, shard_size=100, meaning="probability"
        ) as writer:
            writer.plan(ids)
            for image_id, (scores, classes) in maps.items():
                writer.add(image_id, scores, classes, size=size, stride=STRIDE)

    baseline, own, _, _ = in_turn(by_hdf5, ours, repeats, CPU, each=count)
    made = ScoreMaps(folder)
    with h5py.File(folder / "plain.h5") as file:
        equal = all(np.array_equal(file[image_id]["scores"][...], made[image_id].scores) for image_id in ids)
    return Result(
        "predict-records",
        "score maps of an image checked and written in shards; baseline: one HDF5 file that h5py packs, unchecked",
        f"{count} images of {size[0]}x{size[1]}, maps of stride {STRIDE} of the classes present",
        baseline,
        own,
        "the maps, value by value",
        equal,
    )


def computed_saliency(scale: str, folder: Path) -> Result:
    """Saliency by boundary connectivity, as the stage seeds computes it."""
    count, size, repeats = SALIENT[scale]
    images = [inputs.drawn_image(number, size)[0] for number in range(count)]

    def ours() -> list[np.ndarray]:
        return [saliency.boundary_connectivity(image) for image in images]

    def whole() -> list[np.ndarray]:
        with mock.patch.object(saliency, "PIXELS_EACH", 10**9):
            return ours()

    baseline, own, expected, found = in_turn(whole, ours, repeats, CPU, each=count)
    difference = float(np.mean([np.abs(a - b).mean() for a, b in zip(expected, found, strict=True)]))
    return Result(
        "saliency",
        "saliency of an image, on at most 80 pixels a superpixel; baseline: on all pixels",
        f"{count} images of {size[0]}x{size[1]}",
        baseline,
        own,
        "the mean difference of the maps, at most 0.06",
        difference <= 0.06,
        target_ratio=4.0,
        target_most=0.04,
        figures={"mean_difference": difference},
    )


def _maps(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float16 (K, h, w) of the background and the classes present, and their ids."""
    mask = inputs.drawn_image(number, size)[1]
    classes = np.union1d([0], np.unique(mask[mask < inputs.NUM_CLASSES])).astype(np.uint8)
    maps = inputs.class_probabilities(mask, seed=number, stride=STRIDE)[classes]
    return (maps / maps.sum(axis=0)).astype(np.float16), classes
