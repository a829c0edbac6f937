"""Nodes side by side: the same results and report as one after the other, and what failures and signals do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from artifacts.store import Workspace
from stages.contract import STAGE_MODULES, Execution
from stages.pipeline.node_process import gpu_of
from stages.pipeline.observer import RunReport
from stages.pipeline.recipe import resolve
from stages.pipeline.run_recipe import RECORD_NAME, read_record, run_recipe, save_record
from stages.pipeline.side_by_side import threads_of_each
from tests.documented import ROOT
from tests.stages.pipeline.conftest import STAGES
from tests.stages.pipeline.test_run_recipe import Events

MODULE = """
import os, signal, sys, time
from tests.stages.pipeline.conftest import STAGES
from dataclasses import replace

def run(config, inputs, writer, execution):
    if {name!r} == "toy-sum":
        writer.write_bytes("begun.txt", b"begun")
        print("to stdout of", os.getpid())
        os.write(2, b"half a line")
        with execution.progress.track(3, "adding", "numbers") as tracker:
            tracker.advance(2, left=1)
        if config.plus == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.plus == 8:
            print(os.getpid(), flush=True)
            (writer.path / "waits").touch()
            try:
                time.sleep(100)
            finally:
                writer.write_bytes("ended.txt", b"cleanly")
        meeting = writer.path.parent / "meeting"
        if meeting.is_dir():  # each waits for the others
            (meeting / str(config.plus)).touch()
            end = time.monotonic() + 60
            while len(os.listdir(meeting)) < 2 and time.monotonic() < end:
                time.sleep(0.01)
    return STAGES[{name!r}].run(config, inputs, writer, execution)

STAGE = replace(STAGES[{name!r}], run=run)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy stages as modules that every process finds."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name in STAGES:
        module = f"side_by_side_{name.replace('-', '_')}"
        (folder / f"{module}.py").write_text(MODULE.format(name=name))
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setitem(STAGE_MODULES, name, module)
    monkeypatch.syspath_prepend(str(folder))
    return folder


class Shown:
    """Progress that keeps what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def track(self, total: int, description: str, unit: str = "images", done: int = 0) -> Any:
        import contextlib

        self.lines.append(f"{description}: {total} {unit}")
        return contextlib.nullcontext(self)

    def advance(self, count: int = 1, **fields: Any) -> None:
        self.lines.append(f"{count} more, {fields}")

    def note(self, text: str) -> None:
        self.lines.append(text)


def run(
    raw: dict[str, Any], workspace: Workspace, *settings: str, jobs: int = 2, **more: Any
) -> tuple[RunReport, list[str], list[str]]:
    events, shown = Events(), Shown()
    doing = Execution(device="cpu", workers=2, progress=shown)
    report = run_recipe(resolve(raw, "toy.yaml", None, settings), workspace, doing, events, jobs=jobs, **more)
    return report, events.lines, shown.lines


def contents(workspace: Workspace) -> dict[str, str]:
    return {name: workspace.artifact(name).manifest.content for name in workspace.names()}


def test_nodes_run_at_a_time_and_make_the_same(
    raw_recipe: dict[str, Any], workspace: Workspace, modules: Path, tmp_path: Path
) -> None:
    (workspace.path / "meeting").mkdir(parents=True)
    report, events, _ = run(raw_recipe, workspace)
    assert sorted(report.made) == ["numbers", "score-s0", "score-s1", "sum-s0", "sum-s1"]
    assert sorted(os.listdir(workspace.path / "meeting")) == ["0.0", "1.0"]  # both were there at a time
    assert events[:2] == ["started numbers", "finished numbers"]
    assert {events.index(f"started sum-s{seed}") for seed in (0, 1)} == {2, 3}
    one = Workspace(tmp_path / "one")
    run(raw_recipe, one, jobs=1)
    assert contents(workspace) == contents(one)
    report, events, _ = run(raw_recipe, workspace)
    assert (report.made, len(report.fresh)) == ([], 5)


def test_what_a_node_shows_and_writes_has_its_name(
    raw_recipe: dict[str, Any], workspace: Workspace, modules: Path
) -> None:
    _, _, shown = run(raw_recipe, workspace)
    for name in ("sum-s0", "sum-s1"):
        assert f"{name}: adding: 3 numbers" in shown
        assert any(line.startswith(f"{name}: to stdout of ") for line in shown)
        assert f"{name}: half a line" in shown
    assert shown.count("2 more, {'left': 1}") == 2


@pytest.mark.parametrize(
    ("mode", "error"), [("bad", "DataError: numbers are odd"), ("broken", "ZeroDivisionError: nothing to divide by")]
)
def test_a_failing_node_stops_what_needs_it_and_nothing_else(
    raw_recipe: dict[str, Any], workspace: Workspace, modules: Path, mode: str, error: str
) -> None:
    report, events, _ = run(raw_recipe, workspace, f"sum-s0.mode={mode}")
    failed = report.failed.pop("sum-s0")
    assert f"{type(failed).__name__}: {failed}".startswith(error)
    assert (report.failed, report.skipped) == ({}, ["score-s0"])
    assert report.made == ["numbers", "sum-s1", "score-s1"]
    assert "skipped score-s0: sum-s0" in events
    report, events, _ = run(raw_recipe, workspace)
    assert report.made == ["sum-s0", "score-s0"]


def test_a_process_that_dies_is_a_node_that_failed(
    raw_recipe: dict[str, Any], workspace: Workspace, modules: Path
) -> None:
    report, _, _ = run(raw_recipe, workspace, "sum-s1.plus=7")
    assert list(report.failed) == ["sum-s1"]
    assert "the process of sum-s1 was killed by signal 9 (SIGKILL)" in str(report.failed["sum-s1"])
    assert report.made == ["numbers", "sum-s0", "score-s0"]


def test_only_some_nodes_and_forced_ones(raw_recipe: dict[str, Any], workspace: Workspace, modules: Path) -> None:
    report, _, _ = run(raw_recipe, workspace, only=["numbers", "sum-s1"])
    assert report.made == ["numbers", "sum-s1"]
    report, events, _ = run(raw_recipe, workspace, force=["sum-s1"])
    assert sorted(report.made) == ["score-s0", "score-s1", "sum-s0", "sum-s1"]
    assert "replacing sum-s1: " in events


PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, {modules!r})
from stages.contract import STAGE_MODULES, Execution
from stages.pipeline.recipe import resolve
from stages.pipeline.run_recipe import RECORD_NAME, read_record, run_recipe, save_record
from artifacts.store import Workspace
from tests.stages.pipeline.test_run_recipe import Events

STAGE_MODULES |= {names!r}
run_recipe(resolve({raw!r}, "toy.yaml", None, []), Workspace({workspace!r}), Execution("cpu", 2), Events(), jobs=2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_processes(
    raw_recipe: dict[str, Any], workspace: Workspace, modules: Path, number: int
) -> None:
    """By Ctrl-C and SIGTERM they end cleanly, and no process is left behind by a kill."""
    raw_recipe["nodes"]["sum-s{seed}"]["config"] = {"plus": 8}
    names = {name: STAGE_MODULES[name] for name in STAGES}
    program = PROGRAM.format(modules=str(modules), names=names, raw=raw_recipe, workspace=str(workspace.path))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def listening() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listening
    ) as process:
        end = time.monotonic() + 300
        while len(list(workspace.path.glob(".sum-*/waits"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(60)
        assert process.returncode == -number or number == signal.SIGINT
        assert process.stderr is not None
        pids = [int(line.rsplit(" ", 1)[1]) for line in process.stderr if "to stdout of" in line]
    assert len(pids) == 2
    end = time.monotonic() + 20
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    ended = list(workspace.path.glob(".sum-*/ended.txt"))
    assert len(ended) == (0 if number == signal.SIGKILL else 2)


def test_cores_are_divided_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_of_each(jobs, 8) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(2, 8) == 3


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "0"]), ("2,5", ["2", "5", "2"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"])],
)
def test_gpus_are_shared_out(visible: str | None, expected: list[str]) -> None:
    assert [gpu_of(place, 2, visible) for place in range(3)] == expected


def test_processes_that_write_the_record_at_a_time_leave_it_whole(
    raw_recipe: dict[str, Any], workspace: Workspace
) -> None:
    """As the nodes of a workflow do, each a run of its own."""
    recipe = resolve(raw_recipe, "toy.yaml")
    save_record(workspace, recipe)
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=lambda: [save_record(workspace, recipe) for _ in range(50)] and None) for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        record = read_record(workspace)
        assert record is not None
        assert record.expected.keys() == recipe.nodes.keys()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in workspace.path.iterdir()] == [RECORD_NAME]
