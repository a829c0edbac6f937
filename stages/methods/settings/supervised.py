"""Settings and card of supervised training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stages.engine.config import ClampSettings
from stages.methods.settings.base import (
    Card,
    MethodSettings,
)


class SupervisedSettings(MethodSettings):
    """One network, one branch, cross-entropy (Luo and Yang, ECCV 2020: strong only, weak only, mixed, oversampled)."""

    card: ClassVar[Card] = Card(
        title="One branch on strong masks, weak masks, or both (mixed, oversampled)",
        paper="The single-branch rows of Luo & Yang, ECCV 2020",
        uses=("masks",),
        forward=1,
        backward=1,
        sources=("Luo & Yang, ECCV 2020, Table 1", "the baseline of every semi-supervised table"),
        recipe="table1",
        profile="paper",
    )
    taken_with: ClassVar[Mapping[str, str]] = {"weak_labels": "set method.labels to weak, mixed or oversampled"}
    as_drawn: ClassVar[tuple[str, ...]] = ("strong", "weak", "mixed", "oversampled")
    name: Literal["supervised"] = "supervised"
    labels: Literal["strong", "weak", "mixed", "oversampled"] = Field(
        "strong",
        description="strong: images with masks. weak: the weak images, with estimated masks. mixed: both lists\n"
        "joined. oversampled: both, the strong list repeated until it is as long as the weak one.",
    )

    clamp: ClampSettings | None = Field(
        None,
        description="For estimated masks: pixels with a loss far above that around them teach no more. null: all do.",
    )

    @model_validator(mode="after")
    def _clamp_has_a_place(self) -> SupervisedSettings:
        if self.clamp is not None and self.labels == "strong":
            raise ValueError("clamp is for estimated masks, and labels strong takes none")
        return self

    def inputs(self) -> tuple[str, ...]:
        return () if self.labels == "strong" else ("weak_labels",)
