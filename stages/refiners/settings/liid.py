"""Settings and card of LIID."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from stages.config import ExternalFile
from stages.engine.config import Share
from stages.methods.settings.base import Card, MethodSettings
from stages.refiners.settings.base import RefinerSettings, RefinerTrainingSettings

CARD = Card(
    title="LIID: parts of all images are linked by their features, and a multi-way cut of the graph gives them classes",
    paper="Liu et al., TPAMI 2020",
    uses=("tags",),
    forward=1,
    backward=1,
    beside="regions of each image, made once; refine solves a cut of the graph of all images",
    sources=(
        "Liu et al., TPAMI 2020",
        "its evaluation code, yun-liu/LIID: gen_proposals.py, multiway_cut.py, resnet_roi.py, voc.py; the code of the "
        "training is not published",
        "Pinheiro & Collobert, CVPR 2015: log-sum-exp; Calinescu, Karloff & Rabani, 1998: the relaxation of the cut",
    ),
    inference="the classes that the cut gives the proposals of all images, with their probabilities",
    recipe="liid-voc",
    profile="paper",
    output="refiner",
)


class _Proposals(MethodSettings):
    """Where the proposals of an image come from; the same for the training and for `refine`."""

    proposals: ExternalFile = Field(
        "",
        description="Folder of proposals made elsewhere: <image id>.png, a label map; or, of some that cover others,\n"
        "<image id>.npz with `masks`, bool (n, H, W), or <image id>.json, COCO's run lengths (published: S4Net's, or\n"
        "MCG's). Empty: regions of each image.",
    )
    regions: tuple[Annotated[int, Field(ge=1, le=200)], ...] = Field(
        (36, 12, 4),
        min_length=1,
        max_length=3,
        description="Without a folder: regions of these numbers, merged from superpixels; each is a proposal (ours).",
    )
    most: int = Field(
        100,
        ge=1,
        le=254,
        description="Of a folder, at most this many proposals of an image take part, the first of its file.",
    )

    @pydantic.field_validator("regions")
    @classmethod
    def _few_enough(cls, regions: tuple[int, ...]) -> tuple[int, ...]:
        if sum(regions) > 254:
            raise ValueError(f"{sum(regions)} regions of an image are too many: at most 254 together")
        return regions

    @property
    def most_numbers(self) -> int:
        """No image has more proposals."""
        return self.most if self.proposals else sum(self.regions)

    def check_images(self, ids: Collection[str]) -> None:
        if self.proposals:
            from stages.localization.segment_layers import check_folder  # only where there is a folder

            check_folder(self.proposals, ids, "method.proposals")


class LiidTrainingSettings(_Proposals, RefinerTrainingSettings):
    """Liu et al., TPAMI 2020: a classifier of proposals, from image-level labels. Its loss is not published: ours."""

    card: ClassVar[Card] = CARD
    name: Literal["liid"] = "liid"
    pooling: Literal["pixels", "box"] = Field(
        "pixels",
        description="Where features are averaged for a proposal: on its pixels (ours), or in its bounding box\n"
        "(published: RoI pooling of the box, of which the mean is taken).",
    )
    sharpness: float = Field(
        10.0,
        gt=0,
        description="r of the log-sum-exp that makes probabilities of an image from those of its proposals; low:\n"
        "their mean, high: their maximum (ours: 10).",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="Weight of the proposals that the score maps label; 0: image-level labels alone (ours: 1).",
    )
    foreground: Share = Field(
        0.5,
        description="A proposal has the class whose mean score over it is highest, and reaches this (ours: .5).",
    )
    background: Share = Field(
        0.3, description="A proposal is background where no class has a higher mean score over it (ours: .3)."
    )


class LiidSettings(_Proposals, RefinerSettings):
    """Liu et al., TPAMI 2020: a multi-way cut of the graph of all proposals of the data set."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = LiidTrainingSettings
    whole_set: ClassVar[bool] = True
    name: Literal["liid"] = "liid"
    neighbours: int = Field(3, ge=0, description="A proposal is linked to this many with the most similar features.")
    mutual: bool = Field(
        True,
        description="Two proposals are linked only where each is among the nearest of the other; the authors' code\n"
        "has a test for this that always passes.",
    )
    within: bool = Field(
        False,
        description="Proposals of one image may be linked (published; there they rarely cover each other). Ours: not,\n"
        "since the most similar ones would be those that cover each other.",
    )
    classes: int = Field(4, ge=1, description="A proposal has weights for this many of its classes (published: 4).")
    sure: Share = Field(
        0.9, description="It has a weight for the highest class alone where that reaches this (published: .9)."
    )
    block: int = Field(
        20_000,
        ge=100,
        description="Larger sets are divided into blocks of about this many proposals, of images with the same labels\n"
        "where possible; neighbours and cut are found in each (ours: time grows linearly).",
    )
    solver: Literal["auto", "exact", "relaxation"] = Field(
        "auto",
        description="How connected parts of the graph are cut: by branch and bound (published: CPLEX; here HiGHS), or\n"
        "by its linear relaxation. auto: exact up to `most_exact` proposals.",
    )
    most_exact: int = Field(500, ge=1, description="With solver: auto, the largest part that is cut exactly (ours).")
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass.")
