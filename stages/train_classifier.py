"""Trains a multi-label image classifier on image-level labels: data set -> weights whose activation maps localise.

semiseg train-classifier --data data --set network=mobilenet_v2
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from artifacts.dataset import Dataset
from artifacts.errors import DataError
from artifacts.store import Artifact, Writer
from stages.contract import Execution, Input, Stage
from stages.engine.config import AugmentationConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from stages.networks.config import ClassifierConfig


class TrainClassifierConfig(TrainingConfig):
    """A classifier's training. The defaults suit the embedded data set; recipes hold those of papers."""

    network: ClassifierConfig = Field(
        ClassifierConfig.model_validate("tiny"), description="The network: a preset's name, or its parts."
    )
    splits: tuple[str, ...] = Field(
        ("train", "weak"), description="Splits whose image-level labels are learned; masks are not looked at."
    )
    score_split: str = Field("val", description="Split on which average precision is measured after training.")
    crop_size: int = Field(96, ge=16, description="Side of the square training crop, and of scored pictures, pixels.")
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(scale=(0.75, 1.5)), description="Random changes of the pictures."
    )
    optimizer: OptimizerConfig = Field(
        # pretrained layers forget at 1e-3; without pretrained weights all layers are new, and learn at that rate
        OptimizerConfig(name="adamw", lr=1e-4, new_lr_factor=10.0),
        description="The optimiser.",
    )
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning rate over time.")


def externals(config: TrainClassifierConfig) -> dict[str, Path]:
    file = config.network.weights_file()
    return {"network.weights": file} if file else {}


def check(config: TrainClassifierConfig, inputs: Mapping[str, Artifact | None]) -> None:
    """The weights can be had, and there is a background: without one the maps serve nothing, seeds needs it."""
    config.network.check()
    assert inputs["data"] is not None
    Dataset(inputs["data"]).require_background("the stage train-classifier")


def run(
    config: TrainClassifierConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    from stages.engine import distributed
    from stages.engine.loop import fit
    from stages.engine.randomness import derive_seed
    from stages.engine.streams import Entry, SampleMaker, Stream
    from stages.localization.classification import Classification, scored
    from stages.methods.segmenter_training import publish_network

    assert inputs["data"] is not None
    dataset = Dataset(inputs["data"])
    ids = sorted({image_id for split in config.splits for image_id in dataset.ids(split)})
    untagged = [image_id for image_id in ids if not dataset.tags(image_id)]
    if len(untagged) == len(ids):
        raise DataError(
            f"no picture of the splits {', '.join(config.splits)} has an image-level label",
            "prepare the data with labels (--set tag_source=...)",
        )
    method = Classification(config.network, dataset.num_labels, derive_seed(config.seed, "network"))
    stream = Stream([Entry(image_id, None) for image_id in ids], config.batch_size)
    rank, world_size = distributed.rank(), distributed.world_size()
    maker = SampleMaker(
        dataset, {"labelled": stream}, {}, config.augmentation, config.crop_size, config.seed, rank, world_size
    )
    fitted = fit(method, maker, config, writer, execution)
    summary: dict[str, Any] = {"pictures": len(ids), "without_label": len(untagged), **fitted.summary}
    if rank == 0:
        publish_network(writer, fitted.predictor, dataset.class_names)
        summary |= scored(fitted.predictor, dataset, config.score_split, config.crop_size, execution)
    return summary


STAGE = Stage(
    name="train-classifier",
    version=1,
    summary="Train a multi-label classifier on image-level labels.",
    config=TrainClassifierConfig,
    inputs={"data": Input(("dataset",), "the data set", default=("data",))},
    output="classifier",
    run=run,
    externals=externals,
    check=check,
)
