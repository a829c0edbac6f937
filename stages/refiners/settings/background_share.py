"""Settings and card of the matched background."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card
from stages.refiners.settings.base import RefinerSettings


class BackgroundShareSettings(RefinerSettings):
    """Ours: the scores of the background are scaled until as many pixels are background as in the masks."""

    card: ClassVar[Card] = Card(
        title="Background share: as many pixels become background as in the masks, over all images together",
        paper="ours; class priors: Saerens et al., Neural Computation 2002, and Berthelot et al., ICLR 2020",
        uses=("masks", "tags"),
        forward=0,
        backward=0,
        beside="two passes over the score maps",
        sources=(
            "ours: one factor, for the background alone, by the share of the decided pixels",
            "Saerens, Latinne & Decaestecker, Neural Computation 2002: outputs adjusted to new class priors",
            "Berthelot et al., ICLR 2020 (ReMixMatch): pseudo labels aligned with the classes of the labelled data",
        ),
        inference="the scores of each image with the common factor",
        output="refiner",
    )
    reads: ClassVar[tuple[str, ...]] = ("seeds", "refined", "predictions")
    whole_set: ClassVar[bool] = True
    takes_unlabelled: ClassVar[bool] = True
    name: Literal["background-share"] = "background-share"
    batch_size: int = Field(8, ge=1, description="Images of identical size that are read together.")
