"""Configs of prediction and of the dense CRF, for every stage that predicts or refines. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pydantic
from pydantic import Field

from stages.config import Config
from stages.localization.crf_parameters import PARAMETERS, CrfParameters, named_parameters


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
        description="How many times smaller the images are than those that the set is for (VOC: 500 pixels on the\n"
        "long side; images of 160: 3.1). Divides the position widths; the colour width stays.",
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
        "with label_confidence for the label of the map.",
    )
    label_confidence: float | None = Field(None, gt=0, lt=1, description="For unary labels: 0.7 in IRNet, 0.5 in ICD.")
    backend: Literal["auto", "pydensecrf", "torch"] = Field(
        "auto",
        description="What computes it. torch: the same as pydensecrf to 1e-3, on a CPU or a GPU; faster for many\n"
        "images. auto: pydensecrf on a CPU where it is installed, else torch.",
    )
    max_pixels: int = Field(
        4_200_000,
        ge=256,
        description="A larger image is refined on a copy with this many pixels, with position widths reduced alike,\n"
        "which bounds the memory. The mask has the size of the image nevertheless.",
    )

    @pydantic.field_validator("parameters")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PARAMETERS:
            raise ValueError(f"unknown parameter set; known: {', '.join(PARAMETERS)}")
        return value

    def resolve(self) -> CrfParameters:
        """The parameter set with the replaced values, at its scale."""
        fields = {field.name for field in dataclasses.fields(CrfParameters)}
        given = {name: getattr(self, name) for name in CrfConfig.model_fields if name in fields}
        chosen = dataclasses.replace(
            named_parameters(self.parameters), **{name: value for name, value in given.items() if value is not None}
        )
        return chosen.at_scale(self.scale)
