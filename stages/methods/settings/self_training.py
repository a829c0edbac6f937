"""Settings and card of self-training."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.methods.settings.base import (
    Card,
    StudentSettings,
)


class SelfTrainingSettings(StudentSettings):
    """Yang et al., CVPR 2022: a fresh student on masks and on a teacher's labels, strongly augmented."""

    card: ClassVar[Card] = Card(
        title="Offline self-training: a fresh student learns from a teacher's masks, strongly augmented (ST)",
        paper="Yang et al., ST++, CVPR 2022 (its ST)",
        uses=("masks", "images"),
        forward=2,
        backward=2,
        beside="before it a supervised training and one prediction of all images",
        sources=("Yang et al., CVPR 2022", "its code, LiheYoung/ST-PlusPlus"),
        recipe="self-training",
        profile="paper",
        inference="the student",
    )
    name: Literal["self-training"] = "self-training"
