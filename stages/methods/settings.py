"""The settings of every method, and of training with one. No torch: `status`, `config` and `methods` read these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from stages.config import SHORTHAND, Config
from stages.engine.config import TrainingConfig
from stages.networks.config import NetworkConfig


class MethodSettings(Config):
    """Base of the settings; `name` says which method they belong to."""

    name: str

    def inputs(self) -> tuple[str, ...]:
        """Inputs of `train` beside the data set that these settings take: "weak_labels", "seeds"."""
        return ()


class SupervisedSettings(MethodSettings):
    """One network, one branch, cross-entropy (handbook rows: strong only, weak only, mixed, oversampled)."""

    name: Literal["supervised"] = "supervised"
    labels: Literal["strong", "weak", "mixed", "oversampled"] = Field(
        "strong",
        description="strong: pictures with masks. weak: the other pictures, with estimated masks. mixed: both lists\n"
        "joined. oversampled: both, the strong list repeated until it is as long as the weak one.",
    )

    def inputs(self) -> tuple[str, ...]:
        return () if self.labels == "strong" else ("weak_labels",)


class DualBranchSettings(MethodSettings):
    """Luo & Yang, ECCV 2020: L = CE(f_s(Z(x_s)), m_s) + weak_weight * CE(f_w(Z(x_w)), m_w)."""

    name: Literal["dual-branch"] = "dual-branch"
    weak_weight: float = Field(
        1.0, ge=0, description="lambda, the weight of the weak branch's loss; the paper weighs both branches equally."
    )

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weak_weight > 0 else ()


class CpsSettings(MethodSettings):
    """Chen et al., CVPR 2021: each network learns from the other's hard labels on the unlabelled pictures."""

    name: Literal["cps"] = "cps"
    cutmix: bool = Field(True, description="Mix two unlabelled pictures with random boxes (CutMix).")
    weight: float = Field(
        1.5, ge=0, description="lambda of the cross pseudo supervision (paper: 1.5 on VOC; its code with CutMix: 1.0)."
    )
    boxes: int = Field(3, ge=1, description="CutMix boxes a picture (authors' code: 3).")
    box_share: tuple[float, float] = Field(
        (0.25, 0.5),
        description="Share of the picture that the boxes cover, drawn uniformly (authors' code: .25 to .5).",
    )
    ignore_padding: bool = Field(
        True, description="Leave padded pixels out of the unlabelled loss; the authors' code keeps them in."
    )

    @pydantic.field_validator("box_share")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares above 0 and up to 1, the smaller first")
        return value


class DsrgSettings(MethodSettings):
    """Huang et al., CVPR 2018: seeds grow into confident neighbours while the network trains."""

    name: Literal["dsrg"] = "dsrg"
    balanced: bool = Field(
        True, description="Balanced seed loss: background and foreground are normalised apart (DSRG). false: SEC's."
    )
    region_growing: bool = Field(True, description="Grow the seeds each step; false keeps them as they are (SEC).")
    theta_background: float = Field(0.99, gt=0, le=1, description="Grow background where its probability exceeds this.")
    theta_foreground: float = Field(0.85, gt=0, le=1, description="Grow a class where its probability exceeds this.")
    boundary_weight: float = Field(1.0, ge=0, description="Weight of the boundary loss towards the dense CRF's output.")
    expansion_weight: float = Field(
        0.0, ge=0, description="Weight of SEC's expansion loss (global weighted rank pooling); DSRG has none."
    )
    crf_unary: Literal["log", "probability"] = Field(
        "log", description="Unary of the training CRF: -log p, or p itself as in the authors' code (smooths far more)."
    )
    crf_scale: float = Field(
        12.0,
        gt=0,
        description="Spatial widths of the training CRF: those of a whole VOC picture (80, 3 pixels) divided by this.\n"
        "12 is SEC's and DSRG's value for maps of 41 x 41 cells.",
    )
    map_stride: int | None = Field(
        None,
        ge=1,
        description="Pixels per cell of the maps on which seeds, CRF and losses live. null: the network's own stride\n"
        "(VGG16 at 321 pixels: 8, 41 x 41 cells). Smaller: the logits are upsampled, which small pictures need.",
    )
    log_quality: bool = Field(
        True,
        description="Log precision, recall and IoU of the grown seeds once an epoch, where the data set has masks of\n"
        "the same pictures; the masks are used for this alone.",
    )

    def inputs(self) -> tuple[str, ...]:
        return ("seeds",)


AnyMethodSettings = Annotated[
    SupervisedSettings | DsrgSettings | DualBranchSettings | CpsSettings, Field(discriminator="name")
]


class TrainConfig(TrainingConfig):
    """A segmenter's training: method, network and optimisation."""

    method: AnyMethodSettings = Field(
        SupervisedSettings(), description="The method and its settings; `semiseg methods` lists them."
    )
    network: NetworkConfig = Field(
        NetworkConfig.model_validate("tiny"), description="The network: a preset's name, or its parts."
    )
    train_split: str = Field("train", description="Split with exact masks (the strong pictures).")
    weak_split: str = Field("weak", description="Split with image-level labels only (the weak pictures).")

    @pydantic.field_validator("method", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and SHORTHAND in value:
            return {"name": value[SHORTHAND]} | {k: v for k, v in value.items() if k != SHORTHAND}
        return value
