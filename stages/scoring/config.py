"""Configs of prediction and of the dense CRF, for every stage that predicts or refines. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pydantic
from pydantic import Field

from stages.config import Config
from stages.scoring.dense_crf import PARAMETERS, CrfParameters, named_parameters


class InferenceConfig(Config):
    """How a picture is predicted: whole, at which scales, mirrored or not, and how these views become one."""

    scales: tuple[float, ...] = Field(
        (1.0,),
        description="Factors by which the picture is resized. 1: as it is (the protocol of most papers).\n"
        "DSRG: [0.75, 1, 1.25]; SEAM: [0.5, 0.75, 1, 1.25, 1.5, 1.75] with flip.",
    )
    flip: bool = Field(False, description="Also predict the mirrored picture and take the mean of the two.")
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
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on a GPU that has it, else fp32."
    )

    @pydantic.field_validator("scales")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < scale <= 8 for scale in value):
            raise ValueError("expected one or more numbers between 0 and 8")
        return value


class CrfConfig(Config):
    """A published parameter set of the dense CRF, with single values replaced where wanted."""

    parameters: str = Field(
        "dsrg-test",
        description="Parameter set: "
        + ", ".join(PARAMETERS)
        + ".\nEach value below replaces the set's own; empty: kept.",
    )
    scale: float = Field(
        1.0,
        gt=0,
        description="How many times smaller the pictures are than those the set was made for (VOC: 500 pixels on the\n"
        "long side; pictures of 160: 3.1). Divides the position widths; the colour width stays.",
    )
    iterations: int | None = Field(None, ge=0, description="Mean-field iterations (10 in most sets; SEAM, Puzzle: 1).")
    gaussian_sxy: float | None = Field(None, gt=0, description="Position kernel: standard deviation, pixels.")
    gaussian_compat: float | None = Field(None, ge=0, description="Position kernel: weight.")
    bilateral_sxy: float | None = Field(None, gt=0, description="Colour kernel: standard deviation, pixels.")
    bilateral_srgb: float | None = Field(None, gt=0, description="Colour kernel: standard deviation, grey levels.")
    bilateral_compat: float | None = Field(None, ge=0, description="Colour kernel: weight.")
    unary: Literal["log", "probability", "labels"] | None = Field(
        None,
        description="Energy of a label: log: -log p. probability: -p (smooths far more). labels: from the argmax,\n"
        "with label_confidence for the label it names.",
    )
    label_confidence: float | None = Field(None, gt=0, lt=1, description="For unary labels: 0.7 in IRNet, 0.5 in ICD.")
    max_pixels: int = Field(
        4_200_000,
        ge=256,
        description="A larger picture is refined on a copy of so many pixels, with position widths as much smaller,\n"
        "which bounds the memory. The mask has the size of the picture all the same.",
    )

    @pydantic.field_validator("parameters")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PARAMETERS:
            raise ValueError(f"no parameter set is called so; known: {', '.join(PARAMETERS)}")
        return value

    def resolve(self) -> CrfParameters:
        """The parameter set with the replaced values, at its scale."""
        fields = {field.name for field in dataclasses.fields(CrfParameters)}
        given = {name: getattr(self, name) for name in CrfConfig.model_fields if name in fields}
        chosen = dataclasses.replace(
            named_parameters(self.parameters), **{name: value for name, value in given.items() if value is not None}
        )
        return chosen.at_scale(self.scale)
