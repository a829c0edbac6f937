"""Region growing and class-activation maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from artifacts.dataset import Dataset
from artifacts.masks import IGNORE
from artifacts.store import Workspace
from stages.engine.device import select_device
from stages.localization.activation_maps import ActivationMaps, class_activation_maps
from stages.localization.region_growing import grow_batch
from stages.networks import Classifier, build_classifier, normalise
from stages.networks.config import ClassifierConfig
from stages.networks.folding import for_inference
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, in_turn
from tests.stages.localization import reference_region_growing as reference

GROWING_SIDE = 41  # cells of DSRG's maps
# (images of a batch, batches, repeats)
GROWING = {"tiny": (2, 1, 1), "quick": (8, 1, 3), "full": (20, 3, 5)}
# (images, their long side, repeats); the classifier's scales are those of the stage seeds
CAMS = {
    "tiny": {"tiny": (5, 48, 1), "quick": (24, 96, 3), "full": (96, 96, 5)},
    "mobilenet_v2": {"tiny": (3, 48, 1), "quick": (8, 160, 2), "full": (48, 160, 5)},
}
CAM_SCALES = (0.5, 1.0, 1.5, 2.0)


def region_growing(scale: str, folder: Path) -> Result:
    """DSRG's growing step for whole batches, against a loop over the pixels."""
    batch, batches, repeats = GROWING[scale]
    cases = [_growing_case(batch, seed) for seed in range(batches)]

    def by_pixel() -> list[np.ndarray]:
        return [
            np.stack(
                [
                    reference.grow_by_flood_fill(p, s, np.flatnonzero(present))
                    for p, s, present in zip(*case, strict=True)
                ]
            )
            for case in cases
        ]

    def by_component() -> list[np.ndarray]:
        return [grow_batch(*case) for case in cases]

    baseline, ours, expected, found = in_turn(by_pixel, by_component, repeats)
    grown = [int((after != IGNORE).sum() - (case[1] != IGNORE).sum()) for after, case in zip(found, cases, strict=True)]
    return Result(
        "region-growing",
        "growing by connected components, a batch at once; baseline: a plain loop over the pixels",
        f"{batches} batches of {batch} maps of {GROWING_SIDE}x{GROWING_SIDE}, 21 classes",
        baseline,
        ours,
        "the grown seeds, pixel by pixel",
        all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)),
        target_ratio=30.0,
        figures={"ms_a_batch": 1000 * ours.median / batches, "grown_pixels": sum(grown)},
    )


def _growing_case(batch: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (B, C, h, w), sharp as after the CRF, seeds (B, h, w) inside the objects, present (B, C)."""
    probabilities, seeds, present = [], [], []
    for number in range(batch):
        mask = inputs.drawn_image(number + batch * seed, (120, 160))[1]
        mask = mask[np.ix_(*(np.linspace(0, side - 1, GROWING_SIDE).round().astype(int) for side in mask.shape))]
        mask = np.where(mask == IGNORE, 0, mask)
        sharp = inputs.class_probabilities(mask, seed=number, stride=1) ** 3
        probabilities.append((sharp / sharp.sum(axis=0)).astype(np.float32))
        inside = np.stack([ndimage.binary_erosion(mask == label, iterations=2) for label in range(21)])
        seeds.append(np.where(inside.any(axis=0), mask, IGNORE).astype(np.uint8))
        present.append(np.isin(np.arange(21), mask))
    return np.stack(probabilities), np.stack(seeds), np.stack(present)


def cams(scale: str, folder: Path) -> Result:
    return _cams("cams", "tiny", scale, folder)


def cams_mobilenet(scale: str, folder: Path) -> Result:
    return _cams("cams-mobilenet", "mobilenet_v2", scale, folder)


def _cams(name: str, backbone: str, scale: str, folder: Path) -> Result:
    """Multi-scale activation maps as the stage seeds makes them, against the plain network on single images."""
    count, side, repeats = CAMS[backbone][scale]
    size = (side * 3 // 4, side)
    artifact, ids = inputs.images(Workspace(folder), count, size)
    dataset, device = Dataset(artifact), select_device("cpu")
    config = ClassifierConfig.model_validate({"preset": backbone, "weights": "none", "freeze_batch_norm": False})
    classifier = settled(build_classifier(config, inputs.NUM_CLASSES - 1, seed=0), dataset)

    def run(network: Classifier, batch_size: int) -> dict[str, ActivationMaps]:
        made = class_activation_maps(
            network, dataset, ids, scales=CAM_SCALES, batch_size=batch_size, device=device, threads=2
        )
        return {maps.image_id: maps for maps in made}

    baseline, ours, expected, found = in_turn(
        lambda: run(classifier, 1), lambda: run(for_inference(classifier, device), 16), repeats
    )
    faint = sum(bool((maps.scores.max(axis=(1, 2)) < 0.9).any()) for maps in found.values())
    difference = max(float(np.abs(expected[i].scores - found[i].scores).max(initial=0)) for i in ids)
    return Result(
        name,
        "activation maps of 4 scales and mirrors in batches; baseline: one image (and its mirror) at a time",
        f"{count} drawn images of {size[0]}x{size[1]}, network {backbone}",
        baseline,
        ours,
        f"the maps, largest difference {difference:.1e} of 1 (wanted: 0.002)",
        difference <= 2e-3,
        target_ratio=1.3,
        figures={"images_per_s": count / ours.median, "largest_difference": difference, "faint_maps": faint},
    )


@torch.no_grad()
def settled(classifier: Classifier, dataset: Dataset) -> Classifier:
    """Random weights with the BatchNorm statistics of a few images, and maps that differ by more than rounding."""
    for layer in classifier.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # the statistics of the one batch below
    images = np.stack([dataset.image(image_id) for image_id in dataset.ids("val")[:8]])
    classifier.train()(normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
    classifier.scores.weight.mul_(100)
    return classifier.eval()
