"""Settings and card of GCT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    OptimizerConfig,
    Share,
)
from stages.methods.settings.base import (
    Card,
    DiscriminatorSettings,
    LabellingSettings,
)


class GctSettings(LabellingSettings):
    """Ke et al., ECCV 2020: two networks, and a detector that finds the less flawed of their predictions."""

    card: ClassVar[Card] = Card(
        title="Guided collaborative training: a flaw detector chooses which of two networks to follow, pixel by pixel",
        paper="Ke et al., ECCV 2020",
        uses=("masks", "images"),
        forward=4,
        backward=4,
        beside="8 passes of the flaw detector",
        sources=("Ke et al., ECCV 2020", "its code, ZHKKKe/PixelSSL: ssl_gct.py, weights of its scripts"),
        inference="network 1",
        recipe="voc-blended",
    )
    name: Literal["gct"] = "gct"
    flaw_correction: float = Field(
        1.0, ge=0, description="a: weight of the detector's output where both networks are bad (published)."
    )
    weight: float = Field(
        100.0, ge=0, description="b: weight of the consistency, a mean over pixels and classes (published)."
    )
    ramp: Share = Field(
        0.11,
        description="Share of all iterations in which b rises as exp(-5 (1 - t)^2), from 0.0067 on (PixelSSL at 1/8:\n"
        "5 of 45 epochs with PSPNet, 3 of 20 with DeepLabv2; TorchSemiSeg: 3 of 34).",
    )
    threshold: Share = Field(0.6, description="Pixels with a flaw, 0 to 1, above this are bad (published).")
    visible: float = Field(
        0.1, ge=0, description="A flaw map that is nowhere above this shows no flaw at all (the authors' code)."
    )
    mu: float = Field(0.5, gt=0, description="Factor on |onehot y - P| in the detector's target (published).")
    dilations: int = Field(1, ge=0, description="nu: how many times this target is widened and blurred (published).")
    detector_weight: float = Field(10.0, gt=0, description="d: weight of the detector's own loss (published).")
    flaw_detector: DiscriminatorSettings = Field(
        DiscriminatorSettings(
            optimizer=OptimizerConfig(name="adam", lr=4e-4, new_lr_factor=1.0, weight_decay=0.0, betas=(0.9, 0.99))
        ),
        description="The flaw detector F. Published: 64 to 512 channels, all but the first twice, Adam with 1e-4\n"
        "times the number of GPUs: 4 for batches of 16.",
    )

    def labels_masked(self) -> bool:
        return True
