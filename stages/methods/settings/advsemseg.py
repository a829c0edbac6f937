"""Settings and card of AdvSemSeg."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
)
from stages.methods.settings.base import (
    Card,
    DiscriminatorSettings,
    LabellingSettings,
)


class AdvSemSegSettings(LabellingSettings):
    """Hung et al., BMVC 2018: a discriminator judges every predicted pixel; those it trusts are pseudo labels."""

    card: ClassVar[Card] = Card(
        title="Adversarial training: a discriminator finds the pixels of a prediction that look like those of a mask",
        paper="Hung et al., BMVC 2018",
        uses=("masks", "images"),
        forward=2,
        backward=2,
        beside="5 passes of the discriminator",
        sources=("Hung et al., BMVC 2018", "its code, hfslyc/AdvSemiSeg: weights of its README, T, widths"),
    )
    name: Literal["advsemseg"] = "advsemseg"
    adversarial: float = Field(
        0.01,
        ge=0,
        description="a: weight of the adversarial term on labelled images (published; the code's own is .1).",
    )
    adversarial_unlabelled: float = Field(
        0.001, ge=0, description="b: weight of the adversarial term on unlabelled images (published)."
    )
    weight: float = Field(0.1, ge=0, description="c: weight of the pseudo labels (published).")
    threshold: Share = Field(
        0.2, description="T: pixels whose score, sigmoid(D), is at least this have a pseudo label (published)."
    )
    start: Share = Field(
        0.25, description="Share of the iterations before there are pseudo labels (published: 5000 of 20000)."
    )
    discriminator: DiscriminatorSettings = Field(DiscriminatorSettings(), description="The discriminator D.")
