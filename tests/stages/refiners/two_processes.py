"""Run by test_all_refiners.py under torchrun: train-refiner, refine and instances by two processes.

python -m torch.distributed.run --nproc_per_node 2 two_processes.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from artifacts.store import Workspace
from stages import refine
from stages.refiners import REFINERS
from tests.stages.refiners.small_refinement import INPUTS, INSTANCES, run, train_and_refine

if __name__ == "__main__":
    refine.SHARD_SIZE = 2
    space = Workspace(Path(sys.argv[1]) / "runs")
    for name in REFINERS:
        train_and_refine(space, name, "by-two")
    run(space, "instances", "instances-by-two", INSTANCES, INPUTS["instances"] | {"refiner": "irn-refiner-by-two"})
