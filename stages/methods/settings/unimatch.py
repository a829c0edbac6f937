"""Settings and card of UniMatch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
)
from stages.methods.settings.base import (
    Card,
    OwnLabelsSettings,
)


class UniMatchSettings(OwnLabelsSettings):
    """Yang et al., CVPR 2023: a weak view teaches two strong views and its own perturbed features."""

    card: ClassVar[Card] = Card(
        title="UniMatch: two strong views and perturbed features learn from one weak view",
        paper="Yang et al., CVPR 2023",
        uses=("masks", "images"),
        forward=5,
        backward=4,
        beside="once more both through the head",
        sources=("Yang et al., CVPR 2023", "its code: unimatch.py, configs"),
        recipe="voc-classic",
    )
    name: Literal["unimatch"] = "unimatch"
    feature_weight: Share = Field(
        0.5, description="m: share of the perturbed features in the unlabelled loss; the strong views share 1 - m."
    )
    feature_dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability of dropping a channel of the features (published)."
    )
