"""Measures a plan: a few real training steps and predictions in a subprocess, with the largest batch that fits.

    plan = probed_plan(workspace.artifact("data"), data, machine, Wishes(budget_s=1800))

The subprocess (stages/planning/trial.py) begins with the least batch and goes on to a larger one only when the memory
that was measured so far says that it stays below the limit. A trial that runs out of memory all the same, or is killed
for it, ends that process alone.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from artifacts.errors import ConfigError, SemisegError
from artifacts.store import Artifact
from stages.planning.proposal import make_plan, workers
from stages.planning.records import (
    EVALUATED,
    GIB,
    PREDICTED,
    REVIEWED,
    DataFacts,
    Machine,
    Measured,
    Pace,
    Plan,
    Trial,
    Wishes,
)
from stages.planning.rules import CACHE

HEADROOM = 0.9  # of the limit: a training of 60 steps needed 5 % more than the 12 of its trial
LEAST_CROP = 64
SECONDS, SHARE = 8.0, 0.01  # that the timed steps of a training take, about; of a budget, at most
EXHAUSTED = sys.maxsize  # the memory of a trial that ran out of it


class MemoryLimitError(ConfigError):
    """Not even the least batch fits."""


def probed_plan(
    artifact: Artifact,
    data: DataFacts,
    machine: Machine,
    wishes: Wishes,
    data_name: str = "data",
    note: Callable[[str], None] = lambda text: None,
    spent: Callable[[], float] = lambda: 0.0,
) -> Plan:
    """The plan with a batch that was measured to fit, and with iterations that fit the budget.

    spent: the seconds of the budget that are over; asked when everything is measured. Where not even the least batch
    fits, smaller crops are tried, which is noted; ConfigError where none fits.
    """
    plan = make_plan(data, machine, wishes, data_name=data_name)
    while True:
        try:
            found = measure(plan, artifact, machine, data, wishes)
            return make_plan(data, machine, replace(wishes, spent_s=spent()), found, data_name)
        except MemoryLimitError as error:
            crop = int(plan.sections["train"]["crop_size"])
            smaller = 16 * (crop * 2 // 3 // 16)
            if wishes.crop_size == crop or smaller < LEAST_CROP:
                raise
            note(f"{error.message}; trying crops of {smaller} pixels")
            wishes = replace(wishes, crop_size=smaller)
            plan = make_plan(data, machine, wishes, data_name=data_name)


def measure(
    plan: Plan, artifact: Artifact, machine: Machine, data: DataFacts, wishes: Wishes | None = None
) -> Measured:
    """A few steps of each training of a plan, with the largest batch up to the plan's that fits the memory.

    MemoryLimitError if the least does not fit; SemisegError for whatever else ends the training.
    """
    wishes = wishes or Wishes()
    most = plan.batch_size
    while True:
        answer = _run(_job(plan, artifact, machine, data, wishes, most))
        if "tried" not in answer:
            break
        if answer["tried"] <= plan.least_batch:  # the system killed it
            raise _too_little(plan, machine, EXHAUSTED)
        most = max(answer["tried"] // 2, plan.least_batch)
    if "needs" in answer:
        raise _too_little(plan, machine, answer["needs"])
    trials = {name: Trial(**record) for name, record in answer.pop("trials").items()}
    memory = {int(batch): count for batch, count in answer.pop("memory").items()}
    paces = {name: Pace(**record) for name, record in answer.pop("paces").items()}
    return Measured(trials=trials, memory=memory, paces=paces, **answer)


def _too_little(plan: Plan, machine: Machine, needs: int) -> MemoryLimitError:
    crop = plan.sections["train"]["crop_size"]
    much = f"needs {needs / GIB:.2f} GiB" if needs < EXHAUSTED else "runs out of memory"
    return MemoryLimitError(
        f"a training with batches of {plan.least_batch}, crops of {crop} pixels, {much}; "
        f"{machine.memory / GIB:.2f} GiB may be used",
        "free some memory, allow more of it, or take a smaller network or smaller crops",
    )


def next_batch(seen: Mapping[int, float], least: int, most: int, limit: float) -> int | None:
    """The batch to try next, an even step above what fits so far; None when the largest that fits is known.

    seen: the memory of each batch tried, EXHAUSTED for one that ran out of it; at 0 what the process needs without any.
    Memory grows by about the same amount for each image, so two points tell what the next one needs.
    """
    tried = [batch for batch in seen if batch]
    if not tried:
        return least
    fitting = [batch for batch in tried if seen[batch] <= limit]
    if not fitting:
        return None
    best, below = max(fitting), max(batch for batch in seen if batch < max(fitting))
    each = max((seen[best] - seen[below]) / (best - below), 1.0)
    room = best + math.floor((limit - seen[best]) / each)
    too_large = min((batch for batch in tried if batch > best), default=None)
    candidate = min(2 * best if too_large is None else (best + too_large) // 2, room, most)
    candidate -= candidate % 2 if candidate != most else 0
    return candidate if candidate > best else None


def _job(
    plan: Plan, artifact: Artifact, machine: Machine, data: DataFacts, wishes: Wishes, most: int
) -> dict[str, Any]:
    trainings = [
        {
            "name": step.name,
            "stage": step.stage,
            "config": plan.config(step),
            "labels": next((name for name in ("weak_labels", "seeds") if name in step.inputs), ""),
        }
        for step in plan.trainings()
    ]
    return {
        "data": str(artifact.path.absolute()),
        "trainings": trainings,
        "others": _other_steps(plan, data),
        "seconds": min(SECONDS, SHARE * wishes.budget_s) if wishes.budget_s else SECONDS,
        "least": plan.least_batch,
        "most": most,
        "limit": HEADROOM * machine.memory,
        "reserve": 0 if machine.is_gpu else min(data.decoded_bytes, CACHE),  # images that a training keeps, decoded
        "device": machine.device,
        "workers": workers(machine),
        "begun": time.time(),
    }


def _other_steps(plan: Plan, data: DataFacts) -> list[dict[str, Any]]:
    """What the plan does in addition to its trainings; at last what predicts with its last network, scores and reviews
    it, on the images that were trained on. Of no masks only the first of these can be measured.
    """
    steps = [
        {
            "name": step.name,
            "stage": step.stage,
            "inputs": dict(step.inputs),
            "config": plan.config(step),
            "splits": step.splits,
        }
        for step in plan.steps
        if not step.trains
    ]
    network, seen = plan.segmenters[-1], {"scales": plan.sections["predict"]["scales"]}
    splits = ["train" if data.masks else "weak"]
    of_network = {"inputs": {"data": "", "segmenter": network}, "splits": splits}
    predicting = {"splits": splits, "output": "masks", **seen}
    scoring = {"inputs": {"data": "", "predictions": PREDICTED}, "config": {"splits": splits}, "splits": splits}
    return [
        *steps,
        {"name": PREDICTED, "stage": "predict", "config": predicting, **of_network},
        {"name": EVALUATED, "stage": "evaluate", **scoring},
        {"name": REVIEWED, "stage": "review", "config": seen, **of_network},
    ]


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the subprocess; {"tried": batch} if the system killed it while it tried that one."""
    child = subprocess.Popen(
        [sys.executable, "-m", "stages.planning.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, messages = child.communicate(json.dumps(job))
    finally:
        child.kill()
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    last = lines[-1] if lines else {}
    if "error" in last:
        raise SemisegError(f"the probe: {last['error']}", last.get("hint"))
    if child.returncode == 0:
        return last
    if child.returncode == -9 and "tried" in last:
        return last
    reason = (messages.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    raise SemisegError(f"the probe ended unexpectedly: {reason}", "semiseg plan --no-probe plans without it")


__all__ = ["MemoryLimitError", "measure", "next_batch", "probed_plan"]
