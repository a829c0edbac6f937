"""Every registered method: trained in bf16 with CUDA graphs, what it trains used, and scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from artifacts.store import Artifact, Workspace
from stages.methods.settings import METHODS, trained_by
from stages.refiners.settings import REFINERS
from tests.gpu.place import Place, Watch
from tests.gpu.steps import AGAIN

DATA: dict[str, Any] = {"name": "shapes", "train": 12, "weak": 16, "val": 8, "long_side": 96}
STEPS = 6  # of which CUDA graphs replay the last three
TRAINING: dict[str, Any] = {
    "iterations": STEPS,
    "batch_size": 8,
    "crop_size": 96,
    "log_every": 1,
    "log_images": 0,
}
# what the defaults do not say or what they would need files for
SETTINGS: dict[str, dict[str, Any]] = {
    "dsrg": {"map_stride": 4, "crf_scale": 5.2},
    "weclip": {"clip": {"weights": "none"}},
    "gct": {"flaw_detector": {"channels": [16, 16]}},
    "psa": {"radius": 3, "crf": {"scale": 5.0}},
    "irn": {"radius": 4, "crf": {"scale": 5.0}},
}
REFINING: dict[str, dict[str, Any]] = {"label-noise": {"steps": 20}, "wsgcn": {"steps": 20}}
ALL = "train", "weak", "val"
TINY = ("segmenter-fixmatch", "classifier-cam", "refiner-par")


def methods(place: Place) -> None:
    """Each method as a process becomes free for it; one that fails ends its process, which may be broken."""
    refiners = [f"refiner-{name}" for name in REFINERS]
    trained = [f"{kind}-{name}" for kind in ("segmenter", "classifier") for name in trained_by(kind)]
    for item in place.taken(place.size([*refiners, *trained], list(TINY))):
        print(f"--- {item}", flush=True)
        kind, _, name = item.partition("-")
        with place.rows.guarded(name):
            place.rows.add(name, One(place, kind, name).measured())
            continue
        sys.exit(AGAIN)


def space(place: Place) -> Workspace:
    return Workspace(place.folder / "methods")


def prepared(place: Place) -> None:
    """data, classifier, seeds, segmenter, predictions of all images, and estimated masks of the weak ones."""

    def run(stage: str, output: str, config: Any, **inputs: str) -> None:
        place.run(space(place), stage, output, config, inputs, workers=1)

    config = TRAINING | precision(place)
    run("prepare-data", "data", {"dataset": DATA})
    run("train-classifier", "classifier", config, data="data")
    run("seeds", "seeds", {}, data="data", classifier="classifier")
    run("train", "segmenter", config, data="data")
    run("predict", "predictions", {"splits": ALL, "output": "masks"}, data="data", segmenter="segmenter")
    masks = {"splits": ["weak"], "output": "masks", "confidence": True, "image_labels": "share"}
    run("predict", "weak-labels", masks, data="data", segmenter="segmenter")
    place.rows.add("what methods learn from", {"images": sum(DATA[split] for split in ALL)})


def precision(place: Place) -> dict[str, str]:
    """Of a CPU not bf16, which is slow there."""
    return {"precision": "bf16" if place.on_gpu else "fp32"}


@contextmanager
def replays() -> Iterator[Callable[[], int]]:
    """The number of CUDA graphs that were replayed within the block."""
    count, plain = 0, torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        nonlocal count
        count += 1
        plain(graph)

    torch.cuda.CUDAGraph.replay = counted  # type: ignore[method-assign]
    try:
        yield lambda: count
    finally:
        torch.cuda.CUDAGraph.replay = plain  # type: ignore[method-assign]


class One:
    """A method in the prepared workspace."""

    def __init__(self, place: Place, kind: str, name: str) -> None:
        self.place, self.kind, self.name = place, kind, name
        self.figures: dict[str, Any] = {}

    def measured(self) -> dict[str, Any]:
        scored, split = getattr(self, self.kind)()
        given = {"data": "data", "predictions": scored.name}
        metrics = self.run("evaluate", "metrics", {"splits": [split]}, given)
        score = float(metrics.json("metrics.json", dict)["mean_iou"])
        if not math.isfinite(score):
            raise ValueError(f"mean IoU {score}")
        return self.figures | {"mIoU": score}

    def segmenter(self) -> tuple[Artifact, str]:
        made = self.train("train", METHODS[self.name])
        return self.run("predict", "predictions", {"output": "masks"}, {"data": "data", "segmenter": made.name}), "val"

    def classifier(self) -> tuple[Artifact, str]:
        settings = METHODS[self.name]
        made = self.train("train-classifier", settings)
        more = {"predictions": "predictions"} if "predictions" in _settings(settings, self.name).inputs() else {}
        given = {"data": "data", "classifier": made.name} | more
        return self.run("seeds", "seeds", {"labels": {"mode": "dense"}}, given), "train"

    def refiner(self) -> tuple[Artifact, str]:
        settings = REFINERS[self.name]
        given = {"data": "data"} | {key: key for key in settings().inputs() if key != "refiner"}
        if settings.training is not None:
            given["refiner"] = self.train("train-refiner", settings.training, {"seeds": "seeds"}).name
        method = {"name": self.name} | REFINING.get(self.name, {})
        return self.run("refine", "refined", {"method": method}, given), "train"

    def train(self, stage: str, settings: Any, inputs: dict[str, str] | None = None) -> Artifact:
        name = settings.model_fields["name"].default
        method = _settings(settings, name)
        given = {"data": "data"} | {key: key.replace("_", "-") for key in method.inputs()} | (inputs or {})
        watch = Watch()
        config = TRAINING | precision(self.place) | {"method": {"name": name} | SETTINGS.get(name, {})}
        with replays() as replayed:
            made = self.run(stage, "trained", config, given, watch)
        summary = made.manifest.summary
        if not all(math.isfinite(value) for value in summary["losses"].values()):
            raise ValueError(f"losses {summary['losses']}")
        self.figures = {
            "ms a step": 1e3 * watch.seconds(1, STEPS) / (STEPS - 1),
            "MiB": summary["peak_memory_mib"],
            "graphs replayed": replayed(),
        }
        if plain := [note for note in watch.notes if "without CUDA graphs" in note]:
            self.figures["note"] = plain[0]
        return made

    def run(self, stage: str, what: str, config: Any, inputs: dict[str, str], progress: Any = None) -> Artifact:
        output = f"{self.kind}-{self.name}-{what}"
        return self.place.run(space(self.place), stage, output, config, inputs, progress, workers=1)


def _settings(kind: Any, name: str) -> Any:
    return kind.model_validate({"name": name} | SETTINGS.get(name, {}))
