"""Settings and card of discriminative region suppression."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card, MethodSettings


class DrsSettings(MethodSettings):
    """Kim et al., AAAI 2021: peaks of the features are held down, so that maps cover all of an object."""

    card: ClassVar[Card] = Card(
        title="DRS: a classifier whose peaks are held down behind its ReLUs, so that its maps cover whole objects",
        paper="Kim et al., AAAI 2021",
        uses=("tags",),
        forward=1,
        backward=1,
        sources=("Kim et al., AAAI 2021", "its code, qjadud1994/DRS: models/vgg.py, scripts/train_cls.py"),
        inference="the classifier",
        recipe="drs-voc",
        profile="paper",
        output="classifier",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["drs"] = "drs"
    delta: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of its maximum that a channel keeps, the same for all (paper: .55); 1: no suppression.\n"
        "null: learned, for each channel and image (the default of its code).",
    )
    before: ClassVar = {"places": "relus"}
    places: Literal["relus", "stages"] | None = Field(
        None,
        description="Behind which ReLUs of the backbone. relus: every one (its code, on VGG16; of residual blocks the\n"
        "last one); stages: the last one of each stage, and learned shares start at .88 instead of 1/2 (ours); null:\n"
        "stages where the backbone has BatchNorm, else relus. Those of the three new convolutions always.",
    )
