"""Settings and card of SEAM."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stages.engine.config import Share
from stages.methods.settings.base import Card, MethodSettings

Level = Annotated[int, Field(ge=1)]


class SeamSettings(MethodSettings):
    """Wang et al., CVPR 2020: maps of an image and of a small copy agree, and so do maps spread by similarity."""

    card: ClassVar[Card] = Card(
        title="SEAM: maps of an image and of its small copy agree, also after a spread over similar cells",
        paper="Wang et al., CVPR 2020",
        uses=("tags",),
        forward=2,
        backward=2,
        beside="one of them of the copy, 9 % of the pixels; each compares all cells with all",
        sources=("Wang et al., CVPR 2020", "its code, YudeWang/SEAM: train_SEAM.py, network/resnet38_SEAM.py"),
        inference="the classifier and its pixel correlation module",
        recipe="seam-voc",
        profile="paper",
        output="classifier",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["seam"] = "seam"
    scale: Share = Field(
        0.3, gt=0, description="Size of the second view, a bilinear copy, by that of the crop (published: .3)."
    )
    hardest: Share = Field(0.2, gt=0, description="L_ECR is the mean of this share of the differences (published: .2).")
    lowest: Share = Field(
        0.25, gt=0, description="Share of the pixels whose refined maps are drawn to 0, by r (its code: a quarter)."
    )
    levels: tuple[Level, Level] | None = Field(
        None,
        description="Cells are compared by these two levels of the backbone, counted from the finest, 1. null: the\n"
        "two before the last; resnet38 3 and 4 (published: conv4, conv5), ResNets 3 and 4 (layer2, layer3), vgg16 4\n"
        "and 5, mobilenet_v2 3 and 4, tiny 1 and 2.",
    )
