"""Settings and card of CPS."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import (
    Card,
    MutualSettings,
)


class CpsSettings(MutualSettings):
    """Chen et al., CVPR 2021: each network learns from the other's hard labels on the unlabelled images."""

    card: ClassVar[Card] = Card(
        title="Cross pseudo supervision of two networks, with or without CutMix",
        paper="Chen et al., CVPR 2021",
        uses=("masks", "images"),
        forward=8,
        backward=4,
        beside="without CutMix 4 forward",
        sources=(
            "Chen et al., CVPR 2021",
            "its code: lambda 1.0 with CutMix where the paper has 1.5, of means that count padding, too",
        ),
        recipe="cps-voc",
        profile="paper",
        inference="network 1",
    )
    name: Literal["cps"] = "cps"
    weight: float = Field(
        1.5, ge=0, description="lambda of the cross pseudo supervision (paper: 1.5 on VOC; its code with CutMix: 1.0)."
    )
