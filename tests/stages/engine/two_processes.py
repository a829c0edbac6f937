"""Run by test_distributed.py under torchrun: what two processes compute against one, and whole stages.

python -m torch.distributed.run --nproc_per_node 2 two_processes.py FOLDER

Each process first makes the reference (rank 0, alone), then joins the group. Differences are written to FOLDER, and
what each rank computed of joint_losses.py and joint_batch_norm.py to FOLDER/losses-RANK.pt and batch-norm-RANK.pt: one
start of Python and torch serves all that two processes are asked.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import json
import os
import sys
from pathlib import Path

import torch

from artifacts import checkpoint
from artifacts.store import Workspace, Writer
from stages import select as select_stage
from stages.contract import Execution
from stages.engine.batch_norm import join_batch_norm
from stages.engine.distributed import meeting, process_group, rank
from stages.engine.loop import CHECKPOINT, fit
from stages.engine.method import Setup
from stages.engine.streams import SampleMaker
from stages.methods import load_method
from stages.parallel.meeting import RankFailedError
from stages.pipeline.run_stage import run_stage
from stages.select import STAGE as SELECT_STAGE
from stages.train import STAGE
from stages.train_classifier import STAGE as CLASSIFIER_STAGE
from tests.stages import drawn_training as drawn
from tests.stages.engine import joint_batch_norm, joint_losses

torch.set_num_threads(1)
gc.freeze()  # every training collects garbage, and need not look through the modules
atexit.register(gc.unfreeze)  # modules in C report what is left of them at the end
select_stage.PART = 2  # images: shares for both processes

EXACT = {
    "network": {"preset": "tiny", "dropout": 0.0, "head_channels": 16},
    "optimizer": {"name": "sgd", "lr": 1e-3, "weight_decay": 0.0},
    "schedule": "constant",
    "ema_decay": None,
    "batch_size": 8,
    "iterations": 1,
    "precision": "fp32",
}


# What is compared: every case with a network without BatchNorm, and one with a network whose BatchNorm learns.
BATCH_NORM = {"network": EXACT["network"] | {"head_norm": "batch"}}
COMPARED = {case: (case, {}) for case in drawn.CASES} | {"batch-norm": ("cps", BATCH_NORM)}


class Quiet:
    """Progress that stops the training after a step."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.done = stop, 0

    def track(self, total, description, unit="images", done=0):
        self.done = done
        return contextlib.nullcontext(self)

    def advance(self, count=1, **fields):
        self.done += count
        if self.done == self.stop:
            raise InterruptedError

    def note(self, text):
        pass


def one_step(training, name: str, folder: Path, world_size: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients (SGD's momentum after its first step) and logged losses of one step of the engine."""
    case, changes = COMPARED[name]
    config = training.config(case, **EXACT | changes)
    dataset = training.dataset
    kind = load_method(config.method.name)
    streams = kind.streams(config.method, training.sources, config.batch_size)
    maker = SampleMaker(
        dataset,
        streams,
        training.label_maps(kind, config.method),
        config.augmentation,
        config.crop_size,
        0,
        rank(),
        world_size,
    )
    method = kind(config.method, Setup(config.network, dataset.num_classes, 0, 1))
    method.start(training.sources)
    fitted = fit(method, maker, config, Writer(folder), Execution(device="cpu", workers=1, progress=Quiet()))
    if rank() != 0:
        return {}, {}
    state = checkpoint.load(folder / ".scratch" / CHECKPOINT)
    gradients = {}  # of the first step: SGD's momentum, and 1 / (1 - beta1) times Adam's first moment
    for name, optimizer in state["optimizers"].items():
        for number, moments in optimizer["state"].items():
            moment = moments.get("momentum_buffer", moments.get("exp_avg"))
            if moment is not None:
                gradients[f"{name}.{number}"] = moment
    return gradients, fitted.summary["losses"]


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of any gradient, relative to the largest value of that gradient or of all by 1000."""
    assert first.keys() == second.keys()
    largest = max(float(value.abs().max()) for value in first.values())
    return max(
        float((first[name] - second[name]).abs().max()) / max(float(first[name].abs().max()), largest / 1000)
        for name in first
    )


def main(folder: Path) -> None:
    training = drawn.Training(Workspace(folder / "runs"))
    main_process = os.environ["RANK"] == "0"
    alone = {case: one_step(training, case, folder / f"alone-{case}", 1) for case in COMPARED} if main_process else {}
    found = {}
    with meeting(), process_group("cpu"):
        for case in COMPARED:
            gradients, losses = one_step(training, case, folder / f"two-{case}", 2)
            if main_process:
                found[case] = {
                    "gradient": difference(alone[case][0], gradients),
                    "parameters": len(gradients),
                    "losses": [alone[case][1], losses],
                }
        torch.save(joint_losses.computed(joint_losses.SHARES[rank()]), folder / f"losses-{rank()}.pt")
        network = join_batch_norm(joint_batch_norm.network())
        share = joint_batch_norm.SHARES[rank()]
        torch.save(joint_batch_norm.computed(network, share), folder / f"batch-norm-{rank()}.pt")
    if main_process:
        (folder / "found.json").write_text(json.dumps(found))
    # A stage with dropout: never stopped; stopped after step 3 and continued. All on two processes.
    config = training.config("dsrg", iterations=4, log_every=2, batch_size=4, log_images=2)
    execution = Execution(device="cpu", workers=1, checkpoint_every_s=0.0, progress=Quiet())
    inputs = training.inputs(config)
    run_stage(STAGE, config, training.space, "whole", inputs, execution)
    stopped = InterruptedError if main_process else RankFailedError  # rank 1 is told
    with contextlib.suppress(stopped):
        run_stage(STAGE, config, training.space, "cut", inputs, dataclasses.replace(execution, progress=Quiet(3)))
        raise AssertionError("the training was not stopped")
    run_stage(STAGE, config, training.space, "cut", inputs, execution)
    classifier = training.classifier_config(iterations=2)
    run_stage(CLASSIFIER_STAGE, classifier, training.space, "classifier", {"data": "data"}, execution)
    # A stage whose records of all processes the first one adds up, behind the barrier.
    config = training.config("supervised", iterations=4, log_every=2, batch_size=4, snapshots=2)
    run_stage(STAGE, config, training.space, "teacher", training.inputs(config), execution)
    inputs = {"data": "data", "segmenter": "teacher"}
    run_stage(SELECT_STAGE, select_stage.SelectConfig(splits=("train",)), training.space, "chosen", inputs, execution)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
