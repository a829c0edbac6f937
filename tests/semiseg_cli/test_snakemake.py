"""A recipe as a workflow: its text, and the same results where Snakemake is there to run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import UsageError
from artifacts.store import Workspace
from semiseg_cli import recipe_commands
from semiseg_cli.main import main
from stages.contract import STAGE_MODULES
from stages.pipeline.snakefile import ON_A_GPU
from tests.documented import ROOT

RECIPE = """
name: pair
description: Two trainings of a step, scored.
parameters: {images: {default: 4, help: Images of val.}}
repeat: {seed: [0, 1]}
nodes:
  data:
    stage: prepare-data
    config: {dataset: {name: shapes, train: 6, weak: 4, val: "${images}", long_side: 48}}
  train-s{seed}:
    stage: train
    inputs: {data: data}
    config: {method: {labels: strong}, iterations: 2, batch_size: 2, crop_size: 33, snapshots: 2, seed: "{seed}"}
  select-s{seed}:
    stage: select
    inputs: {data: data, segmenter: "train-s{seed}"}
table:
  title: Pair
  columns: [ours]
  rows:
    - label: supervised
      nodes: {ours: "select-s{seed}"}
"""
NODES = ["data", "train-s0", "train-s1", "select-s0", "select-s1"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMISEG_WORKSPACE", raising=False)
    Path("pair.yaml").write_text(RECIPE)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    return code, capsys.readouterr().err


def rules(text: str) -> dict[str, str]:
    return dict(re.findall(r"^rule (\w+):(.*?)(?=^rule |\Z)", text, re.MULTILINE | re.DOTALL))


def contents(workspace: str) -> dict[str, str]:
    found = Workspace(workspace)
    return {name: found.artifact(name).manifest.content for name in found.names()}


def test_a_rule_runs_each_node_with_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--set", "images=5", "--workspace", "with space"]
    code, err = run(capsys, "export", "snakemake", "pair.yaml", "--threads", "3", *given)
    assert (code, err.splitlines()[0]) == (0, "wrote Snakefile")
    text = Path("Snakefile").read_text()
    found = rules(text)
    assert list(found) == ["report", *(f"node_{name.replace('-', '_')}" for name in NODES)]
    assert "RUN = semiseg + \" run pair.yaml --set images=5 --workspace 'with space'\"" in text
    assert '{RUN} --only select-s1 --workers {threads}"' in found["node_select_s1"]
    assert found["node_select_s1"].count("MADE + ") == 3  # reads two, makes one
    assert "threads: 3" in found["node_data"]
    assert ["gpu=1" in found[f"node_{name.replace('-', '_')}"] for name in NODES] == [False, True, True, True, True]
    code, err = run(capsys, "export", "snakemake", "pair.yaml")
    assert code == 2
    assert "Snakefile exists already" in err


def test_a_job_asks_for_what_its_node_took_before(capsys: pytest.CaptureFixture[str]) -> None:
    for only in ("data", "train-s0"):
        assert run(capsys, "run", "pair.yaml", "--only", only, "--workers", "1", "--device", "cpu")[0] == 0
    manifest = Path("runs/pair/train-s0/manifest.json")
    record: dict[str, Any] = json.loads(manifest.read_text())
    record["seconds"], record["summary"]["peak_memory_mib"] = 3600.0, 900
    manifest.write_text(json.dumps(record))
    assert run(capsys, "export", "snakemake", "pair.yaml", "--gpus", "0")[0] == 0
    found = rules(Path("Snakefile").read_text())
    assert "mem_mb=1800,\n        runtime=120," in found["node_train_s0"]
    assert "runtime=10," in found["node_data"]
    assert "resources" not in found["node_train_s1"]


def test_names_that_python_cannot_tell_apart_are_rules_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pair.yaml").write_text(RECIPE.replace("train-s{seed}", "select_s{seed}"))
    assert run(capsys, "export", "snakemake", "pair.yaml")[0] == 0
    found = rules(Path("Snakefile").read_text())
    assert len(found) == len(NODES) + 1


def test_own_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["export", "snakemake", "own"], ["run", "own", "--set", "images=photos", "--only", "data"]):
        code, err = run(capsys, *words)
        assert code == 2
        assert "the nodes of own follow from a plan" in err


def test_a_node_alone_needs_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "run", "pair.yaml", "--only", "train-s0")
    assert code == 3
    assert "--only train-s0 reads what is not made yet in runs/pair: data (missing)" in err
    assert run(capsys, "run", "pair.yaml", "--only", "data", "--workers", "1")[0] == 0
    assert not Path("runs/pair/report.json").exists()
    code, err = run(capsys, "run", "pair.yaml", "--only", "train-s0", "--set", "images=3")
    assert code == 3
    assert "data (stale)" in err
    code, err = run(capsys, "run", "pair.yaml", "--only", "tain-s0")
    assert code == 3
    assert err.startswith("error: --only tain-s0: no such node")  # before anything is said of a run
    assert run(capsys, "run", "pair.yaml", "--only", "tain-s0", "--dry-run") == (code, err)
    code, err = run(capsys, "run", "pair.yaml", "--only", "data", "--only", "data", "--workers", "1")
    assert (code, err.splitlines()[:2]) == (
        0,
        ["pair: 1 node in runs/pair", "[1/1] fresh    data       train 6, val 4, weak 4"],
    )


def test_what_would_run_of_a_node_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "pair.yaml", "--only", "data", "--only", "train-s0", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NODES if f"\n {name} " in shown] == ["data", "train-s0"]
    assert "in all: 2 trainings, 4 steps; to run: 1 training, 2 steps" in shown
    code, err = run(capsys, "run", "pair.yaml", "--only", "train-s0", "--dry-run")
    assert (code, "data (missing)" in err) == (3, True)


def test_a_node_alone_reads_the_manifests_of_what_it_is_made_from_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in ("data", "train-s1"):
        assert run(capsys, "run", "pair.yaml", "--only", node, "--workers", "1", "--device", "cpu")[0] == 0
    opened = set[str]()
    artifact = Workspace.artifact
    monkeypatch.setattr(Workspace, "artifact", lambda self, name: opened.add(name) or artifact(self, name))
    assert run(capsys, "run", "pair.yaml", "--only", "train-s0", "--workers", "1", "--device", "cpu")[0] == 0
    assert opened == {"data", "train-s0"}


def test_stages_that_can_use_a_gpu_ask_for_one() -> None:
    used = {
        name
        for name, module in STAGE_MODULES.items()
        if re.search(
            r"execution\.device|stages\.methods\.training|MapSource",
            (ROOT / f"{module.replace('.', '/')}.py").read_text(),
        )
    }
    assert used == ON_A_GPU


def test_snakemake_makes_what_run_makes(capsys: pytest.CaptureFixture[str]) -> None:
    """With the other nodes side by side, in the same workspace."""
    snakemake = shutil.which("snakemake")
    if snakemake is None:
        pytest.skip("snakemake is not installed: pip install snakemake")
    words = ["--set", "images=3", "--workspace", "jobs"]
    assert run(capsys, "export", "snakemake", "pair.yaml", "--threads", "1", "--gpus", "0", *words)[0] == 0
    program = f"env PYTHONPATH={ROOT} {sys.executable} -m semiseg_cli"
    done = subprocess.run(
        [snakemake, "--cores", "2", "--config", f"semiseg={program}"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert run(capsys, "run", "pair.yaml", "--set", "images=3", "--workspace", "one", "--device", "cpu")[0] == 0
    assert contents("jobs") == contents("one")
    first, second = (json.loads(Path(folder, "report.json").read_text()) for folder in ("jobs", "one"))
    assert first["rows"] == second["rows"]


def test_side_by_side_makes_the_same_and_says_so_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "run", "pair.yaml", "--jobs", "2", "--device", "cpu", "--workspace", "two")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in err.splitlines()]
    assert lines[0] == "pair: 5 nodes in two"
    assert lines[1] == "[1/5] running data prepare-data"
    begun = [index for index, line in enumerate(lines) if re.match(r"\[./5\] running train-s", line)]
    ended = [index for index, line in enumerate(lines) if re.match(r"\[./5\] done train-s", line)]
    assert max(begun) < min(ended)
    assert any(line.startswith("5 made, 0 fresh in") for line in lines)
    assert run(capsys, "run", "pair.yaml", "--device", "cpu", "--workspace", "one")[0] == 0
    assert contents("two") == contents("one")


def test_a_failing_node_names_the_command_that_continues(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "train-s1.network.weights=nowhere.pth"]
    code, err = run(capsys, "run", "pair.yaml", "--jobs", "2", "--device", "cpu", *settings)
    assert code == 3
    assert "train-s1 failed (see above)" in err
    assert "3 made, 0 fresh, 1 failed, 1 not reached in" in err
    assert f"continue with: semiseg run pair.yaml {' '.join(settings)} --jobs 2 --device cpu" in err


def test_jobs_within_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--jobs and torchrun both divide the machine"):
        recipe_commands.run("pair.yaml", jobs=2)
