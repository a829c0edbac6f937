"""Settings and card of s4GAN."""

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


class S4GanSettings(LabellingSettings):
    """Mittal et al., PAMI 2021: a discriminator of images matches features, and chooses images for pseudo labels."""

    card: ClassVar[Card] = Card(
        title="s4GAN: feature matching, and pseudo labels for the images that a discriminator scores as real",
        paper="Mittal et al., PAMI 2021",
        uses=("masks", "images"),
        forward=2,
        backward=2,
        beside="3 passes of the discriminator",
        sources=("Mittal et al., PAMI 2021", "its code, sud0301/semisup-semseg: train_s4GAN.py"),
        recipe="s4gan",
        profile="paper",
    )
    name: Literal["s4gan"] = "s4gan"
    feature_matching: float = Field(0.1, ge=0, description="m: weight of the feature matching (published).")
    weight: float = Field(1.0, ge=0, description="c: weight of the pseudo labels (published).")
    threshold: Share = Field(
        0.6, description="g: images with a score, sigmoid(D), above this have pseudo labels (published; Cityscapes .7)."
    )
    warmup: Share = Field(
        0.0,
        description="Share of the iterations before images are chosen. Published: 0; but a discriminator that has\n"
        "learned little scores nearly every image above .6 (issue 4 of ALS4GAN).",
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability that D drops a channel, after all layers but the last (published)."
    )
    discriminator: DiscriminatorSettings = Field(DiscriminatorSettings(), description="The discriminator D.")
