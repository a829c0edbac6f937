"""Settings and card of PseudoSeg."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
    StrongAugmentationSettings,
)
from stages.methods.settings.base import (
    Card,
    LabellingSettings,
)


class PseudoSegSettings(LabellingSettings):
    """Zou et al., ICLR 2021: two heads fused on the weak view teach the strong view.

    Published values: the paper's and those of the flags of its code.
    """

    card: ClassVar[Card] = Card(
        title="Soft labels fused from a decoder and a self-attention Grad-CAM, for strong views",
        paper="Zou et al. (PseudoSeg), ICLR 2021",
        uses=("masks", "images"),
        forward=3,
        backward=2,
        sources=("Zou et al., ICLR 2021", "its code: scale s over all logits, losses added with weight 1"),
        inference="the network without its Grad-CAM head",
    )
    name: Literal["pseudoseg"] = "pseudoseg"
    weight: float = Field(
        1.0,
        ge=0,
        description="lambda: weight of the unlabelled loss (published: 1). 0: masks alone, without the Grad-CAM head.",
    )
    temperature: float = Field(0.5, gt=0, le=1, description="T of the sharpening p^(1/T) (published).")
    threshold: Share = Field(
        0.0,
        description="Pixels whose highest probability after sharpening is lower are left out (published: 0, none).",
    )
    strong: StrongAugmentationSettings = Field(
        StrongAugmentationSettings(
            jitter=1.0, grey=0.0, blur=0.0, cutout=1.0, cutout_area=(0.038, 0.038), cutout_ratio=1.0, cutout_fill="mean"
        ),
        description="The strong view (published: jitter always, a square of 100 of 513 pixels in mean colour).",
    )
