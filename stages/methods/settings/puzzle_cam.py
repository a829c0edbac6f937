"""Settings and card of Puzzle-CAM."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import Share
from stages.methods.settings.base import Card, MethodSettings


class PuzzleCamSettings(MethodSettings):
    """Jo & Yu, ICIP 2021: maps of an image's tiles, put together, agree with the maps of the image."""

    card: ClassVar[Card] = Card(
        title="Puzzle-CAM: the maps of an image's tiles, put together, agree with those of the image",
        paper="Jo & Yu, ICIP 2021",
        uses=("tags",),
        forward=2,
        backward=2,
        beside="one of them of the tiles, as many pixels in all",
        sources=("Jo & Yu, ICIP 2021", "its code, shjo-april/PuzzleCAM: train_classification_with_puzzle.py"),
        inference="the classifier",
        recipe="puzzle-voc",
        profile="paper",
        output="classifier",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["puzzle-cam"] = "puzzle-cam"
    tiles: int = Field(2, ge=2, le=8, description="Tiles along each side of an image (published: 2).")
    weight: float = Field(
        4.0, ge=0, description="Largest alpha: weight of the reconstruction (its README: 4; default of its code: 1)."
    )
    ramp: Share = Field(0.5, description="Share of the iterations over which alpha rises from 0 (published: .5).")
