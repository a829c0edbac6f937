"""Settings and card of DMT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
)
from stages.methods.settings.base import (
    Card,
    SemiSupervisedSettings,
)


class DmtSettings(SemiSupervisedSettings):
    """Feng et al., 2022: two models label for each other; the weight of a pixel depends on how far both agree on it."""

    card: ClassVar[Card] = Card(
        title="Dynamic mutual training: the other model's labels, weighted by agreement, in growing shares",
        paper="Feng et al., Pattern Recognition 2022",
        uses=("masks", "images"),
        forward=8,
        backward=8,
        beside="7 of them on pseudo labels; ten trainings (five rounds, two models), a prediction before each",
        sources=("Feng et al., Pattern Recognition 2022", "its code, voldemortX/DST-CBC"),
        recipe="dmt",
        profile="paper",
        inference="both models, one after the other",
    )
    hard_examples: ClassVar[bool] = False
    labels_from: ClassVar[str] = (
        "semiseg predict --segmenter OTHER --split weak --output masks --set confidence=true "
        "--set image_labels=share --name guesses, then "
        "semiseg pseudo-labels --predictions guesses --set share=0.2 --name weak-labels; all rounds: semiseg run dmt"
    )
    taken_with: ClassVar[Mapping[str, str]] = {"weak_labels": "set method.weight above 0"}
    as_drawn: ClassVar[tuple[str, ...]] = ("strong", "unlabelled")
    name: Literal["dmt"] = "dmt"
    gamma_agree: float = Field(5.0, ge=0, description="gamma1: sharpens the weight where both agree (VOC 5, city 3).")
    gamma_differ: float = Field(5.0, ge=0, description="gamma2: where they disagree, and the label is more confident.")
    weight: float = Field(1.0, ge=0, description="Factor on the weights of pseudo-labelled pixels (published: 1).")
    labelled_share: Share = Field(
        0.125, gt=0, lt=1, description="Share of labelled images in a batch (published: 1 of 8; Cityscapes 2 of 8)."
    )

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weight > 0 else ()
