"""Settings and card of FickleNet."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
from pydantic import Field

from stages.methods.settings.base import Card, MethodSettings


class FickleNetSettings(MethodSettings):
    """Lee et al., CVPR 2019: many random choices of hidden units, each of which shows a different part of an object."""

    card: ClassVar[Card] = Card(
        title="FickleNet: maps of many random choices of hidden units, joined",
        paper="Lee, Kim, Lee, Lee & Yoon, CVPR 2019",
        uses=("tags",),
        forward=1,
        backward=1,
        sources=(
            "Lee, Kim, Lee, Lee & Yoon, CVPR 2019; no code of the authors is known, and the defaults are not checked "
            "against the paper",
        ),
        inference="the classifier, whose maps are the highest of all draws",
        recipe="ficklenet-voc",
        profile="paper",
        output="classifier",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["ficklenet"] = "ficklenet"
    window: int = Field(9, ge=1, description="s: side of the windows in which units are dropped, in cells, odd.")
    rate: float = Field(0.9, ge=0, le=1, description="Probability that a unit is dropped; a window's centre never is.")
    expand: bool = Field(
        True,
        description="Each window drops different units (the expanded map). false: a cell is dropped in all windows\n"
        "except that around it, which needs no expanded map in other implementations and varies less.",
    )
    draws: int = Field(200, ge=1, description="N: number of random choices of which the stage seeds makes maps.")
    gradient: Literal["cell", "mean"] = Field(
        "cell",
        description="Grad-CAM weighs the features by the gradient at each cell, or by its mean over the cells. With\n"
        "the mean all draws are very similar.",
    )

    @pydantic.field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a window has a centre: give an odd number")
        return value
