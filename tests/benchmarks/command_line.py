"""How soon the command answers: `--help` loads no command, `status` no torch, a stage nothing that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from artifacts.store import Workspace
from tests.benchmarks import inputs
from tests.benchmarks.measure import CPU, Result, Timing, alone, in_turn

REPEATS = {"quick": 3, "full": 5}
FEW = {"train": 4, "weak": 2, "val": 4, "long_side": 48}
SHORT = {"network": "tiny", "iterations": 2, "batch_size": 2, "crop_size": 48, "log_images": 0}
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


def stages_together(scale: str, folder: Path) -> Result:
    """Data, a training of two steps, masks and scores: a recipe, which loads torch once, against four commands."""
    nodes = {
        "data": {"stage": "prepare-data", "config": {"dataset": {"name": "shapes", **FEW}}},
        "segmenter": {"stage": "train", "inputs": {"data": "data"}, "config": SHORT},
        "predictions": {"stage": "predict", "inputs": {"data": "data", "segmenter": "segmenter"}},
        "metrics": {"stage": "evaluate", "inputs": {"data": "data", "predictions": "predictions"}},
    }
    if scale == "tiny":  # the others load torch, which takes longer than all the rest
        nodes = {"data": nodes["data"]}
    last, recipe = [*nodes][-1], folder / "few.yaml"
    recipe.write_text(json.dumps({"name": "few", "description": "Four stages.", "nodes": nodes}))
    given = {"data": [f"dataset.{name}={value}" for name, value in FEW.items()]}
    given |= {"segmenter": [f"{name}={value}" for name, value in SHORT.items()]}

    def apart() -> str:
        workspace = tempfile.mkdtemp(dir=folder)
        for name, node in nodes.items():
            options = [option for value in given.get(name, []) for option in ("--set", value)]
            call("-m", "semiseg_cli", str(node["stage"]), "--workspace", workspace, "--name", name, *options)
        return _digest(workspace, last)

    def together() -> str:
        workspace = tempfile.mkdtemp(dir=folder)
        call("-m", "semiseg_cli", "run", str(recipe), "--workspace", workspace)
        return _digest(workspace, last)

    baseline, ours, expected, found = in_turn(apart, together, {"quick": 1, "full": 2}.get(scale, 1), CPU)
    return Result(
        "stages-together",
        "a recipe of four stages in one process, its report included; baseline: a command for each",
        f"{sum(FEW.values()) - FEW['long_side']} drawn images of {FEW['long_side']} pixels, two steps of training",
        baseline,
        ours,
        "the digest of the last result",
        expected == found,
        target_ratio=1.5,
    )


def _digest(workspace: str, name: str) -> str:
    return Workspace(Path(workspace)).artifact(name).manifest.content


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
