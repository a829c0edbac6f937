"""A method of one's own that learns from groups, and one that regresses score maps: trained as any other is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts import checkpoint
from artifacts.store import Workspace
from tests.stages.engine.torchrun import ROOT

HERE = Path(__file__).parent
SCRIPT = HERE / "toy_trainings.py"
TOYS = ("common-labels", "map-regression")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A workspace with the trainings of toy_trainings.py, by one process and by two."""
    folder = tmp_path_factory.mktemp("toys")
    tree = folder / "tree"
    for package in ("artifacts", "stages", "semiseg_cli"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(HERE / "toy_methods", tree / "stages" / "methods", dirs_exist_ok=True)
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, SCRIPT, folder], env=environment, check=True, timeout=500)
    return Workspace(folder / "runs")


@pytest.mark.parametrize("toy", TOYS)
def test_killed_and_continued_a_toy_ends_in_the_same_bits(toy, space):
    whole, cut = space.artifact(f"{toy}-whole"), space.artifact(f"{toy}-cut")
    assert cut.manifest.resumed == 1
    assert cut.manifest.content == whole.manifest.content


@pytest.mark.parametrize("toy", TOYS)
def test_two_processes_train_a_toy_as_one_does(toy, space):
    """The weights after three steps without momentum: each the sum of gradients of a joint batch."""
    names = ("whole", "by-two", "one-step")
    one, two, moved = (checkpoint.load(space.artifact(f"{toy}-{name}").file("weights.pt")) for name in names)
    largest = max(float((one[key] - moved[key]).abs().max()) for key in one)
    assert largest > 1e-4
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-3 * largest


@pytest.mark.parametrize("toy", TOYS)
def test_every_term_of_a_toy_is_felt(toy, space):
    losses = space.artifact(f"{toy}-whole").summary["losses"]
    assert set(losses) == {"common-labels": {"single", "group"}, "map-regression": {"regression"}}[toy]
    assert all(value > 0 for value in losses.values())
