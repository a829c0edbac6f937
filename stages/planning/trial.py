"""The subprocess of the probe: real steps of the trainings of a plan with batches that grow, then its other stages.

    python -m stages.planning.trial < job.json

Reads a job, prints JSON lines: {"tried": batch} before each trial, at last what was measured, {"needs": bytes} where
not even the least batch fits, or {"error": ..., "hint": ...}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifacts.dataset import TRAINING, Dataset, write_dataset
from artifacts.errors import SemisegError
from artifacts.masks import write_mask
from artifacts.store import Artifact, Work, Workspace
from stages.config import build
from stages.contract import Execution, Stage, load_stage
from stages.engine.device import select_device
from stages.engine.memory import PeakMemory
from stages.engine.method import Sources
from stages.methods.training import label_sources, train_network
from stages.planning.probe import EXHAUSTED, next_batch
from stages.planning.records import Pace, Trial

FEW_STEPS = 2  # to learn how much memory a batch needs
TIMED_STEPS = (3, 12)  # at least, at most
# Images of each split that other stages go over, for the time of their start and of an image. For one image no stage
# starts the processes that it starts for many, and their start would count as time of images.
FEW, SEVERAL = 3, 11
LONG_S = 20.0  # stages that take longer with few images go over fewer than SEVERAL


class _Clock:
    """A progress that notes when a training begins, and when each of its steps ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, list[float]()

    @contextlib.contextmanager
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

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.job, self.workspace = job, Workspace(folder)
        self.device = select_device(job["device"])
        self.dataset = Dataset(job["data"])
        self.runs = 0

    def trial(self, training: dict[str, Any], batch: int, steps: int, keep: bool = False) -> Trial:
        """`steps` steps of a training with this batch; its memory is EXHAUSTED if it ran out of it.

        keep: the network becomes an artifact with the name of the training.
        """
        print(json.dumps({"tried": batch}), flush=True)
        try:
            return self._trained(training, batch, steps, keep)
        except (MemoryError, RuntimeError) as error:
            if not _is_short_of_memory(error):
                raise
            return Trial(batch, EXHAUSTED, math.inf, math.inf)

    def _trained(self, training: dict[str, Any], batch: int, steps: int, keep: bool) -> Trial:
        stage, begun = load_stage(training["stage"]), time.monotonic()
        values = {**training["config"], "iterations": steps, "batch_size": batch, "log_images": 0}
        config: Any = build(stage.config, values, training["name"])
        clock = _Clock(self.device)
        doing = Execution(self.job["device"], self.job["workers"], progress=clock)
        name = training["name"] if keep else f"trial-{self.runs}"
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        with self.workspace.writing(name, work := self._work(stage, config)) as writer:
            summary = train_network(config, self.dataset, self._sources(config, training), writer, doing)
            ended = time.monotonic()
            if keep:
                self.workspace.publish(name, writer, work, {})
        memory = self._memory(summary["peak_memory_mib"])
        seconds = np.diff(clock.marks).tolist()
        step_s = statistics.median(seconds[1:] or seconds)
        start, first = clock.marks[0] - begun, max(seconds[0] - step_s, 0.0)
        return Trial(batch, memory, step_s, start, first, ended - clock.marks[-1])

    def _work(self, stage: Stage, config: Any) -> Work:
        self.runs += 1
        return Work(
            stage.name, 1, stage.output, f"{self.runs:012d}".ljust(64, "0"), config.model_dump(mode="json"), {}, {}
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
        folder = self.workspace.path / "labels"
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

    def paces(self) -> dict[str, dict[str, float]]:
        """Start and time of an image of all steps that are no training, by name; of a step that fails, none."""
        short = self._all_seconds(FEW)
        most = SEVERAL if sum(seconds for _, seconds in short.values()) < LONG_S else FEW + 2
        long, found = self._all_seconds(most), {}
        for name in short.keys() & long.keys():
            (few, first), (several, second) = short[name], long[name]
            image_s = max(second - first, 0.0) / (several - few) if several > few else first / few
            found[name] = asdict(Pace(max(first - few * image_s, 0.0), image_s))
        return found

    def _all_seconds(self, most: int) -> dict[str, tuple[int, float]]:
        """Of each step that works how many images it went over, at most so many of each split, and the time."""
        found = {}
        for step in self.job["others"]:
            with contextlib.suppress(SemisegError):  # of a network that has learned nothing; the stage will say it
                found[step["name"]] = self._seconds(step, most)
        return found

    def _seconds(self, step: dict[str, Any], most: int) -> tuple[int, float]:
        """Runs the stage; how many images it went over, and the time."""
        stage = load_stage(step["stage"])
        data = self._part(most)
        named = {key: name if key != "data" else data.name for key, name in step["inputs"].items()}
        inputs = stage.open({key: self.workspace.artifact(name) for key, name in named.items()})
        config = build(stage.config, step["config"], step["name"])
        doing = Execution(self.job["device"], self.job["workers"], progress=_Clock(self.device))
        begun = time.monotonic()
        with self.workspace.writing(step["name"], work := self._work(stage, config)) as writer:
            stage.run(config, inputs, writer, doing)
            self.workspace.publish(step["name"], writer, work, {})
        splits = Dataset(data).splits
        return len({image_id for split in step["splits"] for image_id in splits[split]}), time.monotonic() - begun

    def _part(self, most: int) -> Artifact:
        """The data set with at most `most` images of each split."""
        name, whole = f"part-{most}", self.dataset
        if name in self.workspace.names():
            return self.workspace.artifact(name)
        splits = {split: ids[:most] for split, ids in whole.splits.items()}
        ids = sorted({image_id for own in splits.values() for image_id in own})
        work = Work("prepare-data", 1, "dataset", name.encode().hex().ljust(64, "0"), {}, {}, {})
        with self.workspace.writing(name, work) as writer:
            masked = [image_id for image_id in ids if whole.has_mask(image_id)]
            for image_id in masked:
                with writer.item(f"masks/{image_id}.png") as temporary:
                    shutil.copyfile(whole.mask_path(image_id), temporary)
            write_dataset(
                writer,
                name=whole.name,
                class_names=whole.class_names,
                splits=splits,
                tags={image_id: whole.tags(image_id) for image_id in ids if whole.has_tags(image_id)},
                tag_source=whole.tag_source,
                mask_ids=masked,
                image_files={image_id: str(whole.image_path(image_id).absolute()).lstrip("/") for image_id in ids},
                image_root="/",
                sizes={image_id: whole.size(image_id) for image_id in ids},
            )
            return self.workspace.publish(name, writer, work, {})


def measured(bench: _Bench, job: dict[str, Any]) -> dict[str, Any]:
    """The record that the parent reads: of all trainings with the largest batch that fits each of them."""
    importlib.import_module("torch._dynamo")  # else the first optimiser does: 150 MiB that would count as a batch's
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
        steps = min(max(round(job["seconds"] / short.step_s), TIMED_STEPS[0]), TIMED_STEPS[1])
        trials[training["name"]] = asdict(bench.trial(training, largest, steps, keep=True))
    first = job["trainings"][0]["name"]
    memory = {batch: trial.memory for (name, batch), trial in found.items() if name == first}
    return {"batch_size": largest, "trials": trials, "memory": memory, "paces": bench.paces()}


def _is_short_of_memory(error: Exception) -> bool:
    words = str(error)
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def main() -> None:
    job = json.load(sys.stdin)
    process_s = time.time() - job["begun"]
    with tempfile.TemporaryDirectory(prefix="semiseg-plan-") as folder:
        try:
            answer = measured(_Bench(job, Path(folder)), job) | {"process_s": process_s}
        except SemisegError as error:
            answer = {"error": error.message, "hint": error.hint}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
