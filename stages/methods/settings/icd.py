"""Settings and card of the intra-class discriminator."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import Share
from stages.methods.settings.base import Card, MethodSettings


class IcdSettings(MethodSettings):
    """Fan et al., CVPR 2020: a direction for each class separates its pixels from the background of its images."""

    card: ClassVar[Card] = Card(
        title="ICD: a discriminator for each class of which pixels of the class's images are background",
        paper="Fan, Zhang, Song & Tan, CVPR 2020",
        uses=("tags",),
        forward=1,
        backward=1,
        beside="regions of each image, made once",
        sources=(
            "Fan, Zhang, Song & Tan, CVPR 2020",
            "its code, js-fan/ICD: run_icd.py, generate_superpixel.py, core/model/layers_custom/icd.py",
        ),
        inference="the classifier, whose maps are the foreground branch's",
        recipe="icd-voc",
        profile="paper",
        output="classifier",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["icd"] = "icd"
    regions: int = Field(
        64, ge=2, le=254, description="Regions of an image over which scores are averaged (its code: 64)."
    )
    variance: float = Field(
        10.0, ge=0, description="Weight of the variance along the directions (its code: 10, as gradient scale)."
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Share of the old value in the running means that fix the signs (its code: .9)."
    )
    margin: Share = Field(
        0.2,
        description="Foreground and background are learned where the score exceeds this share of the highest, or of\n"
        "the lowest (its code: .2).",
    )
    warmup: Share = Field(
        0.1,
        description="Share of the iterations over which the weight of the foreground branch rises from exp(-10) to 1\n"
        "(its code: 2 of 20 epochs).",
    )
