"""Settings and card of AffinityNet (PSA)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.localization.config import CrfConfig
from stages.methods.settings.base import Card
from stages.refiners.settings.base import RefinerSettings, RefinerTrainingSettings

CARD = Card(
    title="AffinityNet (PSA): a random walk of scores, limited by the affinity of learned features",
    paper="Ahn & Kwak, CVPR 2018",
    uses=("tags",),
    forward=1,
    backward=1,
    sources=(
        "Ahn & Kwak, CVPR 2018",
        "its code, jiwoon-ahn/psa: infer_cls.py, voc12/data.py, train_aff.py, infer_aff.py",
        "settings of SEAM: Wang et al., CVPR 2020, and its code, YudeWang/SEAM",
    ),
    inference="scores, with background, after a random walk between cells of similar features",
    recipe="psa-voc",
    profile="paper",
    output="refiner",
)


class PsaTrainingSettings(RefinerTrainingSettings):
    """Ahn & Kwak, CVPR 2018: features that are similar within a class, from pairs of confident cells."""

    card: ClassVar[Card] = CARD
    name: Literal["psa"] = "psa"
    radius: int = Field(
        5, ge=2, description="It learns from pairs of cells (8 pixels) nearer than this (published: 5)."
    )
    low_alpha: float = Field(
        4.0,
        gt=0,
        description="A class is confident where it wins against (1 - highest score)^this as background (published: 4).",
    )
    high_alpha: float = Field(
        32.0,
        gt=0,
        description="Background is confident where it wins with this exponent (published: 32; SEAM: 24).",
    )
    crf: CrfConfig = Field(
        CrfConfig(parameters="psa"), description="The dense CRF that smooths the scores of both (published: psa)."
    )

    def smallest_crop(self) -> int:
        """One cell with all its partners: radius rows, and radius - 1 columns on each side of it."""
        return 8 * (2 * self.radius - 2) + 1


class PsaSettings(RefinerSettings):
    """Ahn & Kwak, CVPR 2018: a random walk of scores and background, limited by the affinity of features."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = PsaTrainingSettings
    name: Literal["psa"] = "psa"
    radius: int = Field(
        5, ge=2, description="A step of the walk leads to cells (8 pixels) nearer than this (published: 5)."
    )
    alpha: float = Field(
        16.0,
        gt=0,
        description="Before the walk the background has the score (1 - highest score)^this (published: 16; SEAM: 6).",
    )
    beta: float = Field(
        8.0, gt=0, description="Exponent of the affinities; high: steps along confident pairs (published and SEAM: 8)."
    )
    doublings: int = Field(
        8,
        ge=0,
        le=16,
        description="The walk has 2^doublings steps (published: 8, 256 steps, for 500 pixels; SEAM: 6; for 160: 5).",
    )
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass.")
