"""The stage crf: labels present over a pool of processes, against one process with all 21 labels; the mean field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifacts.masks import IGNORE, read_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Workspace, Writer
from stages.contract import default_workers
from stages.data.config import VOC_CLASS_NAMES
from stages.localization.crf_parameters import PARAMETERS, CrfParameters
from stages.localization.dense_crf import backend_of, crf_of_each, crf_together, energies
from stages.localization.grid import resize_maps
from tests.benchmarks import inputs
from tests.benchmarks.measure import WALL, Result, alone, in_turn

# (images, their size, repeats)
SIZES: dict[str, tuple[int, tuple[int, int], int]] = {
    "tiny": (2, (48, 64), 1),
    "quick": (8, inputs.VOC_SIZE, 2),
    "full": (32, inputs.VOC_SIZE, 2),
}


def crf(scale: str, folder: Path) -> Result:
    return _crf("crf", "dsrg-test", scale, folder)


def crf_deeplab_v2(scale: str, folder: Path) -> Result:
    return _crf("crf-deeplab-v2", "deeplab-v2", scale, folder)


def _crf(name: str, parameters: str, scale: str, folder: Path) -> Result:
    """From the same score maps to refined masks on disk, as `semiseg crf` does it."""
    count, size, repeats = SIZES[scale]
    workspace = Workspace(folder)
    _, ids = inputs.images(workspace, count, size)

    def fill(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=VOC_CLASS_NAMES, meaning="probability") as maps:
            maps.plan(ids)
            for number, image_id in enumerate(ids):
                scores = inputs.class_probabilities(inputs.drawn_image(number, size)[1], seed=number)
                maps.add(image_id, scores, range(inputs.NUM_CLASSES), size=size, stride=4)
        writer.write_json("classes.json", {"class_names": list(VOC_CLASS_NAMES), "ids": sorted(ids), "splits": ["val"]})

    inputs.hand_made(workspace, "predictions", "predictions", fill)
    given = {"data": "data", "predictions": "predictions"}

    def run(output: str, workers: int, **config: Any) -> Artifact:
        config |= {"parameters": parameters}
        return inputs.stage(workspace, "crf", output, config, given, force=True, workers=workers)

    workers = default_workers()
    baseline, ours, everything, present = in_turn(
        lambda: run("all", workers=1, labels="all"), lambda: run("present", workers=workers), repeats, WALL
    )
    masks = [[read_mask(made.path / "masks" / f"{i}.png") for i in ids] for made in (everything, present)]
    equal = float(np.mean([np.mean(a == b) for a, b in zip(*masks, strict=True)]))
    return Result(
        name,
        f"dense CRF {parameters}, labels present, {workers} processes; baseline: all 21 labels, one process",
        f"{count} drawn images of {size[0]}x{size[1]}, score maps of 21 classes",
        baseline,
        ours,
        f"{100 * equal:.3f} % of the pixels equal (wanted: 99.9)",
        equal >= 0.999,
        target_ratio=4.0,
        figures={
            "workers": workers,
            "equal_pixels": equal,
            "images_per_s": count / ours.median,
            "classes_an_image": float(np.mean([len(np.unique(mask)) for mask in masks[1]])),
        },
    )


# (images, their size, repeats)
MEAN_FIELD_SIZES: dict[str, tuple[int, tuple[int, int], int]] = {
    "tiny": (2, (48, 64), 1),
    "quick": (4, inputs.VOC_SIZE, 2),
    "full": (12, inputs.VOC_SIZE, 3),
}


def crf_torch(scale: str, folder: Path) -> Result:
    """torch against pydensecrf, one CPU thread each; on a GPU, where there is one, all images at once."""
    count, size, repeats = MEAN_FIELD_SIZES[scale]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference, ours = (replace(PARAMETERS["dsrg-test"], backend=name) for name in ("auto", "torch"))
    images, scores = zip(*(_image_with_scores(number, size) for number in range(count)), strict=True)

    def together(parameters: CrfParameters) -> list[np.ndarray]:
        if device == "cpu":
            return _one_by_one(images, scores, parameters)
        unaries = [energies(image, own, parameters) for image, own in zip(images, scores, strict=True)]
        return crf_together(images, unaries, parameters, device)

    with one_thread():
        together(ours)  # the first call of a GPU loads its code
        baseline, mine, expected, found = in_turn(
            lambda: _one_by_one(images, scores, reference), lambda: together(ours), repeats
        )
        lattices, _ = alone(lambda: together(replace(ours, iterations=0)), repeats)
    return Result(
        "crf-torch",
        f"mean field dsrg-test by torch on {device}; baseline: {backend_of(reference)}, one thread of a CPU",
        f"{count} drawn images of {size[0]}x{size[1]}, the labels each has",
        baseline,
        mine,
        *_difference(expected, found),
        target_ratio=1.5 if device == "cpu" else 20.0,
        figures={"images_per_s": count / mine.median, "without_iterations_s": lattices.median},
    )


def crf_pair(scale: str, folder: Path) -> Result:
    """The two CRFs of an image that IRNet's labels take, by torch against pydensecrf, one CPU thread each."""
    count, size, repeats = MEAN_FIELD_SIZES[scale]
    reference, ours = (replace(PARAMETERS["irn"], backend=name) for name in ("auto", "torch"))
    pairs = []
    for number in range(count):
        image, scores = _image_with_scores(number, size)
        backgrounds = (np.full((1, *size), score, np.float32) for score in (0.3, 0.05))
        pairs.append((image, [np.concatenate([background, scores[1:]]) for background in backgrounds]))

    def refined(parameters: CrfParameters) -> list[np.ndarray]:
        return [np.stack(crf_of_each(image, several, parameters)) for image, several in pairs]

    with one_thread():
        baseline, mine, expected, found = in_turn(lambda: refined(reference), lambda: refined(ours), repeats)
    return Result(
        "crf-pair",
        f"both mean fields irn of an image by torch; baseline: {backend_of(reference)}; one thread",
        f"{count} drawn images of {size[0]}x{size[1]}, the labels each has",
        baseline,
        mine,
        *_difference(expected, found, axis=1),
        target_ratio=1.5,
    )


def _image_with_scores(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    image, mask = inputs.drawn_image(number, size)
    labels = sorted({0, *np.unique(mask).tolist()} - {IGNORE})
    scores = resize_maps(inputs.class_probabilities(mask, seed=number)[labels], size, 4)
    return image, scores / scores.sum(0)


def _one_by_one(
    images: Sequence[np.ndarray], scores: Sequence[np.ndarray], parameters: CrfParameters
) -> list[np.ndarray]:
    return [crf_of_each(image, [own], parameters)[0] for image, own in zip(images, scores, strict=True)]


def _difference(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], axis: int = 0) -> tuple[str, bool]:
    """In words, and whether it is within 1e-3 and the labels of 99.9 % of the pixels are equal."""
    most = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    same = np.mean([np.mean(a.argmax(axis) == b.argmax(axis)) for a, b in zip(expected, found, strict=True)])
    return f"marginals to {most:.1e}, labels of {100 * same:.3f} % of the pixels", bool(most <= 1e-3 and same >= 0.999)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
