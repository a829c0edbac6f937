"""Two processes under torchrun, which exchange through gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
OF_A_GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def torchrun(script: Path, *arguments: object, timeout: float = 120) -> None:
    """Runs a script in two processes of one thread each; AssertionError with the end of its stderr when it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_GROUP}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    ended = subprocess.run(
        [*map(str, [*command, *arguments])], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
