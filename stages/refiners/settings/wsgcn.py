"""Settings and card of WSGCN."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.localization.config import CrfConfig
from stages.methods.settings.base import Card
from stages.refiners.settings.base import ForegroundRefinerSettings, RefinerTrainingSettings
from stages.refiners.settings.irn import IrnTrainingSettings

CARD = Card(
    title="WSGCN: a graph network, trained anew for each image, completes the labels of its sure cells",
    paper="Pan et al., ICME 2021 (WSGCN-I)",
    uses=("tags",),
    forward=1,
    backward=1,
    beside="of IRNet, whose network it takes; each image trains 250 steps of a small graph network of its own",
    sources=(
        "Pan et al., ICME 2021",
        "its code, Xavier-Pan/WSGCN: GCN/train.py, GCN/utils.py, GCN/dataset.py, IRN/net/resnet50_irn.py",
    ),
    inference="the completed labels of each image",
    recipe="wsgcn-voc",
    profile="paper",
    output="refiner",
)


class WsgcnSettings(ForegroundRefinerSettings):
    """Pan et al., ICME 2021: a graph network for each image completes the labels of its sure cells."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = IrnTrainingSettings
    name: Literal["wsgcn"] = "wsgcn"
    radius: int = Field(5, ge=2, description="A step of the walk leads to cells nearer than this (published: 5).")
    beta: float = Field(10.0, gt=0, description="Exponent of IRNet's affinities (published: 10).")
    doublings: int = Field(
        8,
        ge=0,
        le=16,
        description="A cell's neighbours are those of a walk of 2^doublings steps (published: 8, for 500 pixels; for\n"
        "160: 5). The time grows with the square root of the number of steps.",
    )
    alphas: tuple[float, float] = Field(
        (4.0, 32.0),
        description="Background is (1 - highest score)^alpha: the first alpha for sure classes, the second for sure\n"
        "background (published: 4 and 32).",
    )
    share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="A class is sure at the cells with this share of its highest scores (published: .3).",
    )
    sure: float = Field(
        0.8,
        ge=0,
        le=1,
        description="A label is sure where it has this probability after the CRF; background, where its score before\n"
        "the CRF is above this as well (published: .8 both).",
    )
    crf: CrfConfig = Field(
        CrfConfig(parameters="psa", gaussian_sxy=4, bilateral_sxy=20, bilateral_srgb=3),
        description="The dense CRF of the sure labels, on the image at a quarter of its size (authors' code: position\n"
        "width 4, weight 3; colour 20 / 3, weight 10).",
    )
    hidden: int = Field(16, ge=1, description="Channels between the two layers (published: 16).")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of these channels that training drops (published: .3).")
    steps: int = Field(250, ge=1, description="Training steps for each image (published: 250).")
    lr: float = Field(0.01, gt=0, description="Learning rate of Adam (published: .01).")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of Adam (published: 5e-4).")
    entropy_weight: float = Field(10.0, ge=0, description="Weight of the entropy (published: 10).")
    smoothness_weight: float = Field(0.01, ge=0, description="Weight of the colour smoothness (published: .01).")
    seed: int = Field(0, ge=0, description="Seed of initial weights and dropout, together with the id of the image.")
    batch_size: int = Field(4, ge=1, description="Images of identical size whose networks are trained together.")
    background: float = Field(
        0.5, ge=0, le=1, description="Score of the background in the masks; .5: a class wins where it is more probable."
    )
