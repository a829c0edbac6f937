"""The figures of each class that `semiseg show` prints for a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from artifacts.dataset import MASKED
from artifacts.masks import IGNORE


def class_figures(
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[str]],
    pixels: Callable[[str], Mapping[int, int] | None],
    tags: Mapping[str, Collection[int]],
) -> dict[str, dict[str, int]]:
    """By class, and for 255: pixels and images in the masks of train, holdout and val, images of weak labelled with it.

    pixels: id -> {class id: count}, None for an image without a mask. tags: id -> class ids. Masks of the split weak
    are not counted: they serve only to evaluate estimated masks.
    """
    names = {**dict(enumerate(class_names)), IGNORE: "255"}
    figures: dict[str, dict[str, int]] = {name: {} for name in names.values()}
    for split in MASKED:
        if split == "holdout" and not splits.get(split):
            continue
        totals, images = Counter[int](), Counter[int]()
        for image_id in splits[split]:
            found = pixels(image_id) or {}
            totals.update(found)
            images.update(class_id for class_id, count in found.items() if count)
        for number, name in names.items():
            figures[name] |= {f"{split}_pixels": totals[number], f"{split}_images": images[number]}
    labelled = Counter(label for image_id in splits["weak"] for label in tags.get(image_id, ()))
    for number, name in names.items():
        figures[name]["weak_images"] = labelled[number]
    return figures
