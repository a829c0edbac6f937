"""The settings of every method, and of training with one. No torch: `status`, `config` and `methods` read them.

The settings of a method are the class with a card in the module of its name, in this folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Union

import pydantic
from pydantic import Field

from artifacts.errors import ConfigError
from artifacts.store import Artifact
from stages.config import SHORTHAND
from stages.engine.config import (
    AugmentationConfig,
    HardExamples,
    InferenceConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from stages.methods.settings.base import MethodSettings, settings_in
from stages.methods.settings.cam import CamSettings
from stages.methods.settings.supervised import SupervisedSettings
from stages.networks.config import ClassifierConfig, NetworkConfig

METHODS = settings_in(__name__, __path__, MethodSettings)
"""The settings class of every method, by name; its `card` describes the method."""


def trained_by(output: str) -> tuple[str, ...]:
    """The names of the methods whose training gives a "segmenter", or a "classifier"."""
    return tuple(name for name, settings in METHODS.items() if settings.card.output == output)


def learning_from(uses: Collection[str]) -> tuple[str, ...]:
    """The methods of `train` that learn from exactly these parts of a data set, and need nothing else."""
    return tuple(
        name
        for name in trained_by("segmenter")
        if set(METHODS[name].card.uses) == set(uses) and not METHODS[name].model_validate({"name": name}).inputs()
    )


if TYPE_CHECKING:
    SegmenterMethod = Any
    ClassifierMethod = Any
else:
    SegmenterMethod = Annotated[
        Union[tuple(METHODS[name] for name in trained_by("segmenter"))],  # noqa: UP007  (of a tuple)
        Field(discriminator="name"),
    ]
    ClassifierMethod = Annotated[
        Union[tuple(METHODS[name] for name in trained_by("classifier"))],  # noqa: UP007  (of a tuple)
        Field(discriminator="name"),
    ]


def name_alone(value: Any) -> Any:
    """A validator: a bare text is the name of a method."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and SHORTHAND in value:
        return {"name": value[SHORTHAND]} | {k: v for k, v in value.items() if k != SHORTHAND}
    return value


def check_taken(method: MethodSettings, given: Iterable[str]) -> None:
    """ConfigError for an input that the method does not use."""
    for name in given:
        if name not in method.inputs():
            raise ConfigError(
                f"method {method.name} with these settings does not use the input {name!r}",
                f"leave --{name.replace('_', '-')} out, or {method.taken_with.get(name, 'choose a different method')}",
            )


def check_features(config: MethodTraining, features: Artifact, data: Artifact) -> None:
    """ConfigError where kept features cannot stand for an encoder; its weights are compared when it is built."""
    cure = "leave --features out"
    if config.network.freeze != "encoder":
        raise ConfigError(
            "kept features are those of an encoder that does not learn; in this training it does",
            f"set network.freeze to encoder, or {cure}",
        )
    if not config.method.as_drawn:
        able = ", ".join(name for name, settings in METHODS.items() if settings.as_drawn)
        raise ConfigError(
            f"method {config.method.name} shows its networks images that are changed anew in each step: kept features "
            "cannot stand for them",
            f"{cure}; methods that take features: {able}",
        )
    if features.manifest.inputs["data"]["content"] != data.manifest.content:
        raise ConfigError(
            f"the features {features.name!r} are of a different data set than {data.name!r}",
            f"make them of this data set (semiseg features --data {data.name}), or {cure}",
        )


class MethodTraining(TrainingConfig):
    """The common part of trainings with a method."""

    if TYPE_CHECKING:
        method: Any
        network: Any
    _name_alone = pydantic.field_validator("method", mode="before", check_fields=False)(name_alone)


class TrainConfig(MethodTraining):
    """A segmenter's training: method, network and optimisation."""

    method: SegmenterMethod = Field(
        SupervisedSettings(), description="The method and its settings; `semiseg methods` lists them."
    )
    network: NetworkConfig = Field(
        NetworkConfig.model_validate("tiny"), description="The network: a preset's name, or its parts."
    )
    hard_examples: HardExamples | None = Field(
        None, description="OHEM on the exact masks (Cityscapes recipes); null: plain cross-entropy."
    )
    snapshots: int = Field(
        1,
        ge=1,
        description="Snapshots of the weights, evenly spaced, including the last; 1: the last only. ST++ compares 3,\n"
        "the stage select chooses among them.",
    )
    inference: InferenceConfig | None = Field(
        None,
        description="How images are to be predicted with the network, which records it: predict, review, select and\n"
        "reliability then take these settings where no others are given. null: their defaults.",
    )
    train_split: str = Field("train", description="Split with exact masks (the strong images).")
    weak_split: str = Field("weak", description="Split with image-level labels only (the weak images).")

    @pydantic.model_validator(mode="after")
    def _network_has_a_place(self) -> TrainConfig:
        if self.method.own_network and self.network != type(self).model_fields["network"].default:
            raise ValueError(f"network has no effect on {self.method.name}, which brings its own")
        return self

    @pydantic.model_validator(mode="after")
    def _hard_examples_have_a_place(self) -> TrainConfig:
        if self.hard_examples is not None and not self.method.hard_examples:
            raise ValueError(
                f"hard_examples has no effect on {self.method.name}, which has no loss on exact masks alone"
            )
        return self


class TrainClassifierConfig(MethodTraining):
    """A classifier's training. The defaults suit the embedded data set; recipes hold the settings of papers."""

    method: ClassifierMethod = Field(
        CamSettings(), description="The method and its settings; `semiseg methods` lists them."
    )
    network: ClassifierConfig = Field(
        ClassifierConfig.model_validate("tiny"), description="The network: a preset's name, or its parts."
    )
    splits: tuple[str, ...] = Field(
        ("train", "weak"),
        description="Splits whose image-level labels are learned; only mlmt also reads masks, those of split train.",
    )
    snapshots: int = Field(
        1,
        ge=1,
        description="Snapshots of the weights, evenly spaced, including the last; 1: the last only. `seeds --set\n"
        "cam.snapshots=all` joins the maps of all (OAA, Group-WSSS: one for each of 15 epochs).",
    )
    score_split: str = Field("val", description="Split on which average precision is measured after training.")
    crop_size: int = Field(96, ge=16, description="Side of the square training crop, and of scored images, pixels.")
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(scale=(0.75, 1.5)), description="Random changes of the images."
    )
    optimizer: OptimizerConfig = Field(
        # pretrained layers would be destroyed at 1e-3; without pretrained weights all layers are new, and learn at that
        # rate
        OptimizerConfig(name="adamw", lr=1e-4, new_lr_factor=10.0),
        description="The optimiser.",
    )
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning rate over time.")
