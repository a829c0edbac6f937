"""Settings and card of AffinityNet (PSA)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.localization.config import CrfConfig
from stages.methods.settings.base import Card
from stages.refiners.settings.base import RefinerSettings, RefinerTrainingSettings

CARD = Card(
    title="AffinityNet (PSA): features learned from pairs of sure cells; scores walk between cells of one class",
    paper="Ahn & Kwak, CVPR 2018",
    uses=("tags",),
    loss="L = 1/4 L_bg+ + 1/4 L_fg+ + 1/2 L-,  W_ij = exp(-mean |f_i - f_j|), |i - j| < radius\n"
    "L_bg+, L_fg+ = mean over background, foreground pairs of -log(W_ij + 1e-5)\n"
    "L- = mean over pairs of two classes of -log(1 + 1e-5 - W_ij)",
    forward=1,
    backward=1,
    sources=(
        "Ahn & Kwak, CVPR 2018",
        "its code, jiwoon-ahn/psa: infer_cls.py, voc12/data.py, train_aff.py, infer_aff.py",
        "settings of SEAM: Wang et al., CVPR 2020, and its code, YudeWang/SEAM",
    ),
    inference="scores and their background that walked between cells whose features are alike",
    output="refiner",
)


class PsaTrainingSettings(RefinerTrainingSettings):
    """Ahn & Kwak, CVPR 2018: whether two cells are of one class, from pairs of sure cells."""

    card: ClassVar[Card] = CARD
    name: Literal["psa"] = "psa"
    radius: int = Field(
        5, ge=2, description="Pairs of cells (8 pixels) nearer than this are learned from (published: 5)."
    )
    low_alpha: float = Field(
        4.0,
        gt=0,
        description="A class is sure where it wins against a background of (1 - highest score)^this (published: 4).",
    )
    high_alpha: float = Field(
        32.0,
        gt=0,
        description="Background is sure where it wins with this exponent (published: 32; SEAM: 24).",
    )
    crf: CrfConfig = Field(
        CrfConfig(parameters="psa"), description="The dense CRF that smooths the scores of both (published: psa)."
    )

    def smallest_crop(self) -> int:
        """One cell with all its partners: radius rows, and radius - 1 columns at either side of it."""
        return 8 * (2 * self.radius - 2) + 1


class PsaSettings(RefinerSettings):
    """Ahn & Kwak, CVPR 2018: scores walk between cells that are alike, and their background with them."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = PsaTrainingSettings
    name: Literal["psa"] = "psa"
    radius: int = Field(5, ge=2, description="Scores step to cells (8 pixels) nearer than this (published: 5).")
    alpha: float = Field(
        16.0,
        gt=0,
        description="Before the walk the background scores (1 - highest score)^this (published: 16; SEAM: 6).",
    )
    beta: float = Field(
        8.0, gt=0, description="Exponent of the affinities; high: steps along sure pairs (published and SEAM: 8)."
    )
    doublings: int = Field(
        8,
        ge=0,
        le=16,
        description="The walk has 2^doublings steps (published: 8, 256 steps, for 500 pixels; SEAM: 6; for 160: 5).",
    )
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass.")
