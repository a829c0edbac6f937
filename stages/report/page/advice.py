"""A review of the data with the images that it names: those to label next, and the masks that look wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.dataset import Dataset
from artifacts.item_shapes import Review
from artifacts.store import Artifact
from stages.report.page.shown_images import COUNT, Group, ImageRow, rows_with_prediction

_NEXT = (
    "Of these the network is least sure, and they differ most from what has a mask: the most useful first. Doubt: 1 "
    "minus the mean probability of the predicted classes."
)
_DOUBTFUL = "Here the network is sure of another class than the mask has: the largest share of the mask first."


@dataclass(frozen=True)
class Advice:
    """A review with the images that it names."""

    artifact: str
    review: Review
    groups: list[Group]


def read_advice(artifacts: Mapping[str, Artifact]) -> Advice | None:
    """Of the latest review, None without one. Raises SemisegError where it or its data set is damaged or gone."""
    reviews = [artifact for artifact in artifacts.values() if artifact.kind == "review"]
    if not reviews:
        return None
    found = max(reviews, key=lambda artifact: artifact.manifest.finished)
    read = {key: source["artifact"] for key, source in found.manifest.inputs.items()}
    review = found.json("review.json", Review)
    if read["data"] not in artifacts:
        return Advice(found.name, review, [])
    dataset, prediction = Dataset(artifacts[read["data"]]), _predictions(artifacts, read["segmenter"])
    of_next = {one.id: f"doubt {100 * one.doubt:.0f} %" for one in review.next[:COUNT]}
    of_masks = {
        one.id: f"{100 * one.share:.0f} % contradicted, most of it {one.mask} in the mask, {one.network} to the network"
        for one in review.doubtful[:COUNT]
    }
    groups = [
        Group("next", "Images to label next", _NEXT, _rows(dataset, prediction, of_next)),
        Group("doubtful", "Masks that look wrong", _DOUBTFUL, _rows(dataset, prediction, of_masks)),
    ]
    return Advice(found.name, review, [group for group in groups if group.rows])


def _predictions(artifacts: Mapping[str, Artifact], segmenter: str) -> Artifact | None:
    """The masks that this network predicted for the most images."""
    of_it = []
    for artifact in artifacts.values():
        source = artifact.manifest.inputs.get("segmenter")
        if artifact.kind == "predictions" and source is not None and source["artifact"] == segmenter:
            of_it.append(artifact)
    return max(of_it, key=lambda artifact: len(artifact.items), default=None)


def _rows(dataset: Dataset, prediction: Artifact | None, about: Mapping[str, str]) -> list[ImageRow]:
    rows = rows_with_prediction(dataset, prediction, [*about])
    return [dataclasses.replace(row, about=about[row.image_id]) for row in rows]
