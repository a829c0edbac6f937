"""run_stage in two ranks: long waits, locks that do not reach, ranks that fail or are killed, what is recorded."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from artifacts.errors import DataError, SemisegError
from artifacts.store import Workspace
from stages.config import Config
from stages.contract import Execution, Inputs, PlainProgress, Stage
from stages.engine import distributed
from stages.parallel import meeting
from stages.parallel.share import counted, record_pieces, share_of
from stages.pipeline.run_stage import run_stage
from tests.semiseg_cli.test_torchrun import free_port
from tests.stages.forks import as_ranks

IDS = [f"{number:02d}" for number in range(12)]


class Notes(PlainProgress):
    """Progress that writes what is noted into a file."""

    def __init__(self, file: Path) -> None:
        object.__setattr__(self, "every_s", 1e9)
        object.__setattr__(self, "file", file)

    def note(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(text + "\n")


Act = Callable[[str, int], Any]


def make_items(act: Act, config: Config, inputs: Inputs, writer: Any, execution: Execution) -> dict[str, Any]:
    """Each rank makes its share of the items."""
    items = share_of(IDS, execution, lambda item: writer.has(f"{item}.txt"))
    with counted(writer, execution, "toy", items) as advance:
        for item in items.left:
            act(item, execution.rank)
            writer.write_bytes(f"{item}.txt", item.encode())
            advance()
    meeting.barrier()
    return {"made": len(IDS)}


def make_records(act: Act, config: Config, inputs: Inputs, writer: Any, execution: Execution) -> dict[str, Any]:
    """Each rank looks at its share of the items, as `evaluate` does; the first one writes what all have found."""

    def look(own, advance):
        for item in own:
            act(item, execution.rank)
            advance()
        return list(own)

    records = record_pieces(writer, execution, "toy", IDS, 2, look)
    if execution.rank == 0:
        for item in [item for record in records for item in writer.read_json(record, list[str])]:
            writer.write_bytes(f"{item}.txt", item.encode())
    return {"made": len(IDS)}


def in_two_ranks(folder: Path, act: Act, force: bool = False, make: Any = make_items) -> list[int | None]:
    """A stage of twelve items: act(item, rank) comes before each."""
    port = free_port()

    def ranked(rank: int) -> None:
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in given.items()} | {"MASTER_ADDR": "127.0.0.1"})
        stage = Stage("toy", 1, "Twelve items.", Config, Inputs, "masks", functools.partial(make, act))
        execution = Execution(device="cpu", workers=1, progress=Notes(folder / f"notes-{rank}"))
        try:
            run_stage(stage, Config(), Workspace(folder / "runs"), "toy", {}, execution, force)
        except SemisegError as error:
            (folder / f"error-{rank}").write_text(f"{error.message}|{error.hint}")
            raise SystemExit(error.exit_code) from None

    return as_ranks(ranked, 2, 120)


DEADLY = {make_items: ("06", "07"), make_records: ("03", "09")}  # one of each rank, in the middle of its share


def items_of(folder: Path) -> list[str]:
    return sorted(Workspace(folder / "runs").artifact("toy").manifest.items)


def test_ranks_wait_for_one_that_works_alone_longer_than_a_collective_operation_may_take(tmp_path, monkeypatch):
    """The hour of the first rank, shortened as the patience of gloo is."""
    monkeypatch.setattr(distributed, "LONGEST_WAIT", distributed.timedelta(seconds=1))
    assert in_two_ranks(tmp_path, lambda item, rank: time.sleep(3 * (item == "00"))) == [0, 0]
    assert items_of(tmp_path) == [f"{item}.txt" for item in IDS]


def test_collective_operations_wait_for_days(monkeypatch):
    def act(rank: int) -> None:
        given = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in given.items()} | {"MASTER_ADDR": "127.0.0.1"})
        with distributed.meeting(), distributed.process_group("cpu"):
            backend = dist.group.WORLD._get_backend(torch.device("cpu"))
            assert backend.options._timeout.days == 7

    port = free_port()
    assert as_ranks(act, 2) == [0, 0]


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize("make", [make_items, make_records])
def test_a_killed_rank_ends_the_other_and_the_same_command_continues(tmp_path, make, dying, capfd):
    def act(item: str, rank: int) -> None:
        if item in DEADLY[make] and rank == dying:
            os.kill(os.getpid(), signal.SIGKILL)

    begin = time.monotonic()
    assert in_two_ranks(tmp_path, act, make=make) == [
        -signal.SIGKILL if rank == dying else meeting.DIED for rank in range(2)
    ]
    assert time.monotonic() - begin < 60
    assert f"error: rank {dying} (process " in capfd.readouterr().err
    made: list[str] = []
    assert in_two_ranks(tmp_path, lambda item, rank: (tmp_path / f"{item}-again").touch(), make=make) == [0, 0]
    made = sorted(file.name for file in tmp_path.glob("*-again"))
    assert 0 < len(made) < 12
    assert items_of(tmp_path) == [f"{item}.txt" for item in IDS]
    assert Workspace(tmp_path / "runs").artifact("toy").manifest.resumed == 1


def test_the_time_of_a_killed_run_is_kept_whatever_rank_reports_last(tmp_path):
    """A rank other than the first once replaced the record of the runs by one of its own."""

    def act(item: str, rank: int) -> None:
        time.sleep(1.2 * (rank == 1 and item in ("01", "03")))
        if rank == 0 and item == "02":
            time.sleep(3)
            os.kill(os.getpid(), signal.SIGKILL)

    for expected in (1, 2):
        in_two_ranks(tmp_path, act)
        (partial,) = (tmp_path / "runs").glob(".toy.*.partial")
        assert json.loads((partial / ".work.json").read_text())["runs"] == expected


def test_an_error_in_one_rank_is_told_to_the_other(tmp_path):
    def act(item: str, rank: int) -> None:
        if item == "05":
            raise DataError("05.png is damaged", "copy it again")

    assert in_two_ranks(tmp_path, act) == [3, 3]
    assert (tmp_path / "error-1").read_text() == "05.png is damaged|copy it again"
    told = (tmp_path / "error-0").read_text()
    assert told.startswith("rank 1 (process ")
    assert told.endswith(" failed: 05.png is damaged|copy it again")


def test_a_lock_that_does_not_reach_another_machine_is_said(tmp_path, monkeypatch):
    flock = fcntl.flock

    def on_this_machine_alone(file: Any, operation: int) -> None:
        if os.environ.get("RANK") != "1" or ".probe" in file.name:
            flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", on_this_machine_alone)
    assert in_two_ranks(tmp_path, lambda item, rank: None) == [0, 0]
    assert "do not hold on" in (tmp_path / "notes-0").read_text()
    monkeypatch.undo()
    (tmp_path / "notes-0").unlink()
    assert in_two_ranks(tmp_path, lambda item, rank: None, force=True) == [0, 0]
    assert not (tmp_path / "notes-0").exists()
