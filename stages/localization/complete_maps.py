"""Whether score maps are those of the artifact they lie in: all of its images, its classes. Loads no torch."""

from __future__ import annotations

from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError
from artifacts.item_shapes import Classes, some
from artifacts.json_items import MAKE_AGAIN
from artifacts.score_maps import ScoreMaps
from artifacts.store import Artifact


def check_complete(artifact: Artifact, maps: ScoreMaps, data: Artifact | None) -> None:
    """ArtifactError unless the score maps are of all images that the artifact was made of.

    Predictions and refined maps say themselves which these are; of seeds it is known where `data` is what they were
    made of.
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
        what = f"other images than it was made of: {some(odd)}" if odd else "other classes than it was made of"
        raise ArtifactError(f"the score maps of {artifact.name!r} are of {what}", MAKE_AGAIN)


def _content_of_data(artifact: Artifact) -> str | None:
    record = artifact.manifest.inputs.get("data")
    return None if record is None else record["content"]
