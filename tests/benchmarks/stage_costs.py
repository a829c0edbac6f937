"""What each stage costs on one CPU core: CPU time and bytes on disk, on the embedded data set with the small network.

    python -m tests.benchmarks.stage_costs

Times are CPU times of this process and its children, with one thread and one worker: other programs on the machine
hardly change them. A training is measured as the difference between two lengths, so that its start is left out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from artifacts.store import Artifact, Workspace
from tests.benchmarks.inputs import stage

TRAIN, WEAK, STEPS, FIRST = 40, 100, 30, 10
VAL = 40
DATA = {"dataset": {"train": TRAIN, "weak": WEAK, "val": VAL, "objects": True}}
NETWORK = {"network": "tiny", "crop_size": 96, "batch_size": 16}
WEAK_ONLY = {"splits": ["weak"]}


def cpu_seconds() -> float:
    return sum(os.times()[:4])


class Costs:
    """Runs stages in a workspace and prints what they cost."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder)

    def run(self, name: str, output: str, config: Mapping[str, Any], **inputs: str) -> tuple[Artifact, float]:
        begin = cpu_seconds()
        made = stage(self.workspace, name, output, config, inputs, workers=1)
        return made, cpu_seconds() - begin

    def images(self, name: str, output: str, config: Mapping[str, Any], count: int, **inputs: str) -> None:
        made, seconds = self.run(name, output, config, **inputs)
        size = made.manifest.bytes / 1000 / count
        print(f"{name:<17} {output:<14} {1000 * seconds / count:7.1f} ms/image {size:8.2f} kB/image")

    def training(self, name: str, output: str, config: Mapping[str, Any], **inputs: str) -> None:
        _, short = self.run(name, f"{output}-start", {**config, "iterations": FIRST}, **inputs)
        made, long = self.run(name, output, {**config, "iterations": FIRST + STEPS}, **inputs)
        seconds = (long - short) / STEPS * 100
        print(f"{name:<17} {output:<14} {seconds:7.1f} s/100 steps {made.manifest.bytes / 1e6:6.2f} MB")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        costs = Costs(Path(folder))
        costs.images("prepare-data", "data", DATA, TRAIN + WEAK + VAL)
        costs.training("train-classifier", "classifier", NETWORK, data="data")
        costs.images("seeds", "seeds", {}, TRAIN + WEAK, data="data", classifier="classifier")
        refiner = {**NETWORK, **WEAK_ONLY, "method": {"name": "irn", "displacement": True}}
        costs.training("train-refiner", "irn", refiner, data="data", seeds="seeds")
        costs.images("refine", "refined", WEAK_ONLY, WEAK, data="data", seeds="seeds", refiner="irn")
        costs.images("instances", "objects", WEAK_ONLY, WEAK, data="data", seeds="seeds", refiner="irn")
        costs.images("evaluate-instances", "objects-score", WEAK_ONLY, WEAK, data="data", instances="objects")
        dsrg = {"name": "dsrg", "map_stride": 4, "crf_scale": 20}
        costs.training("train", "dsrg", {**NETWORK, "method": dsrg}, data="data", seeds="seeds")
        maps = {**WEAK_ONLY, "image_labels": "share", "output": "probabilities"}
        costs.images("predict", "probabilities", maps, WEAK, data="data", segmenter="dsrg")
        masks = WEAK_ONLY | {"output": "masks", "confidence": True}
        costs.images("predict", "predictions", masks, WEAK, data="data", segmenter="dsrg")
        drawn = WEAK_ONLY | {"output": "masks", "overlays": "jpg"}
        costs.images("predict", "overlays", drawn, WEAK, data="data", segmenter="dsrg")
        tags = {**WEAK_ONLY, "labels": "tags", "scale": 5.2}
        costs.images("crf", "weak-labels", tags, WEAK, data="data", predictions="probabilities")
        costs.images("segments", "segments", WEAK_ONLY, WEAK, data="data")
        costs.images("vote", "voted", WEAK_ONLY, WEAK, data="data", masks="weak-labels", segments="segments")
        for method in ("supervised", "unimatch"):
            costs.training("train", method, {**NETWORK, "method": method, "snapshots": 3}, data="data")
        branches = {**NETWORK, "method": "dual-branch"}
        costs.training("train", "dual-branch", branches, data="data", weak_labels="weak-labels")
        costs.images("evaluate", "metrics", WEAK_ONLY, WEAK, data="data", predictions="predictions")
        costs.images("pseudo-labels", "sure", {"share": 0.5}, WEAK, predictions="predictions")
        costs.images("reliability", "ranks", WEAK_ONLY, WEAK, data="data", segmenter="supervised")
        costs.images("select", "best", {"splits": ["val"]}, VAL, data="data", segmenter="supervised")
        costs.images("review", "next", {}, TRAIN + WEAK, data="data", segmenter="supervised")


if __name__ == "__main__":
    main()
