"""Settings and card of cutmix-seg."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    CutMixSettings,
)
from stages.methods.settings.base import (
    Card,
    ConfidentSettings,
)


class CutMixSegSettings(ConfidentSettings):
    """French et al., BMVC 2020: the student sees two images mixed, the teacher sees each of them whole."""

    card: ClassVar[Card] = Card(
        title="CutMix-Seg: mean teacher on images mixed by CutMix",
        paper="French, Laine, Aila, Mackiewicz & Finlayson, BMVC 2020",
        uses=("masks", "images"),
        forward=4,
        backward=2,
        beside="2 of the forward passes are the teacher's",
        sources=(
            "French et al., BMVC 2020",
            "its code: Adam, 3e-5, teacher .99, one box of half the image",
        ),
        inference="the teacher (evaluate student: the network)",
    )
    name: Literal["cutmix-seg"] = "cutmix-seg"
    weight: float = Field(1.0, ge=0, description="w of the consistency (authors' code: 1).")
    mixing: CutMixSettings = Field(
        CutMixSettings(), description="The boxes of CutMix (published: one, of half the area)."
    )
