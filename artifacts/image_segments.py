"""Segments of images, parts without a class that may cover each other: of each image a JSON file of run lengths.

    segments/<image id>.json     {"annotations": [{"segmentation": {"size", "counts"}, "area", ...}], "schema": 1}

So are the files of SAM's data set, and COCO's tools read the run lengths. A folder of such files is also read
like one of segments made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from artifacts.instance_masks import run_lengths
from artifacts.json_items import Anything, Shape

FOLDER = "segments"
SCHEMA = 1


class SegmentFile(Shape):
    """The segments of one image; the run lengths are checked when they are drawn."""

    schema_version: Literal[1] = Field(alias="schema")
    annotations: list[Anything]


def item_of(image_id: str) -> str:
    return f"{FOLDER}/{image_id}.json"


def document_of(masks: Iterable[NDArray[np.bool_]], facts: Iterable[dict[str, float]] = ()) -> dict[str, Any]:
    """The content of an image's file. masks: (H, W) each, empty ones are left out; facts: more on each, by name."""
    each = iter(facts)
    annotations = []
    for mask in masks:
        own = next(each, {})
        if mask.any():
            runs = {"size": list(mask.shape), "counts": run_lengths(mask)}
            annotations.append({"segmentation": runs, "area": int(mask.sum()), **own})
    return {"schema": SCHEMA, "annotations": annotations}
