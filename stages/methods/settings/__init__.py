"""The settings of every method, and of training with one. No torch: `status`, `config` and `methods` read these."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from stages.config import SHORTHAND
from stages.engine.config import HardExamples, TrainingConfig
from stages.methods.settings.advsemseg import AdvSemSegSettings
from stages.methods.settings.cct import CctSettings
from stages.methods.settings.cpc import CpcSettings
from stages.methods.settings.cps import CpsSettings
from stages.methods.settings.cutmix_seg import CutMixSegSettings
from stages.methods.settings.dmt import DmtSettings
from stages.methods.settings.dsrg import DsrgSettings
from stages.methods.settings.dual_branch import DualBranchSettings
from stages.methods.settings.fixmatch import FixMatchSettings
from stages.methods.settings.gct import GctSettings
from stages.methods.settings.mean_teacher import MeanTeacherSettings
from stages.methods.settings.mlmt import MlmtSettings
from stages.methods.settings.pseudoseg import PseudoSegSettings
from stages.methods.settings.s4gan import S4GanSettings
from stages.methods.settings.self_training import SelfTrainingSettings
from stages.methods.settings.st_plus_plus import StPlusPlusSettings
from stages.methods.settings.supervised import SupervisedSettings
from stages.methods.settings.unimatch import UniMatchSettings
from stages.methods.settings.unimatch_v2 import UniMatchV2Settings
from stages.methods.settings.vat import VatSettings
from stages.networks.config import NetworkConfig

AnyMethodSettings = Annotated[
    SupervisedSettings
    | DsrgSettings
    | DualBranchSettings
    | CpsSettings
    | CpcSettings
    | CctSettings
    | GctSettings
    | PseudoSegSettings
    | MeanTeacherSettings
    | CutMixSegSettings
    | VatSettings
    | FixMatchSettings
    | UniMatchSettings
    | UniMatchV2Settings
    | AdvSemSegSettings
    | S4GanSettings
    | MlmtSettings
    | SelfTrainingSettings
    | StPlusPlusSettings
    | DmtSettings,
    Field(discriminator="name"),
]


class TrainConfig(TrainingConfig):
    """A segmenter's training (a classifier's with mlmt): method, network and optimisation."""

    method: AnyMethodSettings = Field(
        SupervisedSettings(), description="The method and its settings; `semiseg methods` lists them."
    )
    network: NetworkConfig = Field(
        NetworkConfig.model_validate("tiny"), description="The network: a preset's name, or its parts."
    )
    hard_examples: HardExamples | None = Field(
        None, description="OHEM on the exact masks (Cityscapes recipes); null: plain cross-entropy."
    )
    snapshots: int = Field(
        1,
        ge=1,
        description="Weights kept on the way, evenly spaced, the last among them; 1: the last alone. ST++ compares 3,\n"
        "the stage select chooses among them.",
    )
    train_split: str = Field("train", description="Split with exact masks (the strong pictures).")
    weak_split: str = Field("weak", description="Split with image-level labels only (the weak pictures).")

    @pydantic.model_validator(mode="after")
    def _hard_examples_have_a_place(self) -> TrainConfig:
        if self.hard_examples is not None and not self.method.hard_examples:
            raise ValueError(
                f"hard_examples has no effect on {self.method.name}, which has no loss on exact masks alone"
            )
        return self

    @pydantic.field_validator("method", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and SHORTHAND in value:
            return {"name": value[SHORTHAND]} | {k: v for k, v in value.items() if k != SHORTHAND}
        return value
