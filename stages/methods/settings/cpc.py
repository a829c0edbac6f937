"""Settings and card of CPC."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
)
from stages.methods.settings.base import (
    REDUCTION,
    Card,
    MutualSettings,
    Reduction,
)


class CpcSettings(MutualSettings):
    """Cross probability consistency, which CPS compares with: each network agrees with the other's probabilities.

    No code of it is published: weight and ramp are those of GCT in PixelSSL, the rest is as in CPS.
    """

    card: ClassVar[Card] = Card(
        title="Cross probability consistency of two networks",
        paper="Ke et al., ECCV 2020 (GCT without its flaw detector), as compared with by Chen et al., CVPR 2021",
        uses=("masks", "images"),
        forward=4,
        backward=4,
        beside="with CutMix 4 more forward",
        sources=("Chen et al., CVPR 2021, figure of the compared methods", "PixelSSL's GCT: 100 on the mean, ramp"),
        inference="network 1",
    )
    name: Literal["cpc"] = "cpc"
    cutmix: bool = Field(
        False, description="Mix two unlabelled images with random boxes (CutMix), and leave out the labelled ones."
    )
    weight: float = Field(100.0, ge=0, description="lambda of the consistency (ours, from GCT: 100 on the mean).")
    reduction: Reduction = Field("mean", description=f"{REDUCTION} Ours: mean, as in GCT.")
    ramp: Share = Field(
        0.15,
        description="Share of all iterations in which the weight rises as exp(-5 (1 - t)^2), from 0.0067 on (ours: 5\n"
        "of CPS's 34 epochs).",
    )
