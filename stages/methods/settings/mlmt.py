"""Settings and card of MLMT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
    StrongAugmentationSettings,
    TeacherSettings,
)
from stages.methods.settings.base import (
    Card,
    SemiSupervisedSettings,
)


class MlmtSettings(SemiSupervisedSettings):
    """Mittal et al., PAMI 2021: an image classifier with a mean teacher; a segmenter keeps to the classes it finds."""

    card: ClassVar[Card] = Card(
        title="MLMT: multi-label mean teacher, an image classifier that filters the predictions of s4GAN",
        paper="Mittal et al., PAMI 2021",
        uses=("masks", "images"),
        forward=3,
        backward=2,
        beside="of a classifier, one of them of its average",
        sources=("Mittal et al., PAMI 2021", "its code, sud0301/semisup-semseg: train_mlmt.py"),
        inference="the teacher",
        output="classifier",
        recipe="s4gan",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["mlmt"] = "mlmt"
    weight: float = Field(1.0, ge=0, description="Largest value of w, the weight of the consistency (published).")
    start: Share = Field(
        0.1, description="Share of the iterations before there is a consistency (published: 10 of 100 epochs)."
    )
    ramp: Share = Field(
        0.5, description="Share of the iterations over which w then rises linearly (published: 50 of 100 epochs)."
    )
    teacher: TeacherSettings = Field(
        TeacherSettings(decay=0.999),
        description="The average c' (published: .999, parameters alone, in train mode).",
    )
    strong: StrongAugmentationSettings = Field(
        StrongAugmentationSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.0),
        description="The student's view of unlabelled images (published: jitter .4 .4 .4 .1, blur .1 to 2).",
    )
    mirror: Share = Field(
        0.0,
        description="Probability that the student sees an unlabelled image mirrored against the teacher (published:\n"
        ".5, as both mirror theirs by chance).",
    )
