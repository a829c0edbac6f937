"""`instances`: masks of single objects from class-activation maps, by IRNet's displacement field and random walk.

    semiseg train-refiner --method irn --set method.displacement=true
    semiseg instances --data data --seeds seeds --refiner train-refiner

The artifact holds a number for each pixel (instances/, indexed PNG), and all masks with classes and scores in one file
in COCO's format (instances.json), from which an instance segmenter can be trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import ConfigError
from artifacts.instance_masks import DOCUMENT, FOLDER, Instance, annotations_of, document_of
from artifacts.item_shapes import NetworkSpec
from artifacts.json_items import Shape
from artifacts.masks import encode_mask, read_mask
from artifacts.store import SCRATCH, Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.parallel.processes import map_in_processes
from stages.parallel.share import PART, counted, record_pieces, share_of
from stages.refiners.settings.irn import InstanceSettings


class InstancesConfig(InstanceSettings):
    """Instance masks by IRNet. The defaults are published ones, for images of 500 pixels."""

    splits: tuple[Split, ...] = Field(
        (), description="Only the images of these splits of the data set; empty: every image that has score maps."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on GPUs that have it, else fp32."
    )


@dataclass(frozen=True)
class InstancesInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    seeds: Annotated[Artifact, Input(("seeds",), "the score maps of the classes", default=("seeds",))]
    refiner: Annotated[
        Artifact,
        Input(("refiner",), "IRNet's network, trained with displacement", default=("train-refiner", "refiner")),
    ]


class _Record(Shape):
    """The instances of one image until all are made."""

    classes: list[int]
    scores: list[float]


def check(config: InstancesConfig, inputs: InstancesInputs) -> None:
    """Checks that the score maps are of the data set, and that the network has displacements and these classes."""
    from stages.localization.known_images import known_images

    images, _ = known_images(inputs.data, inputs.seeds, config.splits)
    spec = inputs.refiner.json("network.json", NetworkSpec)
    if not spec.options.get("displacement"):
        raise ConfigError(
            f"the network of {inputs.refiner.name!r} has no displacement field, which instances need",
            "semiseg train-refiner --method irn --set method.displacement=true",
        )
    if spec.class_names != list(images.dataset.class_names):
        raise ConfigError(
            f"{inputs.refiner.name!r} knows the classes {', '.join(spec.class_names)}; the data set has "
            f"{', '.join(images.dataset.class_names)}",
            "give a refiner that was trained on this data set",
        )


def run(config: InstancesConfig, inputs: InstancesInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Makes the instances that are missing, then the file of all; under torchrun each rank its images."""
    from stages.localization.known_images import known_images
    from stages.parallel.meeting import barrier

    images, ids = known_images(inputs.data, inputs.seeds, config.splits)
    share = share_of(ids, execution, made=lambda image_id: writer.has(f"{FOLDER}/{image_id}.png"))
    with counted(writer, execution, "instances", share) as advance:
        if share.left:
            finder = _finder(config, inputs, execution)
            for found in finder.find(images.batches(share.left, config.batch_size)):
                classes, scores = ([getattr(one, key) for one in found.instances] for key in ("class_id", "score"))
                writer.write_json(_scratch(found.image_id), {"classes": classes, "scores": scores})
                # last: it says that both are whole
                writer.write_bytes(f"{FOLDER}/{found.image_id}.png", encode_mask(found.numbers))
                advance()
    barrier()  # those of every rank are written

    def describe(own: Sequence[str], advance: Callable[..., None]) -> dict[str, Any]:
        found = {}
        for image_id, objects in map_in_processes(_annotations, writer, own, execution.own_workers):
            found[image_id] = objects
            advance()
        return found

    records = record_pieces(writer, execution, DOCUMENT, ids, PART, describe)
    if execution.rank != 0:
        return {}
    made: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        made |= writer.read_json(record, dict[str, list[dict[str, Any]]])
    return _write_document(images.dataset, [(image_id, made[image_id]) for image_id in ids], writer)


def _scratch(image_id: str) -> str:
    return f"{SCRATCH}/{image_id}.json"


def _finder(config: InstancesConfig, inputs: InstancesInputs, execution: Execution) -> Any:
    """IRNet with its network on the device."""
    from stages.engine.device import autocast_dtype, select_device
    from stages.networks import load_network
    from stages.refiners.irn import IrnInstances
    from stages.refiners.refiner import Means

    device = select_device(execution.device)
    dtype = autocast_dtype(config.precision, device, execution.progress.note)
    means = Means(device, dtype, execution.own_workers)
    return IrnInstances(config, load_network(inputs.refiner), means)


def _annotations(writer: Writer, image_id: str) -> list[dict[str, Any]]:
    """Those of an image, of what is stored, so that a continued run agrees."""
    record = writer.read_json(_scratch(image_id), _Record)
    instances = [Instance(class_id, score) for class_id, score in zip(record.classes, record.scores, strict=True)]
    return annotations_of(read_mask(writer.path / FOLDER / f"{image_id}.png"), instances)


def _write_document(dataset: Dataset, made: list[tuple[str, list[dict[str, Any]]]], writer: Writer) -> dict[str, Any]:
    """Writes instances.json; returns the summary."""
    images = []
    for image_id, _ in made:
        height, width = dataset.size(image_id)
        name = dataset.image_path(image_id).name
        images.append({"image_id": image_id, "file_name": name, "width": width, "height": height})
    writer.write_json(DOCUMENT, document_of(dataset.class_names, images, [of for _, of in made]))
    counts = Counter(one["category_id"] for _, of in made for one in of)
    return {
        "images": len(made),
        "instances": counts.total(),
        "without": sum(not of for _, of in made),
        "of_class": {name: counts[k] for k, name in enumerate(dataset.class_names) if counts[k]},
    }


STAGE = Stage(
    name="instances",
    version=1,
    summary="Masks of single objects from class-activation maps and IRNet's displacement field.",
    config=InstancesConfig,
    inputs=InstancesInputs,
    output="instances",
    run=run,
    check=check,
)
