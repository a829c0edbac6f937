"""Run by test_toy_methods.py, in a copy of the tree that has the methods of toy_methods: trains them.

python toy_trainings.py FOLDER alone; python -m torch.distributed.run --nproc_per_node 2 toy_trainings.py FOLDER two
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from artifacts.store import Workspace
from stages.methods import METHODS
from tests.stages.refiners.small_refinement import TRAINING, fill, run

assert {"common-labels", "map-regression"} <= METHODS.keys(), "this is not the tree with the toys"

VALUES = TRAINING | {"network": {"preset": "tiny", "dropout": 0.0}, "batch_size": 6, "precision": "fp32"}
TRAININGS = {
    "common-labels": ("train-classifier", VALUES | {"method": "common-labels", "score_split": "train"}, ("data",)),
    "map-regression": ("train", VALUES | {"method": "map-regression"}, ("data", "seeds")),
}


def train(space: Workspace, toy: str, name: str, **changes: object) -> None:
    stage, values, inputs = TRAININGS[toy]
    run(space, stage, name, values | changes, {key: key for key in inputs}, checkpoint_every_s=0.0)


def killed_after_a_checkpoint(space: Workspace, toy: str, name: str) -> bool:
    """Trains in a process of its own, and kills that once a step is kept; whether it could."""
    child = os.fork()
    if child == 0:
        try:
            train(space, toy, name)
        finally:
            os._exit(0)
    begin = time.monotonic()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        enough = bool(list(space.path.glob(f".{name}.*.partial/.scratch/checkpoint.pt")))
        if enough or time.monotonic() - begin > 60:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return enough
    return False


if __name__ == "__main__":
    folder, how = sys.argv[1:]
    space = Workspace(Path(folder) / "runs")
    if how == "alone":
        fill(space)
    for toy in TRAININGS:
        if how == "two":
            train(space, toy, f"{toy}-by-two")
            continue
        train(space, toy, f"{toy}-whole")
        train(space, toy, f"{toy}-one-step", iterations=1)
        assert killed_after_a_checkpoint(space, toy, f"{toy}-cut")
        train(space, toy, f"{toy}-cut")
