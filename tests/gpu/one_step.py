"""Runs one step in this process, a copy of a server that has loaded torch and the stages; its rows go to a file."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from stages.contract import default_workers
from stages.parallel.processes import end_with_parent, hear_ending
from tests.gpu.rows import Rows
from tests.gpu.steps import STEPS


def run(name: str, folder: Path, device: str, tiny: bool) -> None:
    """Runs the step `name`, as the leader of a process group; what it writes goes to its log."""
    os.setsid()
    hear_ending()
    end_with_parent()
    with (folder / f"{name}.log").open("ab", buffering=0) as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    rows = Rows(folder, name)
    with rows.guarded("the step itself"):
        from stages.pipeline.node_process import compute_with
        from tests.gpu.place import Place

        compute_with(1 if tiny else max(default_workers() // STEPS[name].processes, 1))
        module, function = STEPS[name].place.split(":")
        getattr(importlib.import_module(f"tests.gpu.{module}"), function)(Place(folder, device, tiny, rows))
