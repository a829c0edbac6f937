"""Settings of the methods in which two networks teach each other."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import CutMixSettings
from stages.methods.settings.base import Card, MethodSettings


class CpsSettings(MethodSettings):
    """Chen et al., CVPR 2021: each network learns from the other's hard labels on the unlabelled pictures."""

    card: ClassVar[Card] = Card(
        title="Cross pseudo supervision of two networks, with or without CutMix",
        paper="Chen et al., CVPR 2021",
        uses=("masks", "pictures"),
        place="stages.methods.cps:Cps",
        loss="L = CE(f1(x), y) + CE(f2(x), y) + lambda [CE(f1(z), Y2(z)) + CE(f2(z), Y1(z))],  Y = argmax\n"
        "z: unlabelled pictures mixed by CutMix, or (cutmix false) labelled and unlabelled ones",
        cost="4 forward, 4 backward; with CutMix 4 more forward",
        sources=("Chen et al., CVPR 2021, Eq. 1-5", "its code: lambda 1.0 with CutMix where the paper has 1.5"),
        recipe="cps-voc",
        inference="network 1",
    )
    name: Literal["cps"] = "cps"
    cutmix: bool = Field(True, description="Mix two unlabelled pictures with random boxes (CutMix).")
    weight: float = Field(
        1.5, ge=0, description="lambda of the cross pseudo supervision (paper: 1.5 on VOC; its code with CutMix: 1.0)."
    )
    mixing: CutMixSettings = Field(
        CutMixSettings(boxes=3, share=(0.25, 0.5)), description="The boxes of CutMix (authors' code: 3, .25 to .5)."
    )
    ignore_padding: bool = Field(
        True, description="Leave padded pixels out of the unlabelled loss; the authors' code keeps them in."
    )
