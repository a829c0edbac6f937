"""The growth benchmark runs, and finds what grows by hand-made costs. No time is asserted."""

from __future__ import annotations

import json

from tests.benchmarks.growth import Cost, main, missed, needed, slopes


def costs(*measured: tuple[int, float, float]) -> list[Cost]:
    return [Cost("crf", images, seconds, memory) for images, seconds, memory in measured]


def test_the_time_of_an_image_leaves_out_the_start():
    linear = costs((100, 5.0 + 1, 50), (1000, 5.0 + 10, 50), (4000, 5.0 + 40, 54))
    assert slopes(linear) == [0.01, 0.01]
    assert missed(linear) == []


def test_what_grows_faster_than_the_images_is_said():
    square = costs((100, 0.01, 50), (1000, 1.0, 50), (4000, 16.0, 50))
    assert missed(square) == ["crf: an image takes 5.00 ms, at first 1.10"]
    lists = costs((100, 1.0, 50), (1000, 10.0, 50), (4000, 40.0, 350))
    assert missed(lists) == ["crf: the memory grows by 102.40 KiB an image"]


def test_small_differences_are_noise():
    assert missed(costs((10, 1.0, 50), (100, 0.9, 50), (200, 0.95, 50))) == []


def test_what_is_needed_runs_first():
    assert needed(["status", "verify"]) == ["prepare-data", "status", "verify"]
    assert needed(["fresh"]) == ["train", "prepare-data", "predict", "crf", "evaluate", "fresh"]


def test_it_runs(tmp_path, capsys):
    file = tmp_path / "growth.json"
    assert main(["--images", "50,200", "--only", "prepare-data,status,verify", "--out", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [(cost["command"], cost["images"]) for cost in record[:3]] == [
        ("prepare-data", 8),
        ("prepare-data", 50),
        ("prepare-data", 200),
    ]
    assert all(cost["seconds"] > 0 and cost["memory"] > 10 for cost in record)
    assert "status" in capsys.readouterr().out
