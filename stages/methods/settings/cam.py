"""Settings and card of the plain classifier."""

from __future__ import annotations

from typing import ClassVar, Literal

from stages.methods.settings.base import Card, MethodSettings


class CamSettings(MethodSettings):
    """Zhou et al., CVPR 2016: the classifier whose last feature maps, weighted for a class, show where the class is."""

    card: ClassVar[Card] = Card(
        title="The plain multi-label classifier, whose class-activation maps localise",
        paper="Zhou et al., CVPR 2016",
        uses=("tags",),
        forward=1,
        backward=1,
        sources=("Zhou et al., CVPR 2016", "IRNet's code, jiwoon-ahn/irn: net/resnet50_cam.py, step/train_cam.py"),
        inference="the classifier",
        output="classifier",
        recipe="table1",
    )
    hard_examples: ClassVar[bool] = False
    as_drawn: ClassVar[tuple[str, ...]] = ("labelled",)
    name: Literal["cam"] = "cam"
