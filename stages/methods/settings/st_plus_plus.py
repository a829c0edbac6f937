"""Settings and card of ST++."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.methods.settings.base import (
    Card,
    StudentSettings,
)


class StPlusPlusSettings(StudentSettings):
    """Yang et al., CVPR 2022: self-training on the reliable images first, then on all of them."""

    card: ClassVar[Card] = Card(
        title="Self-training that begins with the images whose masks were stable (ST++)",
        paper="Yang et al., CVPR 2022",
        uses=("masks", "images"),
        forward=2,
        backward=2,
        beside="in two trainings; before them a supervised one; two predictions",
        sources=("Yang et al., CVPR 2022", "its code, LiheYoung/ST-PlusPlus"),
        recipe="self-training",
        profile="paper",
        inference="the last student",
    )
    name: Literal["st-plus-plus"] = "st-plus-plus"
