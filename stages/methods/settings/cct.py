"""Settings and card of CCT."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
from pydantic import Field

from stages.config import Config
from stages.engine.config import (
    Share,
)
from stages.methods.settings.base import (
    Card,
    LabellingSettings,
)


class CctDecoders(Config):
    """How many auxiliary decoders see which perturbation of the features; 30 as published."""

    vat: int = Field(2, ge=0, description="I-VAT: noise in the direction that changes this decoder's output most.")
    dropout: int = Field(6, ge=0, description="DropOut: channels are dropped.")
    cutout: int = Field(6, ge=0, description="G-Cutout: a box inside each predicted object is erased.")
    context: int = Field(2, ge=0, description="Con-Msk: only what is predicted as foreground is kept.")
    object: int = Field(2, ge=0, description="Obj-Msk: only what is predicted as background is kept.")
    feature_drop: int = Field(6, ge=0, description="F-Drop: the strongest cells are dropped.")
    feature_noise: int = Field(6, ge=0, description="F-Noise: features become larger or smaller at random.")

    def kinds(self) -> list[str]:
        """The kind of every decoder, in order."""
        return [kind for kind in type(self).model_fields for _ in range(getattr(self, kind))]

    @pydantic.model_validator(mode="after")
    def _some(self) -> CctDecoders:
        if not self.kinds():
            raise ValueError("cct needs at least one auxiliary decoder")
        return self


class CctSettings(LabellingSettings):
    """Ouali et al., CVPR 2020: auxiliary decoders learn, from perturbed features, the main one's predictions.

    Published values: the paper's and those of the config of its code.
    """

    card: ClassVar[Card] = Card(
        title="Cross-consistency training: one encoder, many decoders on perturbed features",
        paper="Ouali, Hudelot & Tami, CVPR 2020",
        uses=("masks", "images"),
        forward=2,
        backward=2,
        beside="K decoders forward and backward",
        sources=("Ouali et al., CVPR 2020", "its code: numbers of decoders, MSE over pixels and classes"),
        inference="encoder and main decoder",
    )
    name: Literal["cct"] = "cct"
    weight: float = Field(30.0, ge=0, description="w of the unlabelled loss (authors' config: 30).")
    ramp: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of all iterations in which the weight rises as exp(-5 (1 - t)^2) (published).",
    )
    decoder: Literal["published", "head"] = Field(
        "published",
        description="The auxiliary decoders. published: 1x1 convolutions and PixelShuffle x2 up to the images.\n"
        "head: heads like the segmenter's (for output strides that are not a power of two, too).",
    )
    decoders: CctDecoders = Field(CctDecoders(), description="Auxiliary decoders by kind.")
    vat_radius: float = Field(
        2.0,
        ge=0,
        description="I-VAT: length (L2) of an image's noise (as published; .003 in effect in the authors' code).",
    )
    vat_step: float = Field(
        0.01,
        gt=0,
        description="I-VAT: length of the step that finds the direction, as a share of the features' own length.\n"
        "Published: 1e-6 absolute, which single precision loses next to the features.",
    )
    dropout_rate: float = Field(0.5, ge=0, lt=1, description="DropOut: probability of dropping a channel (published).")
    erase: float = Field(0.4, ge=0, le=1, description="G-Cutout: sides of the erased box, by those of the object.")
    min_contour: int = Field(
        50, ge=0, description="G-Cutout: objects with a longer border than this, in pixels, count (published)."
    )
    drop_range: tuple[Share, Share] = Field(
        (0.7, 0.9), description="F-Drop: cells above this share of the strongest are dropped, drawn uniformly (paper)."
    )
    noise: float = Field(0.3, ge=0, description="F-Noise: largest relative change of a feature (published).")

    @pydantic.field_validator("drop_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected two shares, the smaller first")
        return value
