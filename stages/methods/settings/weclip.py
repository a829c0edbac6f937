"""Settings and card of WeCLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stages.config import Config
from stages.engine.config import Share
from stages.localization.clip_config import ClipConfig
from stages.localization.clip_texts import check_clip
from stages.methods.settings.base import Card, MethodSettings


class DecoderSettings(Config):
    """What makes a segmentation of the outputs of CLIP's blocks."""

    channels: int = Field(256, ge=1, description="Channels of the features and of the transformer (published: 256).")
    layers: int = Field(3, ge=1, description="Layers of the transformer (published: 3).")
    heads: int = Field(8, ge=1, description="Heads of its attention (published: 8).")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the features' channels that a step leaves out.")

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> DecoderSettings:
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels cannot be shared among {self.heads} heads")
        return self


class WeclipSettings(MethodSettings):
    """Zhang et al., CVPR 2024: CLIP makes the masks in every step, and its features the segmentation."""

    card: ClassVar[Card] = Card(
        title="CLIP, frozen, makes masks in each step, and a decoder of its features learns them",
        paper="Zhang et al., CVPR 2024",
        uses=("tags",),
        forward=1,
        backward=1,
        beside="a gradient of CLIP's last block for each label, and 20 rounds of pixel-adaptive refinement",
        sources=("Zhang et al., CVPR 2024, and its code", "maps: CLIP-ES (Lin et al., CVPR 2023)"),
        recipe="weclip-voc",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    own_network: ClassVar[str] = "clip.weights"
    name: Literal["weclip"] = "weclip"
    clip: ClipConfig = Field(ClipConfig(), description="CLIP and the texts of the classes; weights must be given.")
    decoder: DecoderSettings = Field(DecoderSettings(), description="The part that learns.")
    affinity_weight: float = Field(0.1, ge=0, description="Weight of the loss on the affinity of patches (code: .1).")
    radius: int = Field(
        8, ge=1, description="Patches whose rows and columns are at most this far apart are compared (code: 8)."
    )
    own_affinity_from: Share = Field(
        0.5,
        description="Share of the steps after which the affinity of the features takes part in spreading the maps\n"
        "(code: .5, 15,000 of 30,000 steps). 1: never.",
    )
    own_affinity_blocks: int = Field(
        6, ge=1, description="How many of CLIP's last blocks are then chosen from, for their attention (code: 6)."
    )
    iterations: int = Field(20, ge=0, description="Rounds of the pixel-adaptive refinement of the maps (code: 20).")
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8, 12, 24), min_length=1, description="Distances of a pixel's neighbours in it, pixels (code)."
    )

    def check(self, class_names: Sequence[str]) -> None:
        check_clip(self.clip, class_names)
