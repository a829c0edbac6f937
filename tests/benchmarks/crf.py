"""The stage crf: labels present over a pool of processes, against one process with all 21 labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMapWriter
from artifacts.store import Artifact, Workspace, Writer
from stages.contract import default_workers
from stages.data.config import VOC_CLASS_NAMES
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, in_turn

# (images, their size, repeats)
SIZES: dict[str, tuple[int, tuple[int, int], int]] = {
    "tiny": (2, (48, 64), 1),
    "quick": (8, inputs.VOC_SIZE, 2),
    "full": (64, inputs.VOC_SIZE, 3),
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
        lambda: run("all", workers=1, labels="all"), lambda: run("present", workers=workers), repeats
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
