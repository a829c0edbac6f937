"""Every registered method: trained in bf16, what it trains used, and scored, each in a process of its own.

python -m tests.gpu.methods WORKSPACE DEVICE KIND NAME    # one of them, after `prepare`
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from artifacts.store import Artifact, Workspace
from stages.methods.settings import METHODS, trained_by
from stages.refiners.settings import REFINERS
from tests.gpu.place import Place, Watch
from tests.gpu.rows import Rows

DATA = {"name": "shapes", "train": 12, "weak": 16, "val": 8, "long_side": 96}
STEPS = 6
THREADS = {"OMP_NUM_THREADS": "2"}  # many of them run side by side
LIMIT = 100.0  # seconds for one method
TRAINING: dict[str, Any] = {
    "iterations": STEPS,
    "batch_size": 8,
    "crop_size": 96,
    "precision": "bf16",
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


def methods(place: Place) -> None:
    workspace = place.folder / "methods"
    with place.rows.guarded("what they learn from"):
        prepare(place, Workspace(workspace))
    kinds = [("segmenter", name) for name in trained_by("segmenter")]
    kinds += [("classifier", name) for name in trained_by("classifier")]
    kinds += [("refiner", name) for name in REFINERS]
    kinds = place.size(kinds, [("segmenter", "fixmatch"), ("classifier", "cam")])
    with ThreadPoolExecutor(place.size(10, 1)) as pool:
        for _ in pool.map(lambda one: _in_process(place, workspace, *one), kinds):
            pass


def _in_process(place: Place, workspace: Path, kind: str, name: str) -> None:
    """Adds the row of a method."""
    words = [sys.executable, "-m", "tests.gpu.methods", str(workspace), place.device, kind, name]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, env=os.environ | THREADS)
    except subprocess.TimeoutExpired:
        place.rows.fail(name, f"not done after {LIMIT:.0f} s")
        return
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    if ended.returncode == 0:
        place.rows.add(name, json.loads(last))
    else:
        print(f"--- {name}\n{ended.stderr}", file=sys.stderr, flush=True)
        place.rows.fail(name, (ended.stderr.strip().splitlines() or ["ended without a word"])[-1])


def prepare(place: Place, space: Workspace) -> None:
    """data, classifier, seeds, segmenter, predictions of all images, and estimated masks of the weak ones."""
    place.run(space, "prepare-data", "data", {"dataset": DATA}, {})
    place.run(space, "train-classifier", "classifier", TRAINING, {"data": "data"})
    place.run(space, "seeds", "seeds", {}, {"data": "data", "classifier": "classifier"})
    place.run(space, "train", "segmenter", TRAINING, {"data": "data"})
    given = {"data": "data", "segmenter": "segmenter"}
    place.run(space, "predict", "predictions", {"splits": ALL, "output": "masks"}, given)
    masks = {"splits": ["weak"], "output": "masks", "confidence": True, "image_labels": "share"}
    place.run(space, "predict", "weak-labels", masks, given)


class One:
    """A method in the prepared workspace."""

    def __init__(self, workspace: Path, device: str, kind: str, name: str) -> None:
        self.space, self.kind, self.name = Workspace(workspace), kind, name
        self.place = Place(workspace.parent, device, True, Rows(workspace.parent, "methods"))  # one worker
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
        config = TRAINING | {"method": {"name": name} | SETTINGS.get(name, {})}
        made = self.run(stage, "trained", config, given, watch)
        summary = made.manifest.summary
        if not all(math.isfinite(value) for value in summary["losses"].values()):
            raise ValueError(f"losses {summary['losses']}")
        self.figures = {"ms a step": 1e3 * watch.seconds(1, STEPS) / (STEPS - 1), "MiB": summary["peak_memory_mib"]}
        return made

    def run(self, stage: str, what: str, config: Any, inputs: dict[str, str], progress: Any = None) -> Artifact:
        return self.place.run(self.space, stage, f"{self.kind}-{self.name}-{what}", config, inputs, progress)


def _settings(kind: Any, name: str) -> Any:
    return kind.model_validate({"name": name} | SETTINGS.get(name, {}))


def main() -> None:
    workspace, device, kind, name = sys.argv[1:]
    print(json.dumps(One(Path(workspace), device, kind, name).measured()))


if __name__ == "__main__":
    main()
