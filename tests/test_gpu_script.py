"""`python -m tests.gpu` at a tiny size on the CPU: its figures, and what becomes of steps that fail or do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.gpu import steps
from tests.gpu.__main__ import main, run_step
from tests.gpu.place import Watch
from tests.gpu.rows import Row, Rows, read, table
from tests.gpu.steps import Step


def test_a_training_is_measured(tmp_path, capsys):
    drawn = ["--tiny", "--device", "cpu", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    assert main([*drawn, "--only", "data"]) == 0
    capsys.readouterr()
    assert main([*drawn, "--only", "training"]) == 0
    found = {row["what"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert not [row for row in found.values() if row["error"]]
    training = found["fixmatch"]["figures"]
    assert training["images/s"] == pytest.approx(4 / training["ms a step"] * 1e3)  # batches of 4
    assert 0 < training["TFLOP a step"] < 0.01
    assert training["calls"] > found["supervised"]["figures"]["calls"] > 50
    printed = capsys.readouterr()
    assert "fixmatch: images/s" in printed.out
    assert "data:" not in printed.err  # the images are taken again
    assert {file.name for file in tmp_path.iterdir()} == {"rows.json", "table.txt", "log.txt", "work"}


def test_a_step_that_fails_is_a_line_of_the_table(tmp_path):
    """There are no images: the step peer fails in each of its parts, and goes on."""
    found = run_step("peer", tmp_path, "cpu", True, float("inf"))
    assert len(found) >= 4
    assert all("data" in row.error for row in found if row.what != "unimatch, ours to theirs")
    assert "ERROR" in table(found)


def test_a_step_ends_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.gpu.__main__.LEAST", 0.0)
    monkeypatch.setitem(steps.STEPS, "machine", Step("machine:machine", 0.2))
    (row,) = run_step("machine", tmp_path, "cpu", True, float("inf"))
    assert row.error == "ended after 0 s, the rest of it is missing"


def test_steps_that_do_not_fit_are_named(tmp_path, capsys):
    assert main(["--tiny", "--device", "cpu", "--only", "methods", "--seconds", "1", "--out", str(tmp_path)]) == 0
    assert "methods\n  the step itself: ERROR no time was left" in capsys.readouterr().out


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
