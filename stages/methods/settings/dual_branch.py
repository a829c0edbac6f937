"""Settings and card of the dual-branch network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import ClampSettings
from stages.methods.settings.base import (
    Card,
    MethodSettings,
)


class DualBranchSettings(MethodSettings):
    """Luo & Yang, ECCV 2020: L = CE(f_s(Z(x_s)), m_s) + weak_weight * CE(f_w(Z(x_w)), m_w)."""

    card: ClassVar[Card] = Card(
        title="Strong-weak dual-branch network: one trunk, a branch per kind of label",
        paper="Luo & Yang, ECCV 2020",
        uses=("masks", "tags"),
        forward=2,
        backward=2,
        sources=("Luo & Yang, ECCV 2020",),
        recipe="table1",
        profile="paper",
        inference="trunk and strong branch",
    )
    taken_with: ClassVar[Mapping[str, str]] = {"weak_labels": "set method.weak_weight above 0"}
    as_drawn: ClassVar[tuple[str, ...]] = ("strong", "weak")
    name: Literal["dual-branch"] = "dual-branch"
    weak_weight: float = Field(
        1.0, ge=0, description="lambda, the weight of the weak branch's loss; the paper weighs both branches equally."
    )

    clamp: ClampSettings | None = Field(
        None,
        description="For the weak branch: pixels with a loss far above that around them teach no more. null: all do.",
    )

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weak_weight > 0 else ()
