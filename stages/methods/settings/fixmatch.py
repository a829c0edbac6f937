"""Settings and card of FixMatch."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.methods.settings.base import (
    Card,
    OwnLabelsSettings,
)


class FixMatchSettings(OwnLabelsSettings):
    """Sohn et al., NeurIPS 2020, as in UniMatch's code for segmentation: a weak view teaches a strong one."""

    card: ClassVar[Card] = Card(
        title="FixMatch: confident labels of the weak view teach a strong view",
        paper="Sohn et al., NeurIPS 2020; for segmentation Yang et al., CVPR 2023",
        uses=("masks", "images"),
        forward=4,
        backward=3,
        sources=("Yang et al., CVPR 2023", "its code: fixmatch.py"),
        recipe="voc-classic",
    )
    name: Literal["fixmatch"] = "fixmatch"
