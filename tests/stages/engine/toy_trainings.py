"""Run by test_toy_methods.py, in a copy of the tree that has the methods of toy_methods: trains them,
alone and by two processes.

python toy_trainings.py FOLDER
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from artifacts.store import Workspace
from stages.methods import METHODS
from tests.stages.forks import by_two_processes, killed_when
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


if __name__ == "__main__":
    space = fill(Workspace(Path(sys.argv[1]) / "runs"))
    for toy in TRAININGS:
        train(space, toy, f"{toy}-whole")
        train(space, toy, f"{toy}-one-step", iterations=1)
        partial = f".{toy}-cut.*.partial/.scratch/checkpoint.pt"
        cut = functools.partial(train, space, toy, f"{toy}-cut")
        assert killed_when(lambda: list(space.path.glob(partial)), cut)  # noqa: B023  (called at once, in this round)
        cut()
        by_two_processes(functools.partial(train, space, toy, f"{toy}-by-two"))
