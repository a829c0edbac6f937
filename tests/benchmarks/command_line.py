"""How soon the command answers: `--help` loads no command, `status` no torch, a stage nothing that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from artifacts.store import Workspace
from tests.benchmarks import inputs
from tests.benchmarks.measure import CPU, Result, Timing, alone, in_turn

REPEATS = {"quick": 3, "full": 9}
HELP_S = 0.3  # CPU seconds
HEAVY = ("torch", "torchvision", "scipy", "skimage", "sklearn", "tensorboard", "pydensecrf")
ROOT = Path(__file__).parents[2]
PROBE = """
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()):
    from semiseg_cli.main import main
    code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

RUN = 'import runpy\nrunpy.run_module("semiseg_cli", run_name="__main__")\n'
WITH_COMMANDS = (
    "from semiseg_cli.command_list import COMMANDS, load_command\nfor name in COMMANDS: load_command(name)\n"
)
WITH_TORCH = "import torch, torchvision\n"


def help_page(scale: str, folder: Path) -> Result:
    return _answer("cli-help", ["--help"], scale, ("every command", WITH_COMMANDS), 2.5, HELP_S)


def status(scale: str, folder: Path) -> Result:
    """`semiseg status` of a workspace with one artifact."""
    workspace = Workspace(folder / "work")
    shapes = {"train": 1, "weak": 1, "val": 1, "long_side": 48}
    inputs.stage(workspace, "prepare-data", "data", {"dataset": {"name": "shapes", **shapes}}, workers=1)
    return _answer("cli-status", ["status", "--workspace", str(folder / "work")], scale, ("torch", WITH_TORCH))


def start_of_a_stage(scale: str, folder: Path) -> Result:
    """Building a ResNet."""
    load = "import sys; from stages.networks.backbones import ResNet; ResNet('resnet50', 8)"
    load += "; print({'torchvision', 'torch._dynamo'} & sys.modules.keys())"
    baseline, ours, _, loaded = in_turn(
        lambda: call("-c", f"import torchvision; {load}"), lambda: call("-c", load), REPEATS.get(scale, 1), CPU
    )
    return Result(
        "stage-start",
        "building a ResNet50, a new process; baseline: the same with torchvision loaded first",
        "no input",
        baseline,
        ours,
        "neither torchvision nor torch's compiler loaded",
        loaded.strip() == "set()",
        target_ratio=1.5,
    )


def call(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def _answer(
    name: str,
    arguments: Sequence[str],
    scale: str,
    first: tuple[str, str],
    target_ratio: float | None = None,
    target_most: float | None = None,
) -> Result:
    """first: what the baseline loads before it answers, in words and as a program."""
    code, modules = json.loads(call("-c", PROBE, *arguments))
    loaded = sorted(set(HEAVY) & set(modules))
    baseline: Timing | None = None
    if scale == "tiny":  # loading torch takes longer than all the rest
        ours, found = alone(lambda: call("-m", "semiseg_cli", *arguments), 1, CPU)
        same = bool(found)
    else:
        baseline, ours, expected, found = in_turn(
            lambda: call("-c", first[1] + RUN, *arguments),
            lambda: call("-m", "semiseg_cli", *arguments),
            REPEATS[scale],
            CPU,
        )
        same = expected == found
    return Result(
        name,
        f"semiseg {arguments[0]}, a new process; baseline: the same with {first[0]} loaded first",
        "a workspace with one artifact" if arguments[0] == "status" else "no input",
        baseline,
        ours,
        f"the same answer, and none of {', '.join(HEAVY)} loaded" + (f": found {', '.join(loaded)}" if loaded else ""),
        code == 0 and not loaded and same,
        target_ratio=target_ratio if baseline else None,
        target_most=target_most,
        figures={"exit_code": code, "modules": len(modules)},
    )
