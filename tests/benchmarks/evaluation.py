"""Evaluation of masks on disk: VOC's whole validation set, and a part of it against scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import confusion_matrix

from artifacts.dataset import Dataset
from artifacts.masks import IGNORE, encode_mask
from artifacts.score_maps import ScoreMap
from artifacts.store import Workspace
from stages.contract import default_workers
from stages.evaluate import Thresholds
from stages.evaluation.confusion import ConfusionMatrix
from stages.evaluation.scoring import Pairs, score_pairs
from stages.localization.grid import resize_maps
from stages.localization.seed_labels import dense_labels
from stages.localization.swept_maps import sweep_maps
from tests.benchmarks import inputs
from tests.benchmarks.measure import WALL, Result, alone, in_turn

# (images, different ones among them, their size, repeats)
SIZES = {
    "tiny": (9, 3, (48, 64), 1),
    "quick": (300, 12, inputs.VOC_SIZE, 2),
    "full": (1449, 24, inputs.VOC_SIZE, 3),
}
SWEPT = {"tiny": (3, (48, 64), 1), "quick": (8, inputs.VOC_SIZE, 1), "full": (16, inputs.VOC_SIZE, 2)}
PART = {"tiny": 5, "quick": 12, "full": 48}


def evaluation(scale: str, folder: Path) -> Result:
    """1,449 pairs of PNG masks to one confusion matrix, as `semiseg evaluate` does it."""
    count, different, size, repeats = SIZES[scale]
    pairs = _pairs(folder, count, different, size)
    workers = default_workers()
    ours, matrix = alone(lambda: score_pairs(pairs, inputs.NUM_CLASSES, workers), repeats, WALL)
    pixels = int(matrix.counts.sum()) + matrix.ignored
    return Result(
        "evaluation",
        f"masks on disk to one confusion matrix, {workers} processes",
        f"{count} pairs of masks of {size[0]}x{size[1]}",
        None,
        ours,
        f"every pixel counted once: {pixels}",
        pixels == count * size[0] * size[1] and matrix.images == count,
        target_most=15.0,
        figures={"workers": workers, "images_per_s": count / ours.median, "mean_iou": matrix.scores().mean_iou},
    )


def evaluation_sklearn(scale: str, folder: Path) -> Result:
    """The same on a part of the masks, in one process, against Pillow and scikit-learn's confusion_matrix."""
    _, different, size, repeats = SIZES[scale]
    pairs = _pairs(folder, PART[scale], different, size)

    def plain() -> np.ndarray:
        total = np.zeros((inputs.NUM_CLASSES, inputs.NUM_CLASSES), np.int64)
        for prediction, truth in pairs.values():
            found, true = (np.asarray(Image.open(file)) for file in (prediction, truth))
            known = true != IGNORE
            total += confusion_matrix(true[known], found[known], labels=np.arange(inputs.NUM_CLASSES))
        return total

    baseline, ours, expected, matrix = in_turn(plain, lambda: score_pairs(pairs, inputs.NUM_CLASSES, 1), repeats)
    return Result(
        "evaluation-sklearn",
        "masks on disk to one confusion matrix, one process; baseline: scikit-learn's confusion_matrix",
        f"{len(pairs)} pairs of masks of {size[0]}x{size[1]}",
        baseline,
        ours,
        "the confusion matrix, count by count",
        bool(np.array_equal(matrix.counts[:, : inputs.NUM_CLASSES], expected)),
        figures={"images_per_s": len(pairs) / ours.median},
    )


def threshold_sweep(scale: str, folder: Path) -> Result:
    """Score maps at sixty background thresholds: one pass, against sixty evaluations of the masks at each."""
    count, size, repeats = SWEPT[scale]
    data, ids = inputs.images(Workspace(folder / "runs"), count, size)
    dataset, thresholds = Dataset(data), Thresholds().values()
    maps = {}
    for number, image_id in enumerate(ids):
        classes = np.array(dataset.tags(image_id), np.uint8)
        scores = inputs.class_probabilities(dataset.mask(image_id), seed=number)[classes]
        scores /= scores.max(axis=(1, 2), keepdims=True)
        maps[image_id] = ScoreMap(image_id, scores, classes, dataset.size(image_id), 4, "cam")

    def separate() -> list[np.ndarray]:
        return [_at_one_threshold(dataset, maps, threshold) for threshold in thresholds]

    baseline, ours, expected, (sweep,) = in_turn(
        separate, lambda: sweep_maps(dataset, maps, [ids], thresholds, 1), repeats
    )
    found = [matrix.counts for matrix in sweep.matrices()]
    return Result(
        "threshold-sweep",
        "score maps at sixty thresholds in one pass, one process; baseline: an evaluation for each threshold",
        f"{count} images of {size[0]}x{size[1]}, score maps of their labels at stride 4",
        baseline,
        ours,
        "all sixty confusion matrices, count by count",
        bool(np.array_equal(found, expected)),
        figures={"images_per_s": count / ours.median},
    )


def _at_one_threshold(dataset: Dataset, maps: Mapping[str, ScoreMap], threshold: float) -> np.ndarray:
    matrix = ConfusionMatrix(dataset.num_classes)
    for image_id, one in maps.items():
        labels = dense_labels(resize_maps(one.scores, one.size, one.stride), one.classes, threshold)
        matrix.add(labels, dataset.mask(image_id))
    return matrix.counts


def _pairs(folder: Path, count: int, different: int, size: tuple[int, int]) -> Pairs:
    """Files of `count` pairs: the masks of `different` drawn images, and what a network would make of them."""
    encoded = []
    for number in range(different):
        truth = inputs.drawn_image(number, size)[1]
        coarse = inputs.class_probabilities(truth, seed=number, stride=4).argmax(axis=0).astype(np.uint8)
        found = coarse.repeat(4, axis=0).repeat(4, axis=1)[: size[0], : size[1]]
        encoded.append((encode_mask(found), encode_mask(truth)))
    folders = (folder / "predictions", folder / "truth")
    pairs = {}
    for index in range(count):
        files = (folders[0] / f"{index:05d}.png", folders[1] / f"{index:05d}.png")
        for file, data in zip(files, encoded[index % different], strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        pairs[f"{index:05d}"] = files
    return pairs
