"""Settings of the stage `segments`: where the segments of images come from. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from artifacts.dataset import Split
from stages.config import Config, External
from stages.engine.config import Share

NO_WEIGHTS = "none"

RegionCounts = tuple[Annotated[int, Field(ge=1, le=2000)], ...]


def _path_of_weights(value: str) -> Path | None:
    return None if value in ("", NO_WEIGHTS) else Path(value).expanduser()


class SuperpixelSource(Config):
    """Regions merged from superpixels, by colour: no network."""

    name: Literal["superpixels"] = "superpixels"
    regions: RegionCounts = Field(
        (100,),
        min_length=1,
        description="Regions of these numbers; each is a segment (ours).",
    )


class SamSource(Config):
    """SAM, Segment Anything (Kirillov et al., ICCV 2023): what it finds at a grid of points. Needs transformers."""

    name: Literal["sam"]
    weights: Annotated[str, External(_path_of_weights)] = Field(
        "",
        description="A file with the weights of SAM as its authors publish them (sam_vit_h_4b8939.pth, sam_vit_l_...,\n"
        "sam_vit_b_...), or the folder of a model for mask generation of transformers (SAM, SAM 2): config.json,\n"
        "preprocessor_config.json, model.safetensors. Nothing is downloaded. none: a small network with random\n"
        "weights, to try the commands: its segments mean nothing.",
    )
    points: int = Field(32, ge=1, le=256, description="Points a side of the grid (published: 32).")
    predicted_iou: Share = Field(
        0.88, description="Segments that SAM itself rates lower are left out; 0: none (published: .88)."
    )
    stability: Share = Field(
        0.95,
        description="So are those whose area depends more on the threshold of the logits: intersection over union\n"
        "between one higher and one lower; 0: none (published: .95).",
    )
    overlap: Share = Field(
        0.7,
        description="Of two whose boxes have a higher intersection over union, the better rated stays (published: .7).",
    )
    largest: Share = Field(
        1.0,
        description="Segments of a larger share of the image are left out (published: 1, none). One of nearly the\n"
        "whole image makes all of it the class that it joins.",
    )
    max_pixels: int = Field(
        1_000_000,
        ge=1024,
        description="SAM sees a larger image as a copy of this many pixels, which bounds the memory; its network\n"
        "resizes every image anyway.",
    )
    points_at_once: int = Field(
        16, ge=1, description="Points in one forward pass of the decoder; each needs about 25 MB (published: 64)."
    )


class SegmentsConfig(Config):
    """What finds the segments of which images."""

    source: SuperpixelSource | SamSource = Field(
        SuperpixelSource(),
        discriminator="name",
        description="What finds the segments. superpixels: regions merged from superpixels, as vote computes them.\n"
        "sam: Segment Anything.",
    )
    splits: tuple[Split, ...] = Field(
        ("train", "weak"), min_length=1, description="Splits of the data set whose images get segments."
    )
