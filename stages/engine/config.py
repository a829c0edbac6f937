"""Configs shared by all trainings. No torch here: `--help` and `status` read them."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from stages.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
ImageLabels = Literal["ignore", "share", "exclude"]
IMAGE_LABELS = (
    "What the image-level labels do to a pseudo label. ignore: nothing (published). share: the background keeps its\n"
    "probability, and that of all foreground classes together goes to the image's labels. exclude: absent classes get\n"
    "probability 0, all others are renormalised; an object taken for an absent class becomes background.\n"
    "Images without known labels are predicted as they are."
)
RESTRICT_TO_LABELS = {
    "restrict_to_labels": "image_labels: exclude (what true was), ignore (what false was) or, for pseudo labels "
    "of your own data, share"
}
"""`Config.renamed` of the stages that had this key."""


class AugmentationConfig(Config):
    """Random changes of a training image; label maps follow its geometry, pixel by pixel."""

    mode: Literal["crop", "resize"] = Field(
        "crop",
        description="crop: random scale, then a random crop_size square (smaller images are padded at the right and\n"
        "bottom, labels there are 255). resize: the whole image to crop_size x crop_size (SEC, DSRG).",
    )
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="Range of the random scale factor, uniform. Used by mode crop."
    )
    scales: tuple[pydantic.PositiveFloat, ...] = Field(
        (), description="If given, the scale is drawn from these values instead (CPS: .5 .75 1 1.5 1.75 2)."
    )
    flip: bool = Field(True, description="Mirror horizontally with probability 0.5.")
    brightness: float = Field(0.0, ge=0, le=1, description="Brightness factor in [1-x, 1+x]. 0: off.")
    contrast: float = Field(0.0, ge=0, le=1, description="Contrast factor in [1-x, 1+x]. 0: off.")
    saturation: float = Field(0.0, ge=0, le=1, description="Saturation factor in [1-x, 1+x]. 0: off.")
    views: int | None = Field(
        None,
        ge=1,
        description="Show each image in this many fixed views, of which a sample is one: scale, crop and colours are\n"
        "drawn once for each image, alike for all seeds; with flip, every second view mirrors the one before.\n"
        "null: each sample is a new draw. Kept features (the stage features) are those of fixed views; of whole\n"
        "images (mode resize) there are 2.",
    )

    @pydantic.field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two positive numbers, the smaller first")
        return value


class OptimizerConfig(Config):
    """The optimiser and the learning rates of its parameter groups."""

    shorthand = "name"
    name: Literal["sgd", "adam", "adamw"] = Field(
        "sgd", description="sgd, adam (decay added to the gradient) or adamw."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate of pretrained weights, for the whole batch_size.")
    new_lr_factor: float = Field(10.0, gt=0, description="New layers (neck, head): lr is multiplied by this.")
    bias_lr_factor: float = Field(1.0, gt=0, description="Biases: lr is multiplied by this (DeepLab, DSRG: 2).")
    decay_biases: bool = Field(
        False,
        description="Whether weight decay acts on biases and normalisation parameters too (torch's default: yes).",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(False, description="Nesterov momentum of sgd.")
    betas: tuple[float, float] = Field(
        (0.9, 0.999),
        description="Decay of adam's and adamw's averages of gradients and squares (discriminators: .9 .99).",
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay.")

    @pydantic.field_validator("betas")
    @classmethod
    def _decays(cls, value: tuple[float, float]) -> tuple[float, float]:
        if any(not 0 <= beta < 1 for beta in value):
            raise ValueError("expected two numbers from 0 on and below 1")
        return value

    @pydantic.model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd and a momentum above 0")
        return self


class ScheduleConfig(Config):
    """The learning rate over the iterations, as a factor on every group."""

    shorthand = "name"
    name: Literal["poly", "cosine", "step", "constant"] = Field(
        "poly",
        description="poly: (1 - t/T)^power. cosine: from 1 to `last` along half a wave. step: times gamma after each\n"
        "milestone. constant: 1.",
    )
    last: float = Field(0.0, ge=0, le=1, description="Of cosine: the factor at the end.")
    power: float = Field(0.9, gt=0, description="Power of poly.")
    milestones: tuple[float, ...] = Field((), description="Of step: fractions of all iterations, for example [0.6].")
    gamma: float = Field(0.1, gt=0, le=1, description="Of step: the factor after each milestone.")
    warmup: int = Field(0, ge=0, description="Iterations in which the factor rises linearly from 0.")

    @pydantic.field_validator("milestones")
    @classmethod
    def _fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(value) or any(not 0 < m < 1 for m in value):
            raise ValueError("expected rising fractions between 0 and 1")
        return value

    @pydantic.model_validator(mode="after")
    def _milestones_belong_to_step(self) -> ScheduleConfig:
        if (self.name == "step") != bool(self.milestones):
            raise ValueError("milestones belong to the schedule step, and step needs some")
        return self


class TrainingConfig(Config):
    """The settings of every training, of segmenters and classifiers."""

    iterations: int = Field(1000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(16, ge=1, description="Images of one step, over all streams and processes.")
    crop_size: int = Field(321, ge=16, description="Side of the square training crop, pixels.")
    augmentation: AugmentationConfig = Field(AugmentationConfig(), description="Random changes of the images.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="The optimiser.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning rate over time.")
    clip_grad_norm: float | None = Field(None, gt=0, description="Clip the gradient's total L2 norm; null: off.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Keep an exponential moving average of the predictor with this decay and publish it instead of\n"
        "the last weights; null: off.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the forward pass. auto: bf16 on a GPU that has it, else fp32."
    )
    compile: bool = Field(
        False,
        description="torch.compile the backbones, necks and heads: fewer and larger operations on a GPU. The first\n"
        "step takes minutes. Results differ by rounding, and by dropout, which is drawn in another way.",
    )
    cuda_graphs: bool = Field(
        True,
        description="On a GPU, record the operations of backbones, necks and heads in the third step and replay them:\n"
        "the GPU waits less for the host. Results are the same. Not with compile or several processes, and not when\n"
        "memory is short.",
    )
    log_every: int = Field(20, ge=1, description="Steps between two lines of metrics.jsonl.")
    log_images: int = Field(
        3,
        ge=0,
        description="Steps whose images are drawn as the networks see them, with what they are taught of them\n"
        "(local/batches/, and TensorBoard): the first, the last, and evenly between them. 0: none. No result depends\n"
        "on it.",
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, sampling, augmentation and dropout.")


class HardExamples(Config):
    """Online hard example mining: the supervised loss takes only pixels that the network gets wrong (OHEM)."""

    threshold: float = Field(
        0.7, gt=0, lt=1, description="Pixels whose true class has a lower probability than this are taken."
    )
    min_kept: int = Field(
        200_000,
        ge=1,
        description="At least the hardest this many pixels of the joint labelled batch are taken (Cityscapes:\n"
        "UniMatch 100000 a crop of 801 pixels, CPS 50000 a crop of 800).",
    )


class CutMixSettings(Config):
    """CutMix: boxes in which the pixels of an image are replaced by those of a second image."""

    style: Literal["french", "unimatch"] = Field(
        "french",
        description="french: n boxes that cover a drawn share, log-uniform aspect, overlaps cancel (French et al.,\n"
        "BMVC 2020; CPS). unimatch: one box of 2 to 40 % of the area, aspect .3 to 3.3 (CutMix as UniMatch draws it);\n"
        "boxes and share do not matter then.",
    )
    boxes: int = Field(1, ge=1, description="Boxes an image (CutMix-Seg: 1, CPS: 3).")
    share: tuple[float, float] = Field(
        (0.5, 0.5), description="Share of the image that the boxes cover, drawn uniformly (CPS: .25 to .5)."
    )

    chance: Share | None = Field(
        None, description="Probability that an image has boxes at all; 0: none. null: 1 (french), .5 (unimatch)."
    )

    @pydantic.field_validator("share")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares above 0 and up to 1, the smaller first")
        return value


class StrongAugmentationSettings(Config):
    """Colour changes, blur and cutouts of a strong view. The geometry is that of the weak view, pixel by pixel.

    Defaults: the strong augmentation of ST++ and UniMatch, which has no cutouts.
    """

    jitter: Share = Field(0.8, description="Probability of changing brightness, contrast, saturation and hue.")
    brightness: Share = Field(0.5, description="Brightness factor in [1-x, 1+x].")
    contrast: Share = Field(0.5, description="Contrast factor in [1-x, 1+x].")
    saturation: Share = Field(0.5, description="Saturation factor in [1-x, 1+x].")
    hue: float = Field(0.25, ge=0, le=0.5, description="Hue shift in [-x, x] of the colour circle.")
    grey: Share = Field(0.2, description="Probability of losing all colour.")
    blur: Share = Field(0.5, description="Probability of a Gaussian blur.")
    blur_sigma: tuple[float, float] = Field((0.1, 2.0), description="Its sigma in pixels, drawn uniformly.")
    cutout: Share = Field(0.0, description="Probability of a cutout; its pixels are left out of the loss (ST: .5).")
    cutout_area: tuple[float, float] = Field(
        (0.02, 0.4),
        description="Share of the image that the cutout covers (ST). It is drawn again, with shape and place, until\n"
        "the cutout fits, so that small ones are more frequent.",
    )
    cutout_ratio: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Height to width of the cutout: drawn between this and its inverse. 1: a square.",
    )
    cutout_fill: Literal["noise", "mean"] = Field("noise", description="noise: random colours (ST). mean: ImageNet's.")

    @pydantic.field_validator("blur_sigma", "cutout_area")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two positive numbers, the smaller first")
        return value


class ClampSettings(Config):
    """Pixels of estimated masks whose loss is far above that around them stop to teach (WeakTr, Zhu et al. 2023)."""

    start: float = Field(
        1.2, gt=0, description="Only once the mean loss of a batch on estimated masks is this or less (code: 1.2)."
    )
    patches: int = Field(
        4,
        ge=1,
        le=64,
        description="The loss around a pixel: of its patch, this many along each side (code: 120 of 480 pixels).",
    )


class AdaptiveThresholdSettings(Config):
    """A threshold that follows the confidence of the network (CorrMatch, Sun et al., CVPR 2024)."""

    start: Share = Field(0.85, description="Its value at the first step (code: .85 on VOC).")
    momentum: Share = Field(0.999, description="What remains of it in a step; the rest is the batch's (code: .999).")


class GuidanceSettings(Config):
    """Estimated masks of any origin as a second teacher, whose weight decays (SemiVL, Hoyer et al., ECCV 2024)."""

    weight: float = Field(
        0.1, gt=0, description="Weight at the first step; it falls to 0 at the last, along a line (code: .1)."
    )


class TeacherSettings(Config):
    """An averaged copy of the network: theta' <- a theta' + (1 - a) theta, a the decay, smaller in the first steps."""

    decay: float = Field(0.99, ge=0, lt=1, description="a; 0: the teacher is the network after the last step.")
    warmup: bool = Field(
        True,
        description="true: a = min(1 - 1/(t + 1), decay) after step t = 0, 1, ...: a plain mean at first (PixelSSL,\n"
        "UniMatch V2, MLMT). false: a is the decay from the first step on (TorchSemiSeg, French et al.).",
    )
    average: Literal["parameters", "floats"] = Field(
        "floats",
        description="floats: parameters and the running statistics of BatchNorm (CutMix-Seg, UniMatch V2).\n"
        "parameters: these alone, the teacher gathers statistics of its own (TorchSemiSeg, PixelSSL);\n"
        "needs mode train.",
    )
    mode: Literal["eval", "train"] = Field(
        "eval", description="eval: running statistics, no dropout. train: as the student (TorchSemiSeg, PixelSSL)."
    )

    @pydantic.model_validator(mode="after")
    def _own_statistics_need_training(self) -> TeacherSettings:
        if self.average == "parameters" and self.mode == "eval":
            raise ValueError("average parameters needs mode train: the teacher would keep its first statistics")
        return self


class InferenceConfig(Config):
    """How an image is predicted: whole, at which scales, mirrored or not, and how these views become one."""

    scales: tuple[float, ...] = Field(
        (1.0,),
        description="Factors by which the image is resized. 1: as it is (the protocol of most papers).\n"
        "DSRG: [0.75, 1, 1.25]; SEAM: [0.5, 0.75, 1, 1.25, 1.5, 1.75] with flip.",
    )
    flip: bool = Field(False, description="Also predict the mirrored image and take the mean of the two.")
    merge: Literal["logits", "logits-sum", "probabilities"] = Field(
        "logits",
        description="How views become one. logits: mean of the logits, then softmax (SEAM). logits-sum: sum, then\n"
        "softmax, which is sharper (DSRG, Puzzle-CAM). probabilities: mean of the softmax of each view.",
    )
    window: int | None = Field(
        None,
        ge=16,
        description="Slide a square window of this side over each view, in steps of two thirds of it, and average the\n"
        "probabilities where windows overlap (Cityscapes: 801). null: each view whole, up to whole_pixels.",
    )
    whole_pixels: int = Field(
        8_400_000,
        ge=256,
        description="A view of more pixels is predicted in windows of 1024 pixels (the side of `window` where that is\n"
        "given), which bounds the memory. 1024 x 2048 at scale 2 is just whole.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on a GPU that has it, else fp32. fp16: on a GPU."
    )

    @pydantic.field_validator("scales")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < scale <= 8 for scale in value):
            raise ValueError("expected one or more numbers between 0 and 8")
        return value


class ImageConfig(InferenceConfig):
    """How an image becomes a mask."""

    renamed = RESTRICT_TO_LABELS
    white: float = Field(
        0,
        ge=0,
        description="With images: the value that is white in images of more than 8 bits, as the data set was\n"
        "prepared with (dataset.white). 0: what a file declares, see prepare-data.",
    )
    image_labels: ImageLabels = Field(
        "ignore",
        description=f"{IMAGE_LABELS}\n"
        "For pseudo labels, not for val. With a classifier, the classes that it does not see are absent, too; with\n"
        "ignore they are excluded, whatever the labels.",
    )
    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="Pixels of a mask whose highest probability is below this become 255 (unknown)."
    )
