"""`train-refiner`: trains the network of a refiner on score maps: data set, seeds -> weights that `refine` reads.

    semiseg train-refiner --method irn --data data --seeds seeds

The label maps that it learns from are made first, in processes, and are kept in the artifact (labels/, indexed PNG).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError
from artifacts.item_shapes import NetworkSpec
from artifacts.masks import encode_mask
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.parallel.processes import map_in_processes
from stages.parallel.share import counted, share_of
from stages.refiners.settings import TrainRefinerConfig

if TYPE_CHECKING:
    from stages.localization.known_images import KnownImages


@dataclass(frozen=True)
class TrainRefinerInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    seeds: Annotated[Artifact, Input(("seeds",), "the score maps to learn from", default=("seeds",))]
    initial: Annotated[Artifact | None, Input(("classifier",), "a classifier whose backbone is taken")]


def check(config: TrainRefinerConfig, inputs: TrainRefinerInputs) -> None:
    """Checks that the score maps are of the data set, and that weights are available."""
    from stages.localization.known_images import score_maps_of

    dataset, initial = Dataset(inputs.data), inputs.initial
    dataset.require_background("the stage train-refiner")
    score_maps_of(inputs.seeds, _ids(config, dataset), inputs.data)
    if initial is None:
        config.network.check()
        return
    backbone = initial.json("network.json", NetworkSpec).network["backbone"]
    if backbone != config.network.backbone:
        raise ConfigError(
            f"the backbone of {initial.name!r} is {backbone}, that of this config {config.network.backbone}",
            f"--set network.backbone={backbone}",
        )
    if config.network.weights != "none":
        raise ConfigError(
            f"the backbone is that of {initial.name!r}: network.weights {config.network.weights} would have no effect",
            "--weights none, or leave --initial out",
        )


def _ids(config: TrainRefinerConfig, dataset: Dataset) -> list[str]:
    return sorted({image_id for split in config.splits for image_id in dataset.ids(split)})


@dataclass(frozen=True)
class Preparation:
    """What a process needs to prepare the label maps of images; travels to it once."""

    images: KnownImages
    prepare: Callable[..., dict[str, Any]]
    settings: Any
    writer: Writer


def prepare_image(task: Preparation, image_id: str) -> None:
    """Writes the label maps of one image."""
    for name, labels in task.prepare(task.settings, task.images[image_id]).items():
        task.writer.write_bytes(f"{name}/{image_id}.png", encode_mask(labels, task.images.dataset.palette))


def run(config: TrainRefinerConfig, inputs: TrainRefinerInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    from stages.engine.distributed import barrier
    from stages.engine.method import Sources
    from stages.engine.streams import MaskFolder
    from stages.localization.known_images import KnownImages, score_maps_of
    from stages.methods.training import train_network
    from stages.refiners import load_refiner

    dataset = Dataset(inputs.data)
    ids = _ids(config, dataset)
    maps = score_maps_of(inputs.seeds, ids, inputs.data)
    kind = load_refiner(config.method.name).training
    assert kind is not None  # the config knows only refiners that have one
    masked = frozenset(dataset.ids("train")) if "masks" in config.method.card.uses else frozenset()
    folders = {}
    if kind.prepared:
        task = Preparation(
            KnownImages(dataset, maps, inputs.seeds.path / "saliency", masked), kind.prepare, config.method, writer
        )
        prepare_all(task, ids, kind.prepared, execution)
        barrier()  # the label maps of every rank are written
        folders = {name: MaskFolder(writer.path / name, None) for name in kind.prepared}
    sources = Sources(
        dataset.ids("train"),
        dataset.ids("weak"),
        frozenset({"masks", *folders}),
        dataset,
        tagged=ids,
        folders=folders,
        maps={"seeds": maps},
    )
    return train_network(config, dataset, sources, writer, execution, inputs.initial, kind)


def prepare_all(task: Preparation, ids: Sequence[str], names: Sequence[str], execution: Execution) -> None:
    """Prepares what is still missing; under torchrun each rank its share of the images."""
    images = share_of(ids, execution, lambda image_id: all(task.writer.has(f"{n}/{image_id}.png") for n in names))
    with counted(task.writer, execution, "labels", images) as advance:
        for _ in map_in_processes(prepare_image, task, images.left, execution.workers):
            advance()


STAGE = Stage(
    name="train-refiner",
    version=2,
    summary="Train the network of a refiner on score maps.",
    config=TrainRefinerConfig,
    inputs=TrainRefinerInputs,
    output="refiner",
    run=run,
    check=check,
)
