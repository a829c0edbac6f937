"""The fingerprint of a prepared data set: what a plan depends on, read from its records and from some of its masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from artifacts.dataset import Dataset
from artifacts.masks import IGNORE
from artifacts.store import Artifact
from stages.planning.records import DataFacts, Spread

MOST_MASKS = 200  # that are read for the sizes of objects, evenly spaced over the sorted ids
LONG_SIDE = 1024  # larger masks are looked at every n-th pixel
LEAST_PIXELS = 16  # smaller parts are specks of a brush, not objects


def fingerprint(artifact: Artifact) -> DataFacts:
    """The facts of a data set artifact. DataError, with its name, for a mask or an image that cannot be read."""
    dataset = Dataset(artifact)
    splits = {split: dataset.splits.get(split, ()) for split in ("train", "weak", "unlabelled", "holdout", "val")}
    tagged = [image_id for image_id in splits["weak"] if dataset.has_tags(image_id) and dataset.tags(image_id)]
    sizes = [dataset.size(image_id) for ids in splits.values() for image_id in ids]
    sides = objects_in(dataset, evenly(splits["train"], MOST_MASKS))
    classes: Mapping[str, Mapping[str, int]] = artifact.summary.get("classes") or {}
    trained = [*splits["train"], *splits["weak"], *splits["unlabelled"]]
    return DataFacts(
        name=dataset.name,
        classes=dataset.class_names,
        masks=len(splits["train"]),
        image_labels=len(tagged),
        unlabelled=len(splits["weak"]) - len(tagged) + len(splits["unlabelled"]),
        holdout=len(splits["holdout"]),
        val=len(splits["val"]),
        label_sets=len({dataset.tags(image_id) for image_id in tagged}),
        short=spread(min(size) for size in sizes),
        long=spread(max(size) for size in sizes),
        objects=spread(sides),
        object_count=len(sides),
        masks_read=min(len(splits["train"]), MOST_MASKS),
        class_pixels=_column(classes, "train_pixels"),
        class_images=_column(classes, "train_images"),
        class_labels=_column(classes, "weak_images"),
        decoded_bytes=sum(4 * height * width for height, width in map(dataset.size, trained)),
    )


def _column(classes: Mapping[str, Mapping[str, int]], key: str) -> dict[str, int]:
    return {name: int(record[key]) for name, record in classes.items() if name != str(IGNORE) and key in record}


def evenly(ids: Sequence[str], most: int) -> list[str]:
    """At most `most` of the ids, evenly spaced."""
    return [ids[index * len(ids) // most] for index in range(most)] if len(ids) > most else list(ids)


def spread(values: Iterable[float]) -> Spread | None:
    """The percentiles of some numbers; None without any."""
    numbers = np.fromiter(values, dtype=np.float64)
    if not numbers.size:
        return None
    low, quarter, median, high = np.percentile(numbers, (10, 25, 50, 90))
    return Spread(*(round(float(value), 4) for value in (low, quarter, median, high)))


def objects_in(dataset: Dataset, ids: Iterable[str]) -> list[float]:
    """The sides of the objects in these masks, as shares of the image's."""
    first = 1 if dataset.has_background else 0
    return [side for image_id in ids for side in object_sides(dataset.mask(image_id), first)]


def object_sides(mask: np.ndarray[Any, Any], first: int) -> list[float]:
    """sqrt(area / area of the mask) of each connected part (by sides and corners) of each class from `first` on."""
    from scipy.ndimage import label

    step = -(-max(mask.shape) // LONG_SIDE)
    seen = mask[::step, ::step]
    sides: list[float] = []
    for number in np.unique(seen):
        if first <= number < IGNORE:
            parts, _ = label(seen == number, structure=np.ones((3, 3)))
            areas = np.bincount(parts.ravel())[1:]
            sides += np.sqrt(areas[areas * step**2 >= LEAST_PIXELS] / seen.size).tolist()
    return sides
