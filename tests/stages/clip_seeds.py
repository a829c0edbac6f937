"""Maps of CLIP with random weights, on a few drawn images; under torchrun by two processes.

python -m torch.distributed.run --nproc_per_node 2 clip_seeds.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from artifacts.store import Artifact, Workspace
from stages import seeds
from stages.config import build
from stages.contract import Execution
from stages.localization.seeds_config import SeedsConfig
from stages.pipeline.run_stage import run_stage

SHARD_SIZE = 4
SOURCE = {"name": "clip", "weights": "none", "batch_size": 2}


def run_clip(space: Workspace, name: str, source: dict[str, Any] | None = None, **execution: Any) -> Artifact:
    values = {"source": SOURCE | (source or {}), "labels": "dense"}
    doing = Execution(**{"device": "cpu", "workers": 1} | execution)
    return run_stage(seeds.STAGE, build(SeedsConfig, values, "test"), space, name, {"data": "data"}, doing).artifact


if __name__ == "__main__":
    seeds.SHARD_SIZE = SHARD_SIZE
    run_clip(Workspace(Path(sys.argv[1]) / "runs"), "by-two")
