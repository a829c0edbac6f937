"""Checks that score maps are complete (all images, all classes of an artifact), counts empty ones. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError
from artifacts.item_shapes import Classes, some
from artifacts.json_items import MAKE_AGAIN
from artifacts.score_maps import ScoreMaps
from artifacts.store import Artifact


def check_complete(artifact: Artifact, maps: ScoreMaps, data: Artifact | None) -> None:
    """ArtifactError unless the artifact has score maps of all its images.

    Predictions and refined maps record these images; for seeds they are known if `data` is the data set that they were
    made from.
    """
    if artifact.kind in ("predictions", "refined"):
        classes = artifact.json("classes.json", Classes)
        wanted, same = set(classes.ids), list(maps.class_names) == classes.class_names
    elif data is not None and _content_of_data(artifact) == data.manifest.content:
        dataset, splits = Dataset(data), artifact.recorded("config", "splits", list[str])
        wanted, same = {i for split in splits for i in dataset.ids(split)}, maps.class_names == dataset.class_names
    else:
        return
    odd = sorted(wanted ^ set(maps.ids))
    if odd or not same:
        what = (
            f"different images than it was made from: {some(odd)}" if odd else "different classes than it was made from"
        )
        raise ArtifactError(f"the score maps of {artifact.name!r} are of {what}", MAKE_AGAIN)


def score_background(maps: ScoreMaps) -> bool:
    """Whether the maps score the background, too: a refiner scores it for all images or for none."""
    return any(0 in maps[image_id].classes for image_id in maps.ids[:1])


_KEPT_OPEN = 1000  # images after which the files are closed

UNTRAINED = (
    "the classifier finds none of their classes; where these are many, train it longer (train-classifier --iterations)"
)


def count_empty_maps(maps: ScoreMaps, note: Callable[[str], None], cause: str = UNTRAINED) -> int:
    """How many images have maps of zeros for all of their classes; `note` gets a message if there are any."""
    empty = labelled = 0
    for number, image_id in enumerate(maps.ids):
        if number % _KEPT_OPEN == 0:
            maps.close()  # the files of shards that are done: each keeps an index of its images in memory
        scores = maps[image_id].scores
        labelled += bool(len(scores))  # images without a class have no maps
        empty += bool(len(scores)) and not scores.any()
    if empty:
        note(f"{empty:,} of {labelled:,} images with labels have maps of zeros: {cause}")
    return empty


def _content_of_data(artifact: Artifact) -> str | None:
    record = artifact.manifest.inputs.get("data")
    return None if record is None else record["content"]
