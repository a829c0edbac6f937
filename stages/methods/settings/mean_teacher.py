"""Settings and card of mean-teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
from pydantic import Field

from stages.engine.config import (
    Share,
    StrongAugmentationSettings,
)
from stages.methods.settings.base import (
    CONFIDENCE,
    REDUCTION,
    SURE,
    Card,
    Reduction,
    TeacherStudentSettings,
    TrainingTeacherSettings,
)


class MeanTeacherSettings(TeacherStudentSettings):
    """Tarvainen & Valpola, NeurIPS 2017, per pixel: the network agrees with its own average over the steps.

    Defaults: TorchSemiSeg, which CPS compares with. PixelSSL: consistency logits, weight 1, images unlabelled, ramp.
    French et al. without CutMix: reduction sum, weight 1, images unlabelled, threshold .97, strong, evaluate teacher.
    """

    card: ClassVar[Card] = Card(
        title="Mean teacher: consistency with the average of the network's weights",
        paper="Tarvainen & Valpola, NeurIPS 2017",
        uses=("masks", "images"),
        forward=4,
        backward=2,
        beside="2 of the forward passes are the teacher's",
        sources=("TorchSemiSeg's code: MSE on softmax, weight 100", "PixelSSL's code: MSE on logits, weight 1, ramp"),
        recipe="voc-blended",
        inference="the student (evaluate teacher: the average)",
    )
    name: Literal["mean-teacher"] = "mean-teacher"
    consistency: Literal["softmax", "logits"] = Field(
        "softmax",
        description="What has to agree: probabilities (TorchSemiSeg) or logits (PixelSSL; unbounded: a weight\n"
        "suits one network only; with image_labels ignore).",
    )
    reduction: Reduction = Field("mean", description=f"{REDUCTION} Published: mean.")
    images: Literal["all", "unlabelled"] = Field(
        "all", description="On which images: labelled and unlabelled (TorchSemiSeg), or unlabelled (PixelSSL)."
    )
    joint_pass: bool = Field(
        False,
        description="Labelled and unlabelled images go through each network together, which matters to BatchNorm\n"
        "(PixelSSL), or one kind after the other (TorchSemiSeg, French et al.).",
    )
    weight: float = Field(
        100.0, ge=0, description="w of the consistency (TorchSemiSeg: 100 on softmax; PixelSSL: 1 on logits)."
    )
    ramp: Share = Field(
        0.0,
        description="Share of all iterations in which the weight rises as exp(-5 (1 - t)^2), from 0.0067 on.\n"
        "TorchSemiSeg: none; PixelSSL at 1/8: 5 of 45 epochs (.11) with PSPNet, 3 of 20 (.15) with DeepLabv2.",
    )
    teacher: TrainingTeacherSettings = Field(
        TrainingTeacherSettings(warmup=False),
        description="The average (TorchSemiSeg: .99 from the first step on, parameters alone, in train mode;\n"
        "PixelSSL: the same with the warm-up).",
    )
    strong: StrongAugmentationSettings | None = Field(
        None,
        description="Strong view of the unlabelled images for the student, the teacher sees the weak one; {}: the\n"
        "usual one. null: both see the same (published).",
    )
    threshold: Share = Field(0.0, description=f"{SURE} Both codes: 0; French et al.: .97, on probabilities.")
    confidence: Literal["batch", "pixel"] = Field("batch", description=CONFIDENCE)
    evaluate: Literal["student", "teacher"] = Field(
        "student",
        description="What is evaluated and published (TorchSemiSeg: the student; French et al.: the teacher).",
    )

    @pydantic.model_validator(mode="after")
    def _probabilities(self) -> MeanTeacherSettings:
        if self.threshold > 0 and self.consistency == "logits":
            raise ValueError("a threshold is one of probabilities: it goes with consistency softmax")
        return self

    @pydantic.model_validator(mode="after")
    def _probabilities_are_shared(self) -> MeanTeacherSettings:
        if self.image_labels != "ignore" and self.consistency == "logits":
            raise ValueError(
                f"image_labels {self.image_labels} acts on probabilities, and consistency is of logits: "
                "image_labels=ignore (published), or consistency=softmax"
            )
        return self

    def labels_masked(self) -> bool:
        return self.images == "all"
