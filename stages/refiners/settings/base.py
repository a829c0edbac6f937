"""The base of the settings of all refiners. No torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from pydantic import Field

from stages.methods.settings.base import Card, MethodSettings


class RefinerSettings(MethodSettings):
    """The settings of a refiner whose maps are of all classes, background included; `name` selects it."""

    card: ClassVar[Card]
    hard_examples: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("seeds",)
    """The kinds of artifacts whose score maps it refines; only those of seeds are without background for certain."""
    whole_set: ClassVar[bool] = False
    """Whether the refiner sees all images before it refines the first one (`Refiner.survey`)."""
    takes_unlabelled: ClassVar[bool] = False
    """Whether images without image-level labels may be among those that it refines."""
    training: ClassVar[type[RefinerTrainingSettings] | None] = None
    """The settings of the training of its network, its own or a different refiner's; None if it takes no network."""

    def inputs(self) -> tuple[str, ...]:
        """Inputs of `refine` in addition to the data set: the score maps, and a trained network if it takes one."""
        return ("seeds", "refiner") if self.training else ("seeds",)

    def check_images(self, ids: Collection[str]) -> None:
        """DataError where files outside the workspace that these settings name lack something of an image."""


class ForegroundRefinerSettings(RefinerSettings):
    """The settings of a refiner whose maps are of foreground classes alone."""

    background: float = Field(
        0.25, ge=0, le=1, description="Score of the background in the masks; refined maps are at most 1."
    )
    margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pixels whose two highest scores differ by less than this are unknown (255) in the masks.",
    )


class RefinerTrainingSettings(MethodSettings):
    """The settings of the training of a refiner's network from score maps."""

    hard_examples: ClassVar[bool] = False

    def smallest_crop(self) -> int:
        """The smallest crop_size, in pixels, that the training can learn from."""
        return 1

    def check_images(self, ids: Collection[str]) -> None:
        """As `RefinerSettings.check_images`."""
