"""Settings and card of PAR."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card
from stages.refiners.settings.base import ForegroundRefinerSettings


class ParSettings(ForegroundRefinerSettings):
    """Ru et al., CVPR 2022: each score becomes a mean over pixels of similar colour around it, again and again."""

    card: ClassVar[Card] = Card(
        title="PAR: scores become means over neighbours of similar colour, without a network and without a compiler",
        paper="Ru et al., CVPR 2022 (pixel-adaptive refinement)",
        uses=("tags",),
        forward=0,
        backward=0,
        beside="20 sums over 48 neighbours of each pixel",
        sources=(
            "Ru et al., CVPR 2022",
            "its code, rulixiang/afa: wetr/PAR.py; the same in zbf1991/WeCLIP, with 20 iterations",
        ),
        inference="the scores of the image at its own size",
        output="refiner",
    )
    reads: ClassVar[tuple[str, ...]] = ("seeds", "refined", "predictions")
    name: Literal["par"] = "par"
    iterations: int = Field(20, ge=0, description="How often (WeCLIP: 20; Ru et al. on VOC: 10, on COCO: 15).")
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8, 12, 24),
        min_length=1,
        description="Distances of the neighbours in eight directions, pixels (published: 1, 2, 4, 8, 12, 24).",
    )
    scale: float = Field(
        1.0,
        gt=0,
        description="How many times smaller the images are than those that the distances are for (VOC: 500 pixels on\n"
        "the long side; images of 160: 3.1). Divides the distances; equal ones count once.",
    )
    colour_width: float = Field(
        0.3,
        gt=0,
        description="Width of the kernel of colours, in standard deviations of the neighbours (published: .3).",
    )
    position_weight: float = Field(
        0.01, ge=0, description="Weight of nearness against likeness of colour (published: .01)."
    )
    max_pixels: int = Field(
        1_000_000,
        ge=256,
        description="A larger image is refined on a copy with this many pixels, with the distances reduced alike,\n"
        "which bounds the memory: 600 to 800 bytes a pixel of each image of a batch (batch_size).",
    )
    batch_size: int = Field(4, ge=1, description="Images of identical size that are refined together.")
