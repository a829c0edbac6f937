"""Figures in words."""

from __future__ import annotations

from stages.report.words import headline


def test_the_headline_of_a_data_set_has_all_of_its_splits() -> None:
    images = {"holdout": 4, "train": 13, "unlabelled": 1, "val": 5, "weak": 20}
    assert headline({"images": images}) == "holdout 4, train 13, unlabelled 1, val 5, weak 20"
    scores = {"mean_iou": 0.5, "pixel_accuracy": 0.75, "images": 5}
    assert headline(scores, most=2) == "mean IoU 50.0 %, pixel accuracy 75.0 %"
