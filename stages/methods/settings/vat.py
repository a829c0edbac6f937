"""Settings and card of VAT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import (
    Card,
    ConfidentSettings,
)


class VatSettings(ConfidentSettings):
    """Virtual adversarial training on images (as French et al. compare with) or on features (I-VAT of CCT)."""

    card: ClassVar[Card] = Card(
        title="Virtual adversarial training on images or features, with a mean teacher",
        paper="Miyato et al., PAMI 2019; French et al., BMVC 2020; Ouali et al., CVPR 2020",
        uses=("masks", "images"),
        forward=5,
        backward=3,
        beside="2 of them forward and 1 backward for d, 1 forward of the teacher",
        sources=("French et al.'s code: weight .1, radius 1 adaptive", "CCT's code (features): radius 2, KL"),
        inference="the teacher (evaluate student: the network)",
    )
    name: Literal["vat"] = "vat"
    level: Literal["image", "feature"] = Field(
        "image",
        description="What gets the noise. image: the images; direction from the teacher and the squared\n"
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
        description="r. feature: the length (L2) of an image's noise. image: see adaptive. null: the published value,\n"
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
        description="Length of the probing step. null: .01 of the length of image or features. Published: 1e-6\n"
        "(image: times height x width / 1000), of which single precision keeps only rounding noise.",
    )
