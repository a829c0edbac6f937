"""`semiseg` under torchrun: two launchers as on two machines, a rank that is killed, a node that fails, run own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from artifacts.store import Workspace
from semiseg_cli.main import main
from tests.artifacts.small_artifacts import leftovers
from tests.documented import ROOT
from tests.semiseg_cli.test_own import draw
from tests.stages.engine.torchrun import OF_A_GROUP
from tests.stages.forks import as_ranks

RECIPE = """
name: two-machines
description: Data, a training, predictions and scores.
nodes:
  data: {stage: prepare-data, config: {dataset: {name: shapes, train: 6, weak: 5, val: 7, long_side: 64}}}
  train:
    stage: train
    inputs: {data: data}
    config: {method: supervised, network: tiny, iterations: 60, log_every: 1, batch_size: 4, crop_size: 33}
  predictions: {stage: predict, inputs: {data: data, segmenter: train}, config: {splits: [val, train]}}
  scores: {stage: evaluate, inputs: {data: data, predictions: predictions}, config: {splits: [val, train]}}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Machines:
    """Two launchers of one process each, which meet by their addresses alone; rank 1 has the local rank 0."""

    def __init__(self, folder: Path, *words: str) -> None:
        port, environment = free_port(), {key: value for key, value in os.environ.items() if key not in OF_A_GROUP}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.errors = [folder / f"stderr-{node}" for node in range(2)]
        self.launchers = []
        for node in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node)]
            command += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
            with self.errors[node].open("w") as errors:
                self.launchers.append(
                    subprocess.Popen(
                        [*command, "-m", "semiseg_cli", *words], cwd=folder, env=environment, stderr=errors
                    )
                )

    def rank(self, node: int) -> int:
        """The id of the process that the launcher of this machine has started."""
        launcher = self.launchers[node].pid
        return int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0])

    def wait(self, seconds: float) -> list[int]:
        try:
            return [launcher.wait(seconds) for launcher in self.launchers]
        finally:
            for launcher in self.launchers:
                launcher.kill()

    def said(self, node: int) -> str:
        return self.errors[node].read_text()


def steps_of(partial: list[Path]) -> int:
    return json.loads(partial[0].read_text())["done"] if partial else 0


def test_on_two_machines_a_killed_rank_ends_the_run_and_the_same_command_continues_to_the_bytes_of_one(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ("run", "recipe.yaml", "--workspace", "two", "--device", "cpu", "--workers", "1")
    machines = Machines(tmp_path, *words)
    end = time.monotonic() + 300
    while steps_of(list((tmp_path / "two").glob(".train.*.partial/.progress.json"))) < 2:
        assert time.monotonic() < end, machines.said(0)
        time.sleep(0.01)
    os.kill(machines.rank(1), signal.SIGKILL)
    assert all(machines.wait(60))
    assert "error: rank 1 (process " in machines.said(0)
    assert "the same command continues" in machines.said(0)
    machines = Machines(tmp_path, *words)
    assert machines.wait(300) == [0, 0], machines.said(0) + machines.said(1)
    assert "[1/4] fresh" in machines.said(0)
    assert "3 made, 1 fresh" in machines.said(0)
    assert "node" not in machines.said(1).lower()  # the first rank alone speaks
    space, alone = Workspace(tmp_path / "two"), ["-w", str(tmp_path / "two"), "--device", "cpu", "--workers", "1"]
    assert leftovers(space) == [".recipe.json"]
    assert space.artifact("predictions").manifest.made_by["processes"] == 2
    assert main(["predict", "--segmenter", "train", "--split", "val,train", "--name", "by-one", *alone]) == 0
    assert main(["evaluate", "--predictions", "by-one", "--split", "val,train", "--name", "scores-by-one", *alone]) == 0
    for two, one in (("predictions", "by-one"), ("scores", "scores-by-one")):
        assert space.artifact(two).manifest.content == space.artifact(one).manifest.content


def in_two_ranks(folder: Path, *words: str, more: tuple[str, ...] = ()) -> tuple[list[int | None], list[str]]:
    """The exit codes of `semiseg WORDS` in two ranks, copies of this process, and what they wrote to stderr.

    more: words that rank 1 alone is given.
    """
    port = free_port()

    def ranked(rank: int) -> None:
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in given.items()} | {"MASTER_ADDR": "127.0.0.1"})
        sys.stderr = (folder / f"said-{rank}").open("w")
        sys.exit(main([*words, *(more if rank else ())]))

    codes = as_ranks(ranked, 2, 300)
    return codes, [(folder / f"said-{rank}").read_text() for rank in range(2)]


def test_a_node_that_fails_in_one_rank_stops_what_needs_it_in_all_of_them(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("iterations: 60", "iterations: 2"))
    words = ["run", str(tmp_path / "recipe.yaml"), "-w", str(tmp_path / "runs"), "--device", "cpu", "--workers", "1"]
    assert main([*words, "--set", "predictions.output=both"]) == 0
    data = tmp_path / "runs" / "data" / "images"
    damaged = sorted(file for file in data.iterdir() if not file.stem.startswith("weak"))[11]  # one of rank 1
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[:50])
    codes, said = in_two_ranks(tmp_path, *words, "--set", "predictions.output=masks", "--replace")
    assert codes == [3, 3]
    assert "error: rank 1 (process " in said[0]
    assert damaged.stem in said[0]
    assert "skipped  scores" in said[0]
    assert "continue with: semiseg run" in said[0]
    damaged.write_bytes(kept)
    codes, said = in_two_ranks(tmp_path, *words, "--set", "predictions.output=masks", "--replace")
    assert codes == [0, 0], said
    assert said[1] == ""


def test_ranks_with_different_commands_or_workspaces_are_told_so(tmp_path):
    words = ["prepare-data", "--workers", "1", "-w", str(tmp_path / "runs")]
    words += [word for split in ("train", "weak", "val") for word in ("--set", f"dataset.{split}=2")]
    for more in (("--set", "dataset.seed=5"), ("--workspace", str(tmp_path / "elsewhere"), "--force")):
        codes, said = in_two_ranks(tmp_path, *words, more=more)
        assert codes == [3, 3]
        assert "data: rank 1 finds other inputs, settings or results than rank 0" in said[0]
        assert main(words) == 0


def test_commands_that_are_no_stage_are_run_by_the_first_rank_alone(tmp_path, capfd):
    assert in_two_ranks(tmp_path, "methods")[0] == [0, 0]
    assert capfd.readouterr().out.count("unimatch-v2") == 1


def test_run_own_in_two_ranks(tmp_path):
    given = draw(tmp_path, masks=14, labels=5, nothing=1)
    codes, said = in_two_ranks(
        tmp_path, "run", "own", "-w", str(tmp_path / "ws"), "--device", "cpu", "--workers", "2", *given
    )
    assert codes == [0, 0], said
    assert "the model in" in said[0]
    assert said[1] == ""
    assert (tmp_path / "ws" / "model" / "README.md").is_file()
    assert Workspace(tmp_path / "ws").artifact("predictions").manifest.made_by["processes"] == 2
