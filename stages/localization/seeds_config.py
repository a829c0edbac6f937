"""Settings of the stage `seeds`: how class-activation maps are made, and the rules that make label maps of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveFloat

from stages.config import Config, External
from stages.localization.clip_config import ClassifierSource, ClipSource

SALIENT = 0.125  # 32 / 255
MAX_PIXELS = 2_100_000  # an image of 1024 x 2048 is not reduced


def _usually(key: str, value: str | float) -> pydantic.BeforeValidator:
    """Fills in a key that a mapping does not name: which member of a union it stands for, or one of its settings."""
    return pydantic.BeforeValidator(
        lambda given: {key: value, **given} if isinstance(given, dict) else given, json_schema_input_type=dict
    )


class ActivationMapConfig(Config):
    """How class-activation maps of a classifier are made. Not used with the input `maps`, nor with source: clip."""

    scales: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 1.5, 2.0),
        min_length=1,
        description="Factors on the image's sides (AffinityNet, IRNet: .5 1 1.5 2).",
    )
    flip: bool = Field(True, description="Add the mirrored copy of every scale.")
    merge: Literal["sum", "maximum"] = Field(
        "sum",
        description="How the maps of scales and mirrored copies become one. sum: their sum, divided by its maximum.\n"
        "maximum: each is divided by its maximum, the highest counts (DRS).",
    )
    snapshots: Literal["last", "all"] = Field(
        "last",
        description="last: the maps of the classifier. all: of all its snapshots (train-classifier --set\n"
        "snapshots=15), the highest counts, stretched to 0..1: what a network finds changes while it learns\n"
        "(OAA, Group-WSSS).",
    )
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass (and mirrored copies).")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on GPUs that have it, else fp32."
    )


class ComputedSaliency(Config):
    """Background: little saliency by boundary connectivity (Zhu et al., CVPR 2014), computed here, no network."""

    kind: Literal["saliency"] = "saliency"
    threshold: float = Field(0.06, ge=0, le=1, description="Background is below this saliency, 0..1 (DSRG: 0.06).")
    terms: Literal["code", "paper"] = Field(
        "code",
        description="code: as the authors' code computes it, which finds two to three times as much background.\n"
        "paper: as their text has it.",
    )
    superpixels: int | None = Field(
        None, ge=2, description="Superpixels in an image. null: 200 (paper); one per 600 pixels, 200 to 500 (code)."
    )


class SaliencyFolder(Config):
    """Background: little saliency in PNG files made elsewhere (DRFI, PoolNet, ...)."""

    kind: Literal["folder"]
    folder: Annotated[Path, External(), pydantic.AfterValidator(Path.expanduser)] = Field(
        description="Folder with <image id>.png: grey, 8 bits, size of the image, 255 = salient."
    )
    threshold: float = Field(0.06, ge=0, le=1, description="Background is below this value / 255 (DSRG: 0.06).")


class GradientBackground(Config):
    """Background: where the class scores depend least on the image (SEC). Needs the classifier."""

    kind: Literal["gradient"]
    share: float = Field(0.10, gt=0, lt=1, description="Share of the positions with the lowest |gradient| (SEC: 0.10).")


class ActivationBackground(Config):
    """Background: where (1 - highest score)^alpha exceeds every class (AffinityNet)."""

    kind: Literal["cam"]
    alpha: float = Field(
        gt=0, description="Exponent; the higher, the less background (AffinityNet: 32 for seeds, 16 for dense masks)."
    )


class ConstantBackground(Config):
    """Background: where no class reaches a fixed score."""

    kind: Literal["constant"] = "constant"
    score: float = Field(0.2, ge=0, le=1, description="Score of the background, 0..1 (AffinityNet: 0.2, IRNet: 0.15).")


class NoBackground(Config):
    """No pixel is known to be background."""

    kind: Literal["none"]


Background = Annotated[
    ComputedSaliency | SaliencyFolder | GradientBackground | ActivationBackground | NoBackground,
    Field(discriminator="kind"),
    _usually("kind", "saliency"),
]


class SeedRule(Config):
    """Sparse seeds with unknown pixels (SEC, DSRG)."""

    mode: Literal["seeds"] = "seeds"
    threshold: float = Field(
        0.2,
        gt=0,
        le=1,
        description="A class may have the pixels from this share of its map's maximum on (SEC, DSRG: 0.2).",
    )
    background: Background = Field(
        ComputedSaliency.model_validate({}),
        description="Where background seeds come from: kind saliency (computed), folder (PNG files), gradient (SEC),\n"
        "cam (AffinityNet's (1 - max)^alpha) or none.",
    )
    overlap: Literal["smaller_area", "highest_score"] = Field(
        "smaller_area",
        description="Which of several classes that may have a pixel gets it: the one with the smaller area (SEC),\n"
        "or the one with the highest score.",
    )
    conflict: Literal["foreground", "ignore", "background"] = Field(
        "foreground", description="The label of a pixel that both a class may have and the background."
    )


class DenseRule(Config):
    """Full masks without unknown pixels: the highest score, or background where none is high enough."""

    mode: Literal["dense"]
    background: Annotated[
        ConstantBackground | ActivationBackground, Field(discriminator="kind"), _usually("kind", "constant")
    ] = Field(
        ConstantBackground.model_validate({}),
        description="The background's score: kind constant, or cam: (1 - highest score)^alpha (AffinityNet).",
    )


class SaliencyRule(Config):
    """Masks whose background score is 1 - saliency, unknown where the sources disagree (DRS, Group-WSSS)."""

    mode: Literal["saliency"]
    background: Annotated[
        ComputedSaliency | SaliencyFolder,
        Field(discriminator="kind"),
        _usually("kind", "saliency"),
        _usually("threshold", SALIENT),
    ] = Field(
        ComputedSaliency(threshold=SALIENT),
        description="Saliency: kind saliency (computed) or folder (PNG files). Pixels without a class are background\n"
        "below its threshold, unknown from it on (Group-WSSS: 32 / 255, .125; DRS: 51 / 255, .2).",
    )
    score: Literal["graded", "binary"] = Field(
        "graded",
        description="Score of the background. graded: 1 - saliency (Group-WSSS). binary: 1 below the threshold,\n"
        "else 0 (DRS).",
    )
    threshold: float = Field(
        0.0, ge=0, le=1, description="Lower scores of classes count as 0 (Group-WSSS: 0; DRS: .2)."
    )
    sure: float = Field(0.9, ge=0, le=1, description="A score above this is sure (both: .9).")
    most_sure: int = Field(
        1,
        ge=1,
        description="A pixel with more sure scores, the background's among them, is unknown (Group-WSSS: 1; DRS: 2).",
    )
    attended: float = Field(
        0.8,
        ge=0,
        le=1,
        description="A pixel of the background with a score of a class above this is unknown (Group-WSSS: .8; DRS: 1,\n"
        "never).",
    )
    least: float = Field(
        0.01,
        ge=0,
        le=1,
        description="With a smaller share of pixels of classes the whole image is unknown (Group-WSSS: .01; DRS: 0).",
    )


class SeedsConfig(Config):
    """Class-activation maps and the label maps made of them."""

    splits: tuple[Literal["train", "holdout", "weak", "val"], ...] = Field(
        ("train", "weak"), min_length=1, description="Splits of the data set whose images are labelled."
    )
    source: ClassifierSource | ClipSource = Field(
        ClassifierSource(),
        discriminator="name",
        description="What finds the objects. classifier: one that was trained (train-classifier). clip: CLIP, by the\n"
        "texts of the classes, without training (CLIP-ES). Not used with the input maps.",
    )
    cam: ActivationMapConfig = Field(
        ActivationMapConfig.model_validate({}), description="The class-activation maps of a classifier."
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1024,
        description="The network sees a larger image as a copy of this many pixels, which bounds the memory.\n"
        "Maps and labels nevertheless have the size of the image.",
    )
    labels: Annotated[SeedRule | DenseRule | SaliencyRule, Field(discriminator="mode"), _usually("mode", "seeds")] = (
        Field(
            SeedRule.model_validate({}),
            description="mode seeds: sparse, 255 where unknown, for dsrg. mode dense: full masks, usable as weak\n"
            "labels. mode saliency: masks by saliency, 255 where sources disagree (DRS, Group-WSSS).",
        )
    )

    @pydantic.model_validator(mode="after")
    def _no_cam_of_clip(self) -> SeedsConfig:
        if isinstance(self.source, ClipSource) and self.cam != ActivationMapConfig.model_validate({}):
            raise ValueError("cam is of classifiers, and has no effect with source: clip, whose settings are source.*")
        return self
