"""The settings of every refiner and of its training, if it has one. No torch.

The settings of a refiner are the classes in the module of its name, in this folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import pydantic
from pydantic import Field

from artifacts.dataset import Split
from stages.config import Config
from stages.engine.config import AugmentationConfig, OptimizerConfig, ScheduleConfig
from stages.methods.settings import MethodTraining, name_alone
from stages.methods.settings.base import settings_in
from stages.networks.config import ClassifierConfig
from stages.refiners.settings.base import RefinerSettings
from stages.refiners.settings.irn import IrnSettings, IrnTrainingSettings

REFINERS = settings_in(__name__, __path__, RefinerSettings)
"""The settings class of every refiner, by name; its `card` describes the refiner."""

TRAINED = tuple(name for name, settings in REFINERS.items() if settings.training is not None)
"""The refiners that take a trained network: that of their own training, or that of a different refiner."""


def _one_of(settings: Sequence[Any]) -> Any:
    """The type of a field that is one of these settings, distinguished by their names."""
    if len(settings) == 1:  # pydantic allows no discriminator for a single type
        return settings[0]
    return Annotated[Union[tuple(settings)], Field(discriminator="name")]  # noqa: UP007  (of a tuple)


if TYPE_CHECKING:
    AnyRefiner = Any
    AnyRefinerTraining = Any
else:
    AnyRefiner = _one_of(list(REFINERS.values()))
    AnyRefinerTraining = _one_of(list(dict.fromkeys(REFINERS[name].training for name in TRAINED)))


class TrainRefinerConfig(MethodTraining):
    """A refiner's training. The defaults suit the embedded data set; recipes hold the settings of papers."""

    method: AnyRefinerTraining = Field(
        IrnTrainingSettings(), description="The refiner and the settings of its training; `semiseg methods` lists them."
    )
    network: ClassifierConfig = Field(
        ClassifierConfig.model_validate("tiny"),
        description="The network: the name of a preset, or its parts. With irn its backbone is frozen.",
    )
    splits: tuple[Literal["train", "weak"], ...] = Field(
        ("train", "weak"), min_length=1, description="Splits from whose score maps it learns."
    )
    crop_size: int = Field(96, ge=16, description="Side of the square training crop, pixels.")
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(scale=(0.75, 1.5)), description="Random changes of the images."
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(name="adamw", lr=1e-3), description="The optimiser.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning rate over time.")

    @pydantic.model_validator(mode="after")
    def _crop_holds_a_pair(self) -> TrainRefinerConfig:
        smallest = self.method.smallest_crop()
        if self.crop_size < smallest:
            raise ValueError(
                f"crop_size {self.crop_size} is too small for {self.method.name} with these settings, "
                f"which need at least {smallest}"
            )
        return self


class RefineConfig(Config):
    """Which refiner, and which images."""

    method: AnyRefiner = Field(IrnSettings(), description="The refiner and its settings; `semiseg methods` lists them.")
    splits: tuple[Split, ...] = Field(
        (), description="Only the images of these splits of the data set; empty: every image that has score maps."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on GPUs that have it, else fp32."
    )

    _name_alone = pydantic.field_validator("method", mode="before")(name_alone)
