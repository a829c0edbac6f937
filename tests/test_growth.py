"""The growth benchmark runs, and finds what grows by hand-made costs. No time is asserted."""

from __future__ import annotations

import json

from tests.benchmarks.growth import COMMANDS, Command, Cost, main, memory_missed, needed, slopes, time_missed


def costs(*measured: tuple[int, float, float]) -> list[Cost]:
    return [Cost("crf", images, seconds, memory) for images, seconds, memory in measured]


def test_the_time_of_an_image_leaves_out_the_start():
    linear = costs((100, 5.0 + 1, 50), (1000, 5.0 + 10, 50), (4000, 5.0 + 40, 54))
    assert slopes(linear) == [0.01, 0.01]
    assert time_missed(linear) == memory_missed(linear) == ""


def test_what_grows_faster_than_the_images_is_said():
    square = costs((100, 0.01, 50), (1000, 1.0, 50), (4000, 16.0, 50))
    assert time_missed(square) == "an image takes 5.00 ms, at first 1.10"
    lists = costs((100, 1.0, 50), (1000, 10.0, 50), (4000, 40.0, 350))
    assert memory_missed(lists) == "grows by 102.40 KiB an image"


def test_small_differences_are_noise():
    assert time_missed(costs((10, 1.0, 50), (100, 0.9, 50), (200, 0.95, 50))) == ""


def test_what_is_needed_runs_first():
    assert needed(["status", "verify"]) == ["prepare-data", "status", "verify"]
    assert needed(["fresh"]) == ["train", "prepare-data", "predict", "crf", "evaluate", "fresh"]


def test_it_runs(tmp_path, capsys):
    file = tmp_path / "growth.json"
    assert main(["--images", "50,200", "--only", "prepare-data,status,verify", "--out", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [(cost["command"], cost["images"]) for cost in record] == [
        (command, count) for count in (8, 50, 200) for command in ("prepare-data", "status", "verify")
    ]
    assert all(cost["seconds"] > 0 and cost["memory"] > 10 for cost in record)
    shown = capsys.readouterr().out
    assert "| `status` |" in shown
    assert main(["--show", str(file)]) == 0
    assert capsys.readouterr().out == shown


def test_what_fails_is_named_and_all_that_needs_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(COMMANDS, "crf", Command(("crf", "--data", "no-such-data"), ("prepare-data",)))
    file = tmp_path / "growth.json"
    assert main(["--images", "10", "--only", "crf,evaluate,verify", "--out", str(file)]) == 0
    record = {(one["command"], one["images"]): one for one in json.loads(file.read_text())}
    assert "no-such-data" in record["crf", 10]["why"]
    assert record["evaluate", 10]["why"] == "not run: it needs crf"
    assert record["verify", 10]["seconds"] > 0
    assert "crf of 10 images: semiseg crf --data no-such-data" in capsys.readouterr().out
