"""How soon the command answers: `--help` and `status` load no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from artifacts.store import Workspace
from tests.benchmarks import inputs
from tests.benchmarks.measure import Result, Timing, alone, in_turn

REPEATS = {"quick": 3, "full": 9}
HEAVY = ("torch", "torchvision", "scipy", "skimage", "sklearn", "tensorboard", "pydensecrf")
ROOT = Path(__file__).parents[2]
PROBE = """
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()):
    from semiseg_cli.main import main
    code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

EAGER = """
import runpy, torch, torchvision
runpy.run_module("semiseg_cli", run_name="__main__")
"""


def help_page(scale: str, folder: Path) -> Result:
    return _answer("cli-help", ["--help"], scale)


def status(scale: str, folder: Path) -> Result:
    """`semiseg status` of a workspace with one artifact."""
    workspace = Workspace(folder / "work")
    shapes = {"train": 1, "weak": 1, "val": 1, "long_side": 48}
    inputs.stage(workspace, "prepare-data", "data", {"dataset": {"name": "shapes", **shapes}}, workers=1)
    return _answer("cli-status", ["status", "--workspace", str(folder / "work")], scale)


def _answer(name: str, arguments: Sequence[str], scale: str) -> Result:
    def call(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    code, modules = json.loads(call("-c", PROBE, *arguments))
    loaded = sorted(set(HEAVY) & set(modules))
    baseline: Timing | None = None
    if scale == "tiny":  # loading torch takes longer than all the rest
        ours, found = alone(lambda: call("-m", "semiseg_cli", *arguments), 1)
        same = bool(found)
    else:
        baseline, ours, expected, found = in_turn(
            lambda: call("-c", EAGER, *arguments), lambda: call("-m", "semiseg_cli", *arguments), REPEATS[scale]
        )
        same = expected == found
    return Result(
        name,
        f"semiseg {arguments[0]}, a new process; baseline: the same with torch loaded first",
        "a workspace with one artifact" if arguments[0] == "status" else "no input",
        baseline,
        ours,
        f"the same answer, and none of {', '.join(HEAVY)} loaded" + (f": found {', '.join(loaded)}" if loaded else ""),
        code == 0 and not loaded and same,
        figures={"exit_code": code, "modules": len(modules)},
    )
