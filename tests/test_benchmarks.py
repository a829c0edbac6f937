"""Each benchmark runs at a tiny size, and what both sides computed is equal. No time is asserted."""

from __future__ import annotations

import itertools
import json
import math
import time

import pytest

from tests.benchmarks import __main__ as program
from tests.benchmarks.__main__ import BENCHMARKS, benchmark, main, shown
from tests.benchmarks.measure import CPU, WALL, Clock, Result, Timing, in_turn


@pytest.mark.parametrize("name", BENCHMARKS)
def test_both_sides_agree(name, tmp_path):
    result = benchmark(name)("tiny", tmp_path)
    assert result.name == name
    assert result.equal, result.equality
    assert result.ours.median > 0
    assert result.what
    assert result.input
    assert math.isfinite(sum(value for value in result.figures.values()))


def test_the_report_holds_every_figure(tmp_path, capsys):
    file = tmp_path / "bench" / "benchmarks.json"
    assert main(["--scale", "tiny", "--only", "region-growing", "--out", str(file)]) == 0
    report = json.loads(file.read_text())
    assert {"scale", "versions", "cores", "load_average"} < set(report)
    (growing,) = report["benchmarks"]
    assert {"name", "what", "input", "baseline", "ours", "ratio", "target_ratio", "equal", "reached"} < set(growing)
    assert growing["equal"]
    assert growing["ratio"] == pytest.approx(growing["baseline"]["median"] / growing["ours"]["median"])
    assert "region-growing" in capsys.readouterr().out


def test_one_that_fails_does_not_end_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(program.BENCHMARKS, "crf", "crf:no_such_function")
    file = tmp_path / "benchmarks.json"
    assert main(["--scale", "tiny", "--only", "crf", "--only", "region-growing", "--out", str(file)]) == 1
    report = json.loads(file.read_text())
    assert [one["name"] for one in report["benchmarks"]] == ["region-growing"]
    assert "no_such_function" in report["failed"]["crf"]
    assert "FAILED" in capsys.readouterr().out


def test_waiting_takes_no_cpu_seconds():
    baseline, ours, _, _ = in_turn(lambda: time.sleep(0.3), lambda: sum(range(10**6)), 2, CPU)
    assert max(baseline.runs) < 0.2
    assert min(ours.runs) > 0
    assert in_turn(lambda: time.sleep(0.3), int, 1, WALL)[0].median >= 0.3


def test_what_a_run_took_is_divided_among_its_images():
    readings = Clock("calls", itertools.count().__next__)
    baseline, ours, _, _ = in_turn(int, int, 2, readings, each=10)
    assert baseline == ours == Timing((0.1, 0.1), "calls")


def test_values_are_shown_with_their_units():
    assert shown(0.0123, "CPU s") == "12.3 CPU ms"
    assert shown(1.234, "s") == "1.23 s"
    assert shown(1428.0, "calls") == "1,428 calls"
    assert shown(12.34, "KiB") == "12 KiB"


def test_a_target_counts_only_with_equal_results():
    def result(**changes):
        values = {"baseline": Timing((8.0, 3.0, 4.0)), "ours": Timing((2.0, 1.0, 1.0)), "equal": True}
        return Result("name", "what", "input", equality="all", **(values | changes))

    assert result().ratio == 4.0  # the pairs: 4, 3, 4
    assert result(target_ratio=4.0).reached
    assert not result(target_ratio=4.1).reached
    assert not result(equal=False).reached
    assert not result(target_ratio=3.0, target_most=0.5).reached
    assert result(baseline=None, target_most=1.0).reached
    assert not result(baseline=None, target_most=0.9).reached
