"""The figures of each class that `semiseg show` prints for a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from artifacts.dataset import MASKED
from artifacts.masks import IGNORE


def class_figures(
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[str]],
    pixels: Mapping[str, Mapping[int, int]],
    tags: Mapping[str, Collection[int]],
) -> dict[str, dict[str, int]]:
    """By class, and for 255: pixels and images in the masks of train, holdout and val, images of weak labelled with it.

    pixels: id -> class id -> count, of the images that have masks. tags: id -> class ids. Masks of the split weak are
    not counted: they serve only to evaluate estimated masks.
    """
    figures: dict[str, dict[str, int]] = {}
    for number, name in [*enumerate(class_names), (IGNORE, "255")]:
        record: dict[str, int] = {}
        for split in MASKED:
            if split == "holdout" and not splits.get(split):
                continue
            counts = [pixels[image_id].get(number, 0) for image_id in splits[split] if image_id in pixels]
            record[f"{split}_pixels"], record[f"{split}_images"] = sum(counts), sum(count > 0 for count in counts)
        record["weak_images"] = sum(number in tags.get(image_id, ()) for image_id in splits["weak"])
        figures[name] = record
    return figures
