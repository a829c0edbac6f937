"""Settings and card of DSRG."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import (
    Card,
    MethodSettings,
)


class DsrgSettings(MethodSettings):
    """Huang et al., CVPR 2018: seeds grow into confident neighbours while the network trains."""

    card: ClassVar[Card] = Card(
        title="Deep seeded region growing from image-level labels",
        paper="Huang et al., CVPR 2018; expansion loss of SEC: Kolesnikov & Lampert, ECCV 2016",
        uses=("tags",),
        forward=1,
        backward=1,
        beside="1 dense CRF",
        sources=("Huang et al., CVPR 2018, and its code", "Kolesnikov & Lampert, ECCV 2016"),
        recipe="dsrg-table2",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    as_drawn: ClassVar[tuple[str, ...]] = ("weak",)
    before: ClassVar = {"ignore_padding": False}
    name: Literal["dsrg"] = "dsrg"
    balanced: bool = Field(
        True, description="Balanced seed loss: background, foreground normalised separately (DSRG). false: SEC's."
    )
    region_growing: bool = Field(True, description="Grow the seeds each step; false keeps them as they are (SEC).")
    ignore_padding: bool = Field(
        True,
        description="Seeds grow inside the image only, not into the padding of a crop (DSRG has none). false:\n"
        "also through the padding, as earlier versions did.",
    )
    theta_background: float = Field(0.99, gt=0, le=1, description="Grow background where its probability exceeds this.")
    theta_foreground: float = Field(0.85, gt=0, le=1, description="Grow a class where its probability exceeds this.")
    boundary_weight: float = Field(1.0, ge=0, description="Weight of the boundary loss towards the dense CRF's output.")
    expansion_weight: float = Field(
        0.0, ge=0, description="Weight of SEC's expansion loss (global weighted rank pooling); DSRG has none."
    )
    clip_ratio: bool = Field(
        True, description="Clip the ratio Q/H of the boundary loss to .05 to 20 (DSRG's code). false: SEC's loss."
    )
    crf_unary: Literal["log", "probability", "scores"] = Field(
        "log",
        description="Unary of the training CRF. log: -log p. probability: -p, as in DSRG's code (smooths far more).\n"
        "scores: minus the network's scores, as in SEC's code (log without the floor of p).",
    )
    crf_scale: float = Field(
        12.0,
        gt=0,
        description="Spatial widths of the training CRF: those of a whole VOC image (80, 3 pixels) divided by this.\n"
        "12 is SEC's and DSRG's value for maps of 41 x 41 cells.",
    )
    map_stride: int | None = Field(
        None,
        ge=1,
        description="Pixels per cell of the maps on which seeds, CRF and losses live. null: the network's own stride\n"
        "(VGG16 at 321 pixels: 8, 41 x 41 cells). Smaller: the logits are upsampled, which small images need.",
    )
    log_quality: bool = Field(
        True,
        description="Log precision, recall and IoU of the grown seeds once an epoch, if the data set has masks of\n"
        "the same images; the masks are used for nothing else.",
    )

    def inputs(self) -> tuple[str, ...]:
        return ("seeds",)
