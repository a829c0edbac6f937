"""The subprocess of the probe: real steps of the trainings of a plan with batches that grow, then some predictions.

    python -m stages.planning.trial < job.json

Reads a job, prints JSON lines: {"tried": batch} before each trial, at last what was measured, {"needs": bytes} where
not even the least batch fits, or {"error": ..., "hint": ...}.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifacts.dataset import TRAINING, Dataset
from artifacts.errors import SemisegError
from artifacts.masks import write_mask
from artifacts.store import Work, Workspace
from stages.config import build
from stages.contract import Execution, load_stage
from stages.engine.config import InferenceConfig
from stages.engine.device import select_device
from stages.engine.inference import predict_probabilities
from stages.engine.memory import PeakMemory
from stages.engine.method import Sources
from stages.methods.training import label_sources, train_network
from stages.networks import load_network
from stages.planning.probe import EXHAUSTED, next_batch
from stages.planning.records import Trial

FEW_STEPS = 2  # to learn how much memory a batch needs
SECONDS = 8.0  # that the steps of the timed trial take, about
TIMED_STEPS = (3, 12)  # at least, at most
PREDICTED = 12  # images


class _Clock:
    """A progress that notes when a training begins, and when each of its steps ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, list[float]()

    @contextmanager
    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Iterator[_Clock]:
        self.advance()
        yield self

    def advance(self, count: int = 1, **fields: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks.append(time.monotonic())

    def note(self, text: str) -> None:
        """Not shown."""


class _Bench:
    """Runs trainings of a job in a temporary workspace."""

    def __init__(self, job: dict[str, Any], folder: Path, imported_s: float) -> None:
        self.job, self.folder, self.imported_s = job, folder, imported_s
        self.device = select_device(job["device"])
        self.dataset = Dataset(job["data"])
        self.runs = 0
        self.published: Path | None = None

    def trial(self, training: dict[str, Any], batch: int, steps: int) -> Trial:
        """`steps` steps of a training with this batch; its memory is EXHAUSTED if it ran out of it."""
        print(json.dumps({"tried": batch}), flush=True)
        try:
            return self._trained(training, batch, steps)
        except (MemoryError, RuntimeError) as error:
            if not _is_short_of_memory(error):
                raise
            return Trial(batch, EXHAUSTED, math.inf, math.inf)

    def _trained(self, training: dict[str, Any], batch: int, steps: int) -> Trial:
        values = {**training["config"], "iterations": steps, "batch_size": batch}
        config: Any = build(load_stage(training["stage"]).config, values, training["name"])
        clock, begun = _Clock(self.device), time.monotonic()
        doing = Execution(self.job["device"], self.job["workers"], progress=clock)
        self.runs += 1
        work = Work(training["stage"], 1, "segmenter", f"{self.runs:064d}", {}, {}, {})
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        with Workspace(self.folder).writing(f"trial-{self.runs}", work) as writer:
            sources = self._sources(config, training)
            summary = train_network(config, self.dataset, sources, writer, doing)
            if training["stage"] == "train":
                self.published = writer.path
            ended = time.monotonic()
            memory = self._memory(summary["peak_memory_mib"])
            seconds = np.diff(clock.marks).tolist()
            step_s = statistics.median(seconds[1:] or seconds)
            return Trial(
                batch,
                memory,
                step_s,
                self.imported_s + clock.marks[0] - begun,
                max(seconds[0] - step_s, 0.0),
                ended - clock.marks[-1],
            )

    def _sources(self, config: Any, training: dict[str, Any]) -> Sources:
        dataset = self.dataset
        if training["stage"] == "train-classifier":
            tagged = [image_id for split in config.splits for image_id in dataset.ids(split)]
            train, weak, unlabelled = map(dataset.ids, ("train", "weak", "unlabelled"))
            return Sources(train, weak, frozenset({"masks"}), dataset, unlabelled, tagged=tagged)
        labels = training["labels"]
        folders = {labels: self._stand_ins()} if labels else {}
        strong, weak = dataset.ids(config.train_split), dataset.ids(config.weak_split)
        return label_sources(dataset, strong, weak, folders, dataset.ids("unlabelled"))

    def _stand_ins(self) -> Path:
        """Label maps that earlier stages of the pipeline would make: all class 0, one file for each size of images."""
        folder = self.folder / "labels"
        if folder.is_dir():
            return folder
        folder.mkdir()
        of_size: dict[tuple[int, int], Path] = {}
        for image_id in sorted({name for split in TRAINING for name in self.dataset.ids(split)}):
            size, file = self.dataset.size(image_id), folder / f"{image_id}.png"
            if size in of_size:
                os.link(of_size[size], file)
            else:
                write_mask(file, np.zeros(size, dtype=np.uint8), self.dataset.palette)
                of_size[size] = file
        return folder

    def _memory(self, peak_mib: int | None) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if peak_mib is None else peak_mib << 20
        return int(peak + self.job["reserve"])

    def predictions(self) -> dict[str, float]:
        """Start, seconds of an image and memory of predicting with the network of the last trial."""
        begun = time.monotonic()
        peak = PeakMemory(self.device)
        network = load_network(self.published).to(self.device)
        start = self.imported_s + time.monotonic() - begun
        splits = ("val", "holdout", "weak", "train", "unlabelled")
        ids = next(self.dataset.ids(split) for split in splits if self.dataset.ids(split))[: PREDICTED + 1]
        protocol = InferenceConfig(scales=self.job["scales"])
        self._predict(network, ids[:1], protocol)
        begun = time.monotonic()
        self._predict(network, ids[1:] or ids, protocol)
        each = (time.monotonic() - begun) / max(len(ids) - 1, 1)
        return {
            "predict_start_s": start,
            "predict_image_s": each,
            "predict_memory": self._memory(peak.mib()) - self.job["reserve"],
        }

    def _predict(self, network: Any, ids: tuple[str, ...], protocol: InferenceConfig) -> None:
        for batch, probabilities in predict_probabilities(network, self.dataset, ids, protocol, self.device):
            for image_id, classes in zip(batch, probabilities.argmax(1).byte().cpu().numpy(), strict=True):
                write_mask(self.folder / f"{image_id}.png", classes, self.dataset.palette)


def measured(bench: _Bench, job: dict[str, Any]) -> dict[str, Any]:
    """The record that the parent reads: of all trainings with the largest batch that fits each of them."""
    limit, largest = job["limit"], job["most"]
    found: dict[tuple[str, int], Trial] = {}
    base = bench._memory(PeakMemory(bench.device).mib()) if bench.device.type != "cuda" else 0
    for training in job["trainings"]:
        seen: dict[int, float] = {0: base}
        while (batch := next_batch(seen, job["least"], largest, limit)) is not None:
            found[training["name"], batch] = trial = bench.trial(training, batch, FEW_STEPS)
            seen[batch] = trial.memory
        fitting = [batch for batch in seen if batch and seen[batch] <= limit]
        if not fitting:
            return {"needs": seen[job["least"]]}
        largest = max(fitting)
    trials = {}
    for training in job["trainings"]:
        short = found.get((training["name"], largest)) or bench.trial(training, largest, FEW_STEPS)
        steps = min(max(round(SECONDS / short.step_s), TIMED_STEPS[0]), TIMED_STEPS[1])
        trials[training["name"]] = asdict(bench.trial(training, largest, steps))
    first = job["trainings"][0]["name"]
    memory = {batch: trial.memory for (name, batch), trial in found.items() if name == first}
    return {"batch_size": largest, "trials": trials, "memory": memory, **bench.predictions()}


def _is_short_of_memory(error: Exception) -> bool:
    words = str(error)
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def main() -> None:
    job = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="semiseg-plan-") as folder:
        try:
            answer = measured(_Bench(job, Path(folder), time.time() - job["begun"]), job)
        except SemisegError as error:
            answer = {"error": error.message, "hint": error.hint}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
