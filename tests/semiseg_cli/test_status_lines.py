"""The lines below the table of `semiseg status`: counts, the command for the rest, remarks that many share."""

from __future__ import annotations

import shlex
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from artifacts.store import Workspace
from semiseg_cli.main import main
from semiseg_cli.workspace_commands import OFTEN, _print_states
from stages.pipeline.status import FRESH, PARTIAL, RUNNING, State

RECIPE = """
name: little
description: Draws images, twice.
parameters: {images: {default: 3, help: Images to score.}}
nodes:
  data: {stage: prepare-data, config: {dataset: {name: shapes, train: 4, weak: 4, val: "${images}", long_side: 48}}}
  more: {stage: prepare-data, config: {dataset: {name: shapes, train: 5, weak: 4, val: "${images}", long_side: 48}}}
"""


def test_status_counts_states_and_its_command_makes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("little.yaml").write_text(RECIPE)
    assert main(["run", "little.yaml", "--set", "images=2", "-w", "a folder", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["status", "-w", "a folder"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 fresh"
    shutil.rmtree("a folder/more")
    assert main(["status", "-w", "a folder"]) == 0
    *_, counts, again = capsys.readouterr().out.splitlines()
    assert counts == "1 fresh, 1 missing"
    words = shlex.split(again.removeprefix("to make the rest: "))
    assert words == ["semiseg", "run", "little.yaml", "--set", "images=2", "--workspace", "a folder"]
    assert main(words[1:]) == 0
    assert main(["status", "--check", "-w", "a folder"]) == 0


def test_a_remark_that_many_artifacts_share_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, times in ((OFTEN, OFTEN), (OFTEN + 1, 1)):
        states = [State(f"a{k}", "train", FRESH, remarks=["code of another commit"]) for k in range(count)]
        _print_states(states, None, Workspace(tmp_path))
        assert capsys.readouterr().out.count("code of another commit") == times


def test_work_that_goes_on_says_who_does_it_and_commands_name_the_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = (datetime.now(UTC) - timedelta(seconds=75)).isoformat()
    running = State("a", "train", RUNNING, done=3, total=20, pid=12, host="node7", since=begun)
    again = "semiseg run little.yaml"
    partial = [State(name, "train", PARTIAL, done=3, total=20, since=begun, command=again) for name in "bc"]
    _print_states([running, *partial], None, Workspace(tmp_path / "a folder"))
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if " a " in line)
    assert " ".join(line.split()).startswith("a train running 3/20 process 12 on node7, for 1 min ")
    assert shown.splitlines()[-2:] == [
        "b, c to continue: semiseg run little.yaml",
        f"to remove unfinished work: semiseg clean --workspace '{tmp_path}/a folder'",
    ]
