"""Settings of a toy: what the images of a group have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card, MethodSettings


class CommonLabelsSettings(MethodSettings):
    """A classifier that also learns the labels all images of a group have."""

    card: ClassVar[Card] = Card(
        title="Common labels of groups",
        paper="none",
        uses=("tags",),
        forward=1,
        backward=1,
        output="classifier",
    )
    name: Literal["common-labels"] = "common-labels"
    group: int = Field(3, ge=2, description="Images of a group.")
