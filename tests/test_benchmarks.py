"""Each benchmark runs at a tiny size, and what both sides computed is equal. No time is asserted."""

from __future__ import annotations

import json
import math

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, benchmark, main
from tests.benchmarks.measure import Result, Timing


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


def test_a_target_counts_only_with_equal_results():
    def result(**changes):
        values = {"baseline": Timing((8.0, 3.0, 4.0)), "ours": Timing((2.0, 1.0, 1.0)), "equal": True}
        return Result("name", "what", "input", equality="all", **(values | changes))

    assert result().ratio == 4.0  # the pairs: 4, 3, 4
    assert result(target_ratio=4.0).reached
    assert not result(target_ratio=4.1).reached
    assert not result(equal=False).reached
    assert result(baseline=None, target_most=1.0).reached
    assert not result(baseline=None, target_most=0.9).reached
