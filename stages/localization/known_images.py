"""The training images of a data set with their score maps, as given to methods and refiners. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap, ScoreMaps, check_fits
from artifacts.store import Artifact
from stages.engine.known import Known
from stages.localization.complete_maps import check_complete


@dataclass(frozen=True)
class KnownImages:
    """Reads `Known` images by id; can be sent to other processes.

    Attributes:
        scores: if empty, there are no score maps yet: each image gets maps of no class.
        saliency: the folder of saliency maps that came with the scores; an image without a file there has none.
        masked: ids of the images whose true masks may be used for training.
    """

    dataset: Dataset
    scores: Mapping[str, ScoreMap] = field(default_factory=dict)
    saliency: Path | None = None
    masked: Collection[str] = ()

    def __getitem__(self, image_id: str) -> Known:
        """DataError if the score maps of the image are not of its size and its labels."""
        from stages.localization.saliency import read_saliency  # scipy: only where an image is read

        image = self.dataset.image(image_id)
        size = (image.shape[0], image.shape[1])
        if self.scores:
            scores = self.scores[image_id]
            check_fits(scores, self.dataset)
        else:
            scores = ScoreMap(image_id, np.zeros((0, *size), np.float32), np.zeros(0, np.uint8), size, 1, "cam")
        file = None if self.saliency is None else self.saliency / f"{image_id}.png"
        return Known(
            image_id,
            image,
            self.dataset.tags(image_id),
            scores,
            self.dataset.mask(image_id) if image_id in self.masked else None,
            read_saliency(file, size) if file is not None and file.is_file() else None,
        )


def score_maps_of(seeds: Artifact, ids: Collection[str], data: Artifact) -> ScoreMaps:
    """The class-activation maps of an artifact of seeds. DataError if they lack images or have different classes."""
    maps, dataset = ScoreMaps(seeds), Dataset(data)
    if maps.class_names != dataset.class_names:
        raise DataError(
            f"the score maps are of the classes {', '.join(maps.class_names)}; "
            f"the data set has {', '.join(dataset.class_names)}",
            "use artifacts that were made from the same data set",
        )
    if missing := sorted(set(ids) - set(maps.ids)):
        have = [split for split, own in dataset.splits.items() if own and set(own) <= set(maps.ids)]
        raise DataError(
            f"{seeds.name} has no score maps of {len(missing)} of {len(ids)} images, e.g. {missing[0]}",
            f"name splits it has ({', '.join(have) or 'none of this data set'}), or make those of the rest, too",
        )
    check_complete(seeds, maps, data)
    return maps
