"""Settings and card of IRNet."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.config import Config
from stages.localization.config import CrfConfig
from stages.methods.settings.base import Card
from stages.refiners.settings.base import ForegroundRefinerSettings, RefinerTrainingSettings

CARD = Card(
    title="IRNet: class boundaries, learned from confident pixels of score maps, limit a random walk of the scores",
    paper="Ahn et al., CVPR 2019",
    uses=("tags",),
    forward=1,
    backward=1,
    beside="backward through the boundary branch only, the backbone is frozen",
    sources=(
        "Ahn et al., CVPR 2019",
        "its code, jiwoon-ahn/irn: step/cam_to_ir_label.py, step/train_irn.py, step/make_sem_seg_labels.py, "
        "step/make_ins_seg_labels.py",
    ),
    inference="scores after a random walk that the predicted boundaries limit",
    recipe="irn-voc",
    profile="paper",
    output="refiner",
)


class IrnTrainingSettings(RefinerTrainingSettings):
    """Ahn et al., CVPR 2019: class boundaries from pairs of confident pixels."""

    card: ClassVar[Card] = CARD
    name: Literal["irn"] = "irn"
    radius: int = Field(
        10, ge=2, description="It learns from pairs of cells (4 pixels) nearer than this (published: 10)."
    )
    foreground: float = Field(
        0.30,
        ge=0,
        le=1,
        description="A class is confident where it wins against a background of this score (published: .30).",
    )
    background: float = Field(
        0.05, ge=0, le=1, description="Background is confident where it wins even with this score (published: .05)."
    )
    crf: CrfConfig = Field(
        CrfConfig(parameters="irn"), description="The dense CRF that smooths both label maps (published: irn)."
    )
    displacement: bool = Field(
        False,
        description="Also train the displacement field, for `semiseg instances` (published: true). The boundaries\n"
        "stay the same, unless clip_grad_norm is set.",
    )
    displacement_lr_factor: float = Field(
        1.0, gt=0, description="The lr of the displacement field is multiplied by this (published: 10, with sgd)."
    )

    def smallest_crop(self) -> int:
        """One cell with all its partners: radius rows, and radius - 1 columns on each side of it."""
        return 4 * (2 * self.radius - 2) + 1


class WalkSettings(Config):
    """The random walk between boundaries, of maps and of instances."""

    radius: int = Field(5, ge=2, description="A step of the walk leads to cells nearer than this (published: 5).")
    beta: float = Field(
        10.0, gt=0, description="Exponent of the affinities; high: steps along pairs of high affinity (published: 10)."
    )
    doublings: int = Field(
        8,
        ge=0,
        le=16,
        description="The walk has 2^doublings steps (published: 8, 256 steps, for 500 pixels; for 160: 5).",
    )
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass (and mirrored copies).")


class IrnSettings(WalkSettings, ForegroundRefinerSettings):
    """Ahn et al., CVPR 2019: a random walk of scores, limited by boundaries."""

    card: ClassVar[Card] = CARD
    training: ClassVar[type[RefinerTrainingSettings] | None] = IrnTrainingSettings
    name: Literal["irn"] = "irn"


class InstanceSettings(WalkSettings):
    """Ahn et al., CVPR 2019: instance masks by displacement field and random walk. Lengths are in cells (4 pixels)."""

    steps: int = Field(
        300, ge=1, le=10_000, description="Steps along the displacement field to a centroid (published: at least 100)."
    )
    still: float = Field(
        2.5,
        gt=0,
        description="Neighbouring cells with shorter displacements belong to one centroid (published: 2.5).",
    )
    background: float = Field(
        0.25, ge=0, le=1, description="Score of the background; the highest of all instances is 1 (published: .25)."
    )
    smallest: float = Field(
        0.01,
        ge=0.004,
        le=1,
        description="Connected parts of instances below this share of the image are left out (published: .01). A mask\n"
        "holds 254 instances, hence the limit.",
    )
