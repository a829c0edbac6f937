"""`evaluate-instances`: instance masks against true ones, as average precision at three overlaps.

    semiseg evaluate-instances --instances instances --objects VOCdevkit/VOC2012/SegmentationObject --split train

The true masks are index PNGs <image id>.png, one value an object (0: none, 255: border, part of none); the class of an
object is the one that most of its pixels have in the data set's masks. The result is `metrics.json`: ap50, ap70 and
ap75 (fractions 0..1), the mean over the classes, of each class, and of all instances as one class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import DataError
from artifacts.instance_masks import InstanceMasks
from artifacts.item_shapes import some
from artifacts.json_items import Count, Shape
from artifacts.masks import IGNORE, read_mask
from artifacts.store import Artifact, Writer
from stages.config import Config, ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import ids_of
from stages.parallel.processes import map_in_processes
from stages.parallel.share import PART, record_pieces

if TYPE_CHECKING:
    from stages.evaluation.instance_precision import Overlaps


class EvaluateInstancesConfig(Config):
    """What is scored, and where the true instances are."""

    splits: tuple[Split, ...] = Field(
        ("train",), min_length=1, description="Splits that are scored, together (published: VOC's training images)."
    )
    objects: ExternalFile = Field(
        "",
        description="Folder of the true instances, <image id>.png (VOC: SegmentationObject). Empty: objects/ of the\n"
        "data set, which shapes has with dataset.objects=true.",
    )


@dataclass(frozen=True)
class EvaluateInstancesInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set with the true masks", default=("data",))]
    instances: Annotated[Artifact, Input(("instances",), "the instances to score", default=("instances",))]


@dataclass(frozen=True)
class Truth:
    """True and predicted instances, by image id."""

    dataset: Dataset
    folder: Path
    found: InstanceMasks


def check(config: EvaluateInstancesConfig, inputs: EvaluateInstancesInputs) -> None:
    """Checks that every image of the splits has predicted instances, true ones, and a true mask."""
    _open(config, inputs)


def _open(config: EvaluateInstancesConfig, inputs: EvaluateInstancesInputs) -> tuple[Truth, list[str]]:
    dataset, found = Dataset(inputs.data), InstanceMasks(inputs.instances)
    folder = Path(config.objects).expanduser() if config.objects else inputs.data.path / "objects"
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of true instances", "name one: --objects DIR")
    if found.class_names != dataset.class_names:
        raise DataError(
            f"the instances are of the classes {', '.join(found.class_names)}; the data set has "
            f"{', '.join(dataset.class_names)}",
            "use artifacts that were made from the same data set",
        )
    ids = ids_of(dataset, config.splits)
    for what, missing in {
        "true mask in the data set": [image_id for image_id in ids if not dataset.has_mask(image_id)],
        f"true instances in {folder}": [image_id for image_id in ids if not (folder / f"{image_id}.png").is_file()],
        f"instances in {inputs.instances.name!r}": [image_id for image_id in ids if image_id not in found],
    }.items():
        if missing:
            raise DataError(
                f"{len(missing)} of {len(ids)} images have no {what}: {some(missing)}", "score a split that has them"
            )
    return Truth(dataset, folder, found), ids


def run(
    config: EvaluateInstancesConfig, inputs: EvaluateInstancesInputs, writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Scores what is still missing; under torchrun each rank its share of the images."""
    from stages.evaluation.instance_precision import precisions

    truth, ids = _open(config, inputs)

    def compare(own: Sequence[str], advance: Callable[..., None]) -> dict[str, Any]:
        found = {}
        for image_id, record in map_in_processes(_compare, truth, own, execution.own_workers):
            found[image_id] = record
            advance()
        return found

    records = record_pieces(writer, execution, "evaluate-instances", ids, PART, compare)
    if execution.rank != 0:
        return {}
    compared: dict[str, OverlapsRecord] = {}
    for record in records:
        compared |= writer.read_json(record, dict[str, OverlapsRecord])
    ordered = [compared[image_id].overlaps() for image_id in ids]
    left_out = sum(one.of_no_class for one in compared.values())
    if left_out:
        execution.progress.note(
            f"not scored, as most of their pixels are of no class in the true masks: {left_out:,} of "
            f"{left_out + sum(len(one.true_classes) for one in ordered):,} true instances"
        )
    counts = {
        "images": len(ids),
        "instances": sum(len(one.classes) for one in ordered),
        "true_instances": sum(len(one.true_classes) for one in ordered),
    }
    figures = precisions(ordered, truth.dataset.class_names)
    writer.write_json("metrics.json", {"splits": list(config.splits), **counts, **figures})
    summary = {key: value for key, value in {**figures, **counts}.items() if key != "classes"}
    return summary | {"true_instances_of_no_class": left_out}


class OverlapsRecord(Shape):
    """`Overlaps` of an image, and how many true instances are of no class."""

    iou: list[list[float]]
    scores: list[float]
    classes: list[int]
    true_classes: list[int]
    of_no_class: Count

    def overlaps(self) -> Overlaps:
        from stages.evaluation.instance_precision import Overlaps

        return Overlaps(
            np.array(self.iou, float).reshape(len(self.classes), len(self.true_classes)),
            np.array(self.scores, float),
            np.array(self.classes, np.int64),
            np.array(self.true_classes, np.int64),
        )


def _compare(truth: Truth, image_id: str) -> dict[str, Any]:
    """The `OverlapsRecord` of an image."""
    from stages.evaluation.instance_precision import overlaps_of

    numbers, instances = truth.found[image_id]
    size = (numbers.shape[1], numbers.shape[0])
    mask, objects = truth.dataset.mask(image_id), read_mask(truth.folder / f"{image_id}.png", size=size)
    true_numbers, classes = true_instances(objects, mask)
    of_no_class = len(np.setdiff1d(objects, (0, IGNORE))) - len(classes)
    overlaps = overlaps_of(numbers, instances, true_numbers, classes)
    return {key: values.tolist() for key, values in vars(overlaps).items()} | {"of_no_class": of_no_class}


def true_instances(objects: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Sequence[int]]:
    """(k + 1 at the pixels of object k, the class of each), of objects that are mostly of a class of the mask."""
    numbers, classes = np.zeros(objects.shape, np.uint8), []
    for value in np.setdiff1d(objects, (0, IGNORE)):
        own = objects == value
        class_id = int(np.bincount(mask[own]).argmax())
        if class_id not in (0, IGNORE):
            classes.append(class_id)
            numbers[own] = len(classes)
    return numbers, classes


STAGE = Stage(
    name="evaluate-instances",
    version=1,
    summary="Score instance masks against true ones: average precision at overlaps of .5, .7 and .75.",
    config=EvaluateInstancesConfig,
    inputs=EvaluateInstancesInputs,
    output="metrics",
    run=run,
    check=check,
)
