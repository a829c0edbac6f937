"""Settings of a toy: score maps as targets."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.methods.settings.base import Card, MethodSettings


class MapRegressionSettings(MethodSettings):
    """A segmenter that regresses the score maps of its images."""

    card: ClassVar[Card] = Card(
        title="Regression of score maps",
        paper="none",
        uses=("tags",),
        forward=1,
        backward=1,
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["map-regression"] = "map-regression"

    def inputs(self) -> tuple[str, ...]:
        return ("seeds",)
