"""Settings of the methods that want one prediction under changes of picture, network or features."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
from pydantic import Field

from stages.config import Config
from stages.engine.config import CutMixSettings, Share, StrongAugmentationSettings, TeacherSettings
from stages.methods.settings.base import REDUCTION, Card, Reduction, SemiSupervisedSettings, TeacherStudentSettings


class CctDecoders(Config):
    """How many auxiliary decoders see which perturbation of the features; 30 as published."""

    vat: int = Field(2, ge=0, description="I-VAT: noise in the direction that changes this decoder's output most.")
    dropout: int = Field(6, ge=0, description="DropOut: channels are dropped.")
    cutout: int = Field(6, ge=0, description="G-Cutout: a box inside each predicted object is erased.")
    context: int = Field(2, ge=0, description="Con-Msk: only what is predicted as foreground is kept.")
    object: int = Field(2, ge=0, description="Obj-Msk: only what is predicted as background is kept.")
    feature_drop: int = Field(6, ge=0, description="F-Drop: the strongest cells are dropped.")
    feature_noise: int = Field(6, ge=0, description="F-Noise: features grow and shrink at random.")

    def kinds(self) -> list[str]:
        """The kind of every decoder, in order."""
        return [kind for kind in type(self).model_fields for _ in range(getattr(self, kind))]

    @pydantic.model_validator(mode="after")
    def _some(self) -> CctDecoders:
        if not self.kinds():
            raise ValueError("cct needs at least one auxiliary decoder")
        return self


class CctSettings(SemiSupervisedSettings):
    """Ouali et al., CVPR 2020: auxiliary decoders predict from perturbed features what the main one sees in clean ones.

    Published values: the paper's and those of the config of its code.
    """

    card: ClassVar[Card] = Card(
        title="Cross-consistency training: one encoder, many decoders on perturbed features",
        paper="Ouali, Hudelot & Tami, CVPR 2020",
        uses=("masks", "pictures"),
        place="stages.methods.cct:Cct",
        loss="L = CE(g(e(x)), y) + w r(t) 1/K sum_k MSE(softmax g_k(p_k(e(u))), softmax g(e(u)))\n"
        "p_k: seven kinds of perturbation; r: sigmoid ramp",
        forward=2,
        backward=2,
        beside="K decoders forward and backward",
        sources=("Ouali et al., CVPR 2020", "its code: numbers of decoders, MSE over pixels and classes"),
        inference="encoder and main decoder",
    )
    name: Literal["cct"] = "cct"
    weight: float = Field(30.0, ge=0, description="w of the unlabelled loss (authors' config: 30).")
    ramp: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of all iterations in which the weight rises as exp(-5 (1 - t)^2) (published).",
    )
    decoder: Literal["published", "head"] = Field(
        "published",
        description="The auxiliary decoders. published: 1x1 convolutions and PixelShuffle x2 up to the pictures.\n"
        "head: heads like the segmenter's (for output strides that are no power of two, too).",
    )
    decoders: CctDecoders = Field(CctDecoders(), description="Auxiliary decoders by kind.")
    vat_radius: float = Field(
        2.0,
        ge=0,
        description="I-VAT: length (L2) of a picture's noise (as published; .003 in effect in the authors' code).",
    )
    vat_step: float = Field(
        0.01,
        gt=0,
        description="I-VAT: length of the step that finds the direction, as a share of the features' own length.\n"
        "Published: 1e-6 absolute, which single precision rounds away beside features.",
    )
    dropout_rate: float = Field(0.5, ge=0, lt=1, description="DropOut: probability of dropping a channel (published).")
    erase: float = Field(0.4, ge=0, le=1, description="G-Cutout: height and width of the erased box, of the object's.")
    min_contour: int = Field(
        50, ge=0, description="G-Cutout: objects with a longer border than this, in pixels, count (published)."
    )
    drop_range: tuple[Share, Share] = Field(
        (0.7, 0.9), description="F-Drop: cells above this share of the strongest are dropped, drawn uniformly (paper)."
    )
    noise: float = Field(0.3, ge=0, description="F-Noise: largest relative change of a feature (published).")

    @pydantic.field_validator("drop_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("expected two shares, the smaller first")
        return value


SURE = "The teacher is sure where its highest probability reaches this; 0: everywhere."
CONFIDENCE = (
    "batch: the share of sure pixels of the joint batch, padding included, multiplies the loss (French et al.).\n"
    "pixel: sure pixels alone are taught (an option of their code)."
)


class TrainingTeacherSettings(TeacherSettings):
    """A teacher in train mode that gathers statistics of its own, unless told otherwise."""

    average: Literal["parameters", "floats"] = Field(
        "parameters", description=TeacherSettings.model_fields["average"].description
    )
    mode: Literal["eval", "train"] = Field("train", description=TeacherSettings.model_fields["mode"].description)


class MeanTeacherSettings(TeacherStudentSettings):
    """Tarvainen & Valpola, NeurIPS 2017, per pixel: the network agrees with its own average over the steps.

    Defaults: TorchSemiSeg, which CPS compares with. PixelSSL: consistency logits, weight 1, pictures unlabelled, ramp.
    French et al. without CutMix: reduction sum, weight 1, pictures unlabelled, threshold .97, strong, evaluate teacher.
    """

    card: ClassVar[Card] = Card(
        title="Mean teacher: consistency with the average of the network's weights",
        paper="Tarvainen & Valpola, NeurIPS 2017",
        uses=("masks", "pictures"),
        place="stages.methods.mean_teacher:MeanTeacher",
        loss="L = CE(s(x), y) + w r(t) mean_V (softmax s(z) - softmax t(z))^2,  t: average of s\n"
        "z: labelled and unlabelled pictures; consistency logits: without the softmax",
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
        "suits one network only).",
    )
    reduction: Reduction = Field("mean", description=f"{REDUCTION} Published: mean.")
    pictures: Literal["all", "unlabelled"] = Field(
        "all", description="Where they have to agree: labelled and unlabelled (TorchSemiSeg), or unlabelled (PixelSSL)."
    )
    joint_pass: bool = Field(
        False,
        description="Labelled and unlabelled pictures go through each network together, which matters to BatchNorm\n"
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
        description="Strong view of the unlabelled pictures for the student, the teacher sees the weak one; {}: the\n"
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


class ConfidentSettings(TeacherStudentSettings):
    """What French et al.'s two methods share: consistency with a teacher, as far as that is sure."""

    threshold: Share = Field(0.97, description=f"{SURE} Published: .97.")
    confidence: Literal["batch", "pixel"] = Field("batch", description=CONFIDENCE)
    reduction: Reduction = Field("sum", description=f"{REDUCTION} Published: sum (PixelSSL's CutMix: mean, weight 20).")
    teacher: TeacherSettings = Field(
        TeacherSettings(warmup=False),
        description="The average (authors' code: .99 from the first step on, all floats, BatchNorm frozen).",
    )


class CutMixSegSettings(ConfidentSettings):
    """French et al., BMVC 2020: the student sees two pictures mixed, the teacher has seen each of them whole."""

    card: ClassVar[Card] = Card(
        title="CutMix-Seg: mean teacher on pictures mixed by CutMix",
        paper="French, Laine, Aila, Mackiewicz & Finlayson, BMVC 2020",
        uses=("masks", "pictures"),
        place="stages.methods.cutmix_seg:CutMixSeg",
        loss="L = CE(s(x), y) + w c mean_V sum_c (softmax s(mix(u0, u1)) - mix(P0, P1))^2,  Pi = softmax t(ui)\n"
        "c: share of pixels with max mix(P0, P1) >= .97; t: average of s",
        forward=4,
        backward=2,
        beside="2 of the forward passes are the teacher's",
        sources=(
            "French et al., BMVC 2020",
            "its code: Adam, 3e-5, teacher .99, one box of half the picture",
        ),
        inference="the teacher (evaluate student: the network)",
    )
    name: Literal["cutmix-seg"] = "cutmix-seg"
    weight: float = Field(1.0, ge=0, description="w of the consistency (authors' code: 1).")
    mixing: CutMixSettings = Field(
        CutMixSettings(), description="The boxes of CutMix (published: one, of half the area)."
    )


class VatSettings(ConfidentSettings):
    """Virtual adversarial training on pictures (as French et al. compare with) or on features (I-VAT of CCT)."""

    card: ClassVar[Card] = Card(
        title="Virtual adversarial training on pictures or features, with a mean teacher",
        paper="Miyato et al., PAMI 2019; French et al., BMVC 2020; Ouali et al., CVPR 2020",
        uses=("masks", "pictures"),
        place="stages.methods.vat:Vat",
        loss="L = CE(s(x), y) + w c mean_V sum_c (softmax s(u + r d) - softmax t(u))^2,  t: average of s\n"
        "d: the unit direction that changes the prediction most; level feature: added to the features of u",
        forward=5,
        backward=3,
        beside="2 of them forward and 1 backward for d, 1 forward of the teacher",
        sources=("French et al.'s code: weight .1, radius 1 adaptive", "CCT's code (features): radius 2, KL"),
        inference="the teacher (evaluate student: the network)",
    )
    name: Literal["vat"] = "vat"
    level: Literal["image", "feature"] = Field(
        "image",
        description="What the noise is added to. image: the pictures; direction from the teacher and the squared\n"
        "difference. feature: what the head sees; direction from the student's head and the KL divergence.",
    )
    weight: float = Field(
        0.1,
        ge=0,
        description="w of the consistency (French et al.: .1. CCT's 30 for the mean over classes, of all its kinds of\n"
        "noise together, is 1.4 for the sum over 21).",
    )
    radius: float | None = Field(
        None,
        ge=0,
        description="r. feature: the length (L2) of a picture's noise. image: see adaptive. null: the published one,\n"
        "1 for image (VOC), 2 for feature.",
    )
    adaptive: bool = Field(
        True,
        description="Level image. true: r is the radius times half the root of the summed squared differences of\n"
        "pixels two apart (published). false: times the root of the number of values.",
    )
    iterations: int = Field(1, ge=1, description="Steps of the power method (published: 1).")
    xi: float | None = Field(
        None,
        gt=0,
        description="Length of the probing step. null: .01 of the length of picture or features. Published: 1e-6\n"
        "(image: times height x width / 1000), of which single precision leaves rounding noise.",
    )
