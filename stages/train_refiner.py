"""`train-refiner`: trains the network of a refiner on score maps: data set, seeds -> weights that `refine` reads.

    semiseg train-refiner --method irn --data data --seeds seeds

The label maps that it learns from are made first, in processes, and are kept in the artifact (labels/, indexed PNG).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from artifacts.dataset import Dataset
from artifacts.errors import ConfigError
from artifacts.item_shapes import NetworkSpec
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import ids_of, require_labels
from stages.refiners.settings import TrainRefinerConfig


@dataclass(frozen=True)
class TrainRefinerInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set", default=("data",))]
    seeds: Annotated[Artifact, Input(("seeds",), "the score maps to learn from", default=("seeds",))]
    initial: Annotated[Artifact | None, Input(("classifier",), "a classifier whose backbone is taken")]


def check(config: TrainRefinerConfig, inputs: TrainRefinerInputs) -> None:
    """Checks that there are labels, that the score maps are of the data set, and that weights are available."""
    from stages.localization.known_images import score_maps_of

    dataset, initial = Dataset(inputs.data), inputs.initial
    dataset.require_background("the stage train-refiner")
    require_labels(dataset, config.splits)
    ids = ids_of(dataset, config.splits)
    score_maps_of(inputs.seeds, ids, inputs.data)
    config.method.check_images(ids)
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


def run(config: TrainRefinerConfig, inputs: TrainRefinerInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    from stages.engine.method import Sources
    from stages.localization.known_images import KnownImages, score_maps_of
    from stages.methods.prepared_maps import prepared_folders
    from stages.methods.training import train_network
    from stages.refiners import load_refiner

    dataset = Dataset(inputs.data)
    ids = ids_of(dataset, config.splits)
    maps = score_maps_of(inputs.seeds, ids, inputs.data)
    kind = load_refiner(config.method.name).training
    assert kind is not None  # the config knows only refiners that have one
    masked = frozenset(dataset.ids("train")) if "masks" in config.method.card.uses else frozenset()
    images = KnownImages(dataset, maps, inputs.seeds.path / "saliency", masked)
    folders = prepared_folders(kind, config.method, images, ids, writer, execution)
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


STAGE = Stage(
    name="train-refiner",
    version=3,
    summary="Train the network of a refiner on score maps.",
    config=TrainRefinerConfig,
    inputs=TrainRefinerInputs,
    output="refiner",
    run=run,
    check=check,
)
