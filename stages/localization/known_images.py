"""The training images of a data set with their score maps, as given to methods and refiners. Loads no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts.dataset import SPLITS, Dataset, Split
from artifacts.errors import DataError
from artifacts.score_maps import ScoreMap, ScoreMaps, check_fits
from artifacts.store import Artifact
from stages.data.images import ids_of
from stages.engine.known import Known
from stages.localization.complete_maps import check_complete


@dataclass(frozen=True)
class KnownImages:
    """Reads `Known` images by id; can be sent to other processes.

    Attributes:
        scores: if empty, there are no score maps yet: each image gets maps of no class.
        saliency: the folder of saliency maps that came with the scores; an image without a file there has none.
        masked: ids of the images whose true masks may be used for training.
        unlabelled: whether images without image-level labels are taken; else they are a DataError.
    """

    dataset: Dataset
    scores: Mapping[str, ScoreMap] = field(default_factory=dict)
    saliency: Path | None = None
    masked: Collection[str] = ()
    unlabelled: bool = False

    def __getitem__(self, image_id: str) -> Known:
        return self.known(image_id, self.dataset.image(image_id))

    def known(self, image_id: str, image: NDArray[np.uint8]) -> Known:
        """What is known of a decoded image. DataError if its score maps are not of its size and its labels."""
        from stages.localization.saliency import read_saliency  # scipy: only where an image is read

        size = (image.shape[0], image.shape[1])
        labelled = not self.unlabelled or self.dataset.has_tags(image_id)
        if self.scores:
            scores = self.scores[image_id]
            check_fits(scores, self.dataset)
        else:
            scores = ScoreMap(image_id, np.zeros((0, *size), np.float32), np.zeros(0, np.uint8), size, 1, "cam")
        file = None if self.saliency is None else self.saliency / f"{image_id}.png"
        return Known(
            image_id,
            image,
            self.dataset.tags(image_id) if labelled else [int(c) for c in scores.classes if c],
            scores,
            self.dataset.mask(image_id) if image_id in self.masked else None,
            read_saliency(file, size) if file is not None and file.is_file() else None,
            labelled,
        )

    def batches_of(self, ids: Sequence[str], batch_size: int) -> list[list[str]]:
        """The ids in batches of one image size, the largest first."""
        from stages.localization.activation_maps import ALONE_PIXELS, batches_of

        return batches_of(self.dataset, ids, batch_size, ALONE_PIXELS)

    def batches(self, ids: Sequence[str], batch_size: int, threads: int = 1) -> Iterator[list[Known]]:
        """Images of one size, largest first: too large for the memory is known at once. Threads decode them ahead.

        After each batch the memory it left is released: pieces of many sizes would otherwise add up, since a process
        that computes on the CPU keeps what is freed (`stages.engine.device.keep_freed_memory`).
        """
        from stages.data.decoding import decoded_ahead
        from stages.engine.device import release_freed_memory

        batches = self.batches_of(ids, batch_size)
        with contextlib.closing(decoded_ahead(self.dataset, batches, threads)) as decoded:
            for members, pixels in decoded:
                yield [self.known(image_id, image) for image_id, image in zip(members, pixels, strict=True)]
                release_freed_memory()


def known_images(
    data: Artifact, seeds: Artifact, splits: Sequence[Split], masks: bool = False, unlabelled: bool = False
) -> tuple[KnownImages, list[str]]:
    """The images, and the sorted ids of those of the splits, of all with score maps where there are no splits.

    masks: whether the true masks of the split train may be used. unlabelled: see `KnownImages`. DataError if score maps
    or images are missing.
    """
    dataset = Dataset(data)
    ids = ids_of(dataset, splits) if splits else []
    maps = score_maps_of(seeds, ids, data)
    ids = ids or list(maps.ids)
    known = {image_id for split in SPLITS for image_id in dataset.ids(split)}
    if foreign := sorted(set(ids) - known):
        raise DataError(
            f"{len(foreign)} images with score maps are not in the data set, e.g. {foreign[0]}",
            "give the data set that the score maps were made from",
        )
    masked = frozenset(dataset.ids("train")) if masks else frozenset()
    return KnownImages(dataset, maps, seeds.path / "saliency", masked, unlabelled), ids


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
