"""Instance masks: of each image a PNG with the number of every pixel's instance, and all in one file in COCO's format.

    instances/<image id>.png     8-bit PNG of mode P: k + 1 at the pixels of instance k, 0 elsewhere
    instances.json               COCO: images, annotations (with a score; masks as run lengths), categories

COCO's tools read the file: for training (`COCO("instances.json")`) as well as its annotations as results (`loadRes`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from artifacts.dataset import ClassNames, check_image_id
from artifacts.errors import ArtifactError
from artifacts.json_items import MAKE_AGAIN, Count, Shape
from artifacts.masks import read_mask
from artifacts.store import Artifact
from artifacts.text import amount

FOLDER = "instances"
DOCUMENT = "instances.json"


@dataclass(frozen=True)
class Instance:
    """What is known of an instance in addition to its mask; score: 0..1."""

    class_id: int
    score: float


class _Image(Shape):
    id: Count
    image_id: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]


class _Annotation(Shape):
    image_id: Count
    category_id: Annotated[int, Field(ge=0, le=254)]
    score: Annotated[float, Field(ge=0, le=1)]


class _Document(Shape):
    """instances.json, as far as it is read."""

    class_names: ClassNames
    images: list[_Image]
    annotations: list[_Annotation]

    @model_validator(mode="after")
    def _agrees(self) -> _Document:
        ids = [check_image_id(image.image_id) for image in self.images]
        if len(set(ids)) != len(ids) or [image.id for image in self.images] != list(range(1, len(ids) + 1)):
            raise ValueError("the images are not distinct and numbered from 1 on")
        for one in self.annotations:
            if not 1 <= one.image_id <= len(ids) or one.category_id >= len(self.class_names):
                raise ValueError("an annotation is of an image or a class that is not listed")
        return self


class InstanceMasks(Mapping[str, tuple[NDArray[np.uint8], tuple[Instance, ...]]]):
    """Reads an artifact of instances: image id -> (numbers uint8 (H, W), its instances in the order of the numbers)."""

    def __init__(self, artifact: Artifact) -> None:
        document = artifact.json(DOCUMENT, _Document)
        self.folder: Path = artifact.path / FOLDER
        self.class_names = tuple(document.class_names)
        self._sizes = {image.image_id: (image.width, image.height) for image in document.images}
        self._instances: dict[str, list[Instance]] = {image.image_id: [] for image in document.images}
        names = list(self._instances)
        for one in document.annotations:
            self._instances[names[one.image_id - 1]].append(Instance(one.category_id, one.score))

    def __getitem__(self, image_id: str) -> tuple[NDArray[np.uint8], tuple[Instance, ...]]:
        """ArtifactError if the mask does not have the instances of the list."""
        instances, path = tuple(self._instances[image_id]), self.folder / f"{image_id}.png"
        numbers = read_mask(path, size=self._sizes[image_id])
        if set(np.unique(numbers).tolist()) - {0} != set(range(1, len(instances) + 1)):
            expected = amount(len(instances), "instance")
            raise ArtifactError(f"{path} does not have the {expected} of {DOCUMENT}", MAKE_AGAIN)
        return numbers, instances

    def __iter__(self) -> Iterator[str]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)


def annotations_of(numbers: NDArray[np.uint8], instances: Sequence[Instance]) -> list[dict[str, Any]]:
    """COCO's annotations of one image, without ids. numbers: (H, W), k + 1 at the pixels of instance k."""
    found = []
    for number, instance in enumerate(instances, start=1):
        mask = numbers == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        sides = (columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        found.append(
            {
                "category_id": instance.class_id,
                "score": round(instance.score, 6),
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                "area": int(mask.sum()),
                "bbox": [int(columns[0]), int(rows[0]), *map(int, sides)],
                "iscrowd": 0,
            }
        )
    return found


def document_of(
    class_names: Sequence[str], images: Sequence[Mapping[str, Any]], annotations: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """The content of instances.json. images: image_id, file_name, width and height; annotations: those of each."""
    count = itertools.count(1)
    return {
        "class_names": list(class_names),
        "categories": [{"id": k, "name": name} for k, name in enumerate(class_names) if name != "background"],
        "images": [{"id": number, **image} for number, image in enumerate(images, start=1)],
        "annotations": [
            {"id": next(count), "image_id": number, **one}
            for number, of in enumerate(annotations, start=1)
            for one in of
        ],
    }


def run_lengths(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed run lengths: pixels column by column, runs of 0 and 1 in turn, the first of 0.

    From the fourth on a run is written as the difference to the one before the last; each number in parts of 5 bits,
    lowest first, +32 if more follow, + 48 as a character.
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *ends.tolist(), flat.size]).tolist()
    text = []
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            part, value = value & 31, value >> 5
            more = value != (-1 if part & 16 else 0)
            text.append(chr(part + 32 * more + 48))
    return "".join(text)
