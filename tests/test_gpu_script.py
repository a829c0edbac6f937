"""`python -m tests.gpu` at a tiny size on the CPU: its figures, and what becomes of steps that fail or do not fit."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.gpu import steps
from tests.gpu.__main__ import main
from tests.gpu.data import data
from tests.gpu.offline import JOBS, timed
from tests.gpu.place import Place, Watch
from tests.gpu.rows import Row, Rows, read, table
from tests.gpu.steps import AGAIN, LOADED, STEPS, Step, rounds
from tests.gpu.training import measured

CPU = ["--tiny", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """With the drawn images."""
    folder = tmp_path_factory.mktemp("gpu")
    place = Place(folder, "cpu", True, Rows(folder, "tried"))
    data(place)
    return place


def test_a_training_is_measured(place):
    for method in ("supervised", "fixmatch"):
        measured(place, method, method)
    found = {row.what: row.figures for row in read(place.folder, "tried")}
    training = found["fixmatch"]
    assert training["images/s"] == pytest.approx(4 / training["ms a step"] * 1e3)  # batches of 4
    assert 0 < training["TFLOP a step"] < 0.01
    assert training["calls"] > found["supervised"]["calls"] > 50


def test_a_stage_is_measured(place):
    (job,) = (job for job in JOBS if job.what == "crf")
    timed(place, job)
    row = read(place.folder, "tried")[-1]
    assert row.what == "crf"
    assert row.figures["images"] == 6
    assert 0 < row.figures["start s"] < row.figures["s"]
    assert row.figures["images/s"] > 6 / row.figures["s"]  # which counts the start
    assert sum(share for _, share in row.details["main_thread"]) <= 1.01


def test_steps_run_in_processes_and_fail_alone(tmp_path, monkeypatch, capsys):
    """Nothing is prepared for the methods: each ends its process, and a fresh one takes the next."""
    monkeypatch.setitem(steps.STEPS, "methods", STEPS["methods"]._replace(needs=()))
    given = [*CPU, "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main([*given, "--only", "machine", "--only", "methods"]) == 0
    rows = [Row(**row) for row in json.loads((tmp_path / "rows.json").read_text())]
    assert [row.error for row in rows if row.step == "machine"] == ["", ""]
    failed = [row for row in rows if row.step == "methods"]
    assert {row.what for row in failed} == {"fixmatch", "cam", "par"}
    assert len(failed) == 3
    assert all("'data'" in row.error for row in failed)
    assert rows[-1].figures.keys() == {"loading", "machine", "methods"}  # their seconds
    assert {file.name for file in tmp_path.iterdir()} == {"rows.json", "table.txt", "log.txt", "work"}
    assert (tmp_path / "table.txt").read_text() == capsys.readouterr().out
    assert "--- segmenter-fixmatch" in (tmp_path / "log.txt").read_text()

    monkeypatch.setattr("tests.gpu.__main__.LEAST", 0.0)
    monkeypatch.setitem(steps.STEPS, "machine", Step("machine:machine", 0.0))
    assert main([*given, "--only", "machine"]) == 0
    (row, _) = json.loads((tmp_path / "rows.json").read_text())
    assert row["error"] == "ended after 0 s, the rest of it is missing"


def test_steps_that_do_not_fit_are_named(tmp_path, capsys):
    assert main([*CPU, "--only", "machine", "--seconds", "1", "--out", str(tmp_path)]) == 0
    assert "machine\n  the step itself: ERROR no time was left" in capsys.readouterr().out


def test_timed_steps_run_alone_and_after_what_they_need():
    found = list(rounds(list(STEPS)))
    assert [name for names in found for name in names] == list(STEPS)
    for number, names in enumerate(found):
        assert len(names) == 1 or not any(STEPS[name].timed for name in names)
        before = {name for earlier in found[:number] for name in earlier}
        assert all(before.issuperset(STEPS[name].needs) for name in names)
    assert ["equality", "methods"] in found
    assert AGAIN not in (0, 1, 2)  # which other errors end with


def test_what_the_server_loads_asks_for_no_gpu():
    """A copy of a process that has asked for the GPU cannot use it."""
    words = f"""
import torch
def refuse(*arguments):
    raise SystemExit("a GPU was asked for")
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    setattr(torch._C, name, refuse)
torch.cuda.is_available = torch.cuda.device_count = refuse
for name in {LOADED}:
    __import__(name)
"""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_wanted_figures_are_compared():
    assert Row("peer", "ratio", {"fp32": 1.6}, {"fp32": 1.5}).reached == "yes"
    assert Row("peer", "ratio", {"fp32": 1.4}, {"fp32": 1.5}).reached == "NO"
    assert Row("peer", "ratio", {}, {"fp32": 1.5}).reached == "NO"
    assert Row("peer", "ratio", {"fp32": 1.4}).reached == ""


def test_rows_are_kept_as_they_come(tmp_path):
    rows = Rows(tmp_path, "step")
    rows.add("first", {"images/s": 1234.5, "card": "A", "GiB": None})
    with rows.guarded("second"):
        raise ValueError("two\nlines")
    assert [row.error for row in read(tmp_path, "step")] == ["", "ValueError: two\nlines"]
    assert table(read(tmp_path, "step")) == (
        "-- step\n  first: images/s 1,234, card A, GiB -\n  second: ERROR ValueError: two lines"
    )


def test_the_watch_acts_at_steps_of_a_training_alone():
    called = []
    watch = Watch({2: lambda: called.append(len(watch.tasks))})
    for unit in ("images", "steps"):
        with watch.track(3, "work", unit) as tracker:
            for _ in range(3):
                tracker.advance()
    assert called == [2]
    assert watch.seconds(1, 3) > 0


def test_the_flow_of_a_task_leaves_its_first_quarter_out():
    watch = Watch()
    watch.tasks.append(("crf", "images", {0: 0.0, 1: 10.0, 2: 11.0, 4: 11.5, 8: 13.0}))
    assert watch.flow("crf") == ((8 - 2) / 8 / 2, 10.0, 11.0, 13.0)


def test_boxes_of_the_peer_are_unimatch_s(tmp_path):
    """A box in half of the cases, of 2 to 40 % of the area."""
    from tests.gpu.peer_unimatch import Photographs, _pasted

    crop = 100
    shares = np.array([float(Photographs(tmp_path, [], crop, False)._box().mean()) for _ in range(400)])
    assert 0.4 < (shares > 0).mean() < 0.6
    assert 0.018 < shares[shares > 0].min() < shares.max() < 0.401
    box = torch.zeros(1, 2, 2)
    box[0, 0, 1] = 1
    assert _pasted(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), box).tolist() == [[[0, 1], [0, 0]]]
