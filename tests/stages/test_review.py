"""What a network says about images and masks, by hand and on a data set whose masks were exchanged."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from stages.review import ReviewConfig, classes_to_help, doubtful_masks, worth_labelling

NAMES = ("background", "cat", "dog")


def look(doubt: float, *vector: float, **counts: Any) -> dict[str, Any]:
    kept = base64.b64encode(np.array(vector, np.float16).tobytes()).decode()
    return {"doubt": doubt, "features": kept, **counts}


def test_the_next_image_is_unsure_and_unlike_what_is_labelled() -> None:
    looks = {
        "masked": look(0.0, 1, 0, 0),
        "same": look(0.9, 1, 0, 0),  # as unsure as can be, and known already
        "new": look(0.5, 0, 1, 0),
        "twin": look(0.49, 0, 1, 0),  # of no more use once `new` is taken
        "other": look(0.2, 0, 0, 1),
    }
    found = worth_labelling(looks, ["same", "new", "twin", "other"], 2)
    assert [one["id"] for one in found] == ["new", "other"]
    assert [round(one["distance"], 3) for one in found] == [1, 1]
    assert [one["doubt"] for one in found] == [0.5, 0.2]
    assert [one["id"] for one in worth_labelling(looks, ["same", "new", "twin", "other"], 9)][:2] == ["new", "other"]
    assert worth_labelling(looks, [], 3) == []


def test_a_mask_is_doubtful_by_the_share_of_pixels_that_a_sure_network_contradicts() -> None:
    right = [[60, 0, 0], [0, 40, 0], [0, 0, 0]]
    looks = {
        "right": look(0, 1, confusion=right, sure=right),
        "dog": look(0, 1, confusion=[[60, 0, 0], [10, 0, 30], [0, 0, 0]], sure=[[50, 0, 0], [5, 0, 25], [0, 0, 0]]),
        "little": look(0, 1, confusion=[[99, 1, 0], [0, 0, 0], [0, 0, 0]], sure=[[99, 1, 0], [0, 0, 0], [0, 0, 0]]),
        "bare": look(0, 1),
    }
    split_of = {"right": "train", "dog": "train", "little": "val", "bare": "weak"}
    found = doubtful_masks(looks, split_of, NAMES, ReviewConfig())
    assert found == [{"id": "dog", "split": "train", "share": 0.3, "mask": "cat", "network": "dog", "pixels": 25}]
    all_of_them = doubtful_masks(looks, split_of, NAMES, ReviewConfig(least=0))
    assert [one["id"] for one in all_of_them] == ["dog", "little"]


def test_the_class_to_help_has_a_large_error_and_few_masks() -> None:
    cat, dog = [[50, 0, 0], [0, 10, 0], [0, 0, 0]], [[50, 0, 0], [0, 0, 0], [0, 0, 10]]
    looks = {f"cat{n}": look(0, 1, confusion=cat) for n in range(8)} | {"dog": look(0, 1, confusion=dog)}
    split_of = dict.fromkeys(looks, "train") | {"scored": "val"}
    looks["scored"] = look(0, 1, confusion=[[40, 10, 10], [0, 10, 0], [0, 0, 10]])
    found = classes_to_help(looks, split_of, NAMES)
    assert found["help_most"] == "dog"  # both have an IoU of 0.5; one mask shows a dog, eight a cat
    assert found["classes"] == {
        "background": {"masks": 9, "iou": pytest.approx(40 / 60)},
        "cat": {"masks": 8, "iou": 0.5},
        "dog": {"masks": 1, "iou": 0.5},
    }
    assert classes_to_help({"a": look(0, 1)}, {"a": "weak"}, NAMES)["help_most"] is None
