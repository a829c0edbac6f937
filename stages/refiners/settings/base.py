"""The base of the settings of all refiners. No torch."""

from __future__ import annotations

from typing import ClassVar

from stages.methods.settings.base import Card, MethodSettings


class RefinerSettings(MethodSettings):
<<<<<<< HEAD
    """The settings of a refiner; `name` selects it."""
=======
    """How a refiner makes better score maps of score maps; `name` says which refiner.

    Those of a refiner whose maps are of foreground classes alone have `background`, its score in the masks.
    """
>>>>>>> aaf289e (Refiner psa: AffinityNet, whose scores and their background walk between cells of one class)

    card: ClassVar[Card]
    hard_examples: ClassVar[bool] = False
    training: ClassVar[type[RefinerTrainingSettings] | None] = None
<<<<<<< HEAD
    """The settings of its training by train-refiner; None if it has none."""
    background: float = Field(
        0.25, ge=0, le=1, description="Score of the background in the masks; refined maps are at most 1."
    )
=======
    """The settings of its training by train-refiner; None: it has none."""
>>>>>>> aaf289e (Refiner psa: AffinityNet, whose scores and their background walk between cells of one class)


class RefinerTrainingSettings(MethodSettings):
    """The settings of the training of a refiner's network from score maps."""

    hard_examples: ClassVar[bool] = False

    def smallest_crop(self) -> int:
        """The smallest crop_size, in pixels, that the training can learn from."""
        return 1
