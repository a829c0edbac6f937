"""Settings and card of the refinement network of DRS."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from stages.methods.settings.base import Card
from stages.refiners.settings.base import ForegroundRefinerSettings, RefinerTrainingSettings

CARD = Card(
    title="The refinement network of DRS: it regresses score maps, and gives maps that are smoother than those",
    paper="Kim et al., AAAI 2021",
    uses=("tags",),
    forward=1,
    backward=1,
    sources=("Kim et al., AAAI 2021", "its code, qjadud1994/DRS: models/vgg_refine.py, scripts/train_refine.py"),
    inference="the maps of the network",
    recipe="drs-voc",
    profile="paper",
    output="refiner",
)


class DrsRefinementTrainingSettings(RefinerTrainingSettings):
    """Kim et al., AAAI 2021: a network that regresses score maps."""

    card: ClassVar[Card] = CARD
    name: Literal["drs-refinement"] = "drs-refinement"


class DrsRefinementSettings(ForegroundRefinerSettings):
    """Kim et al., AAAI 2021: the maps of a network that has learned score maps."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = DrsRefinementTrainingSettings
    name: Literal["drs-refinement"] = "drs-refinement"
    background: float = Field(0.2, ge=0, le=1, description="Score of the background in the masks (published: .20).")
    scales: tuple[PositiveFloat, ...] = Field(
        (0.8, 1.0, 1.2),
        min_length=1,
        description="Factors on the image's sides; the highest of their maps counts (published: 256, 320, 384 pixels,\n"
        "320 being the crop).",
    )
    flip: bool = Field(False, description="The mirrored copy of every scale takes part, too.")
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass (and mirrored copies).")
