"""Settings and card of the correction of label noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card
from stages.refiners.settings.base import ForegroundRefinerSettings

CARD = Card(
    title="Label noise: a graph attention network learns the clean labels of superpixels, and corrects the rest",
    paper="Yi et al., TIP 2021",
    uses=("masks", "tags"),
    forward=1,
    backward=0,
    beside="of the given segmenter; each image trains 100 steps of a graph attention network of its own",
    sources=(
        "Yi et al., TIP 2021: clean labels by cross-entropy, superpixel graph, graph attention network",
        "Veličković et al., ICLR 2018: the layers; all constants, which are not published, are proposals",
    ),
    inference="the corrected labels of each image",
    recipe="label-noise-voc",
    profile="paper",
    output="refiner",
)


class LabelNoiseSettings(ForegroundRefinerSettings):
    """Yi et al., TIP 2021: labels of superpixels, learned from the clean ones of the same image. No constant is
    published: all are proposals."""

    card: ClassVar[Card] = CARD
    name: Literal["label-noise"] = "label-noise"
    noisy_background: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Score of the background in the noisy labels, which the score maps give (proposal: .2).",
    )
    superpixels: int = Field(
        400, ge=1, le=2000, description="About this many superpixels per image (SLIC; proposal: 300 to 500)."
    )
    compactness: float = Field(
        20.0, gt=0, description="Weight of nearness against similarity of colour in superpixels (proposal: 20)."
    )
    similar: int = Field(
        8,
        ge=0,
        description="A superpixel is linked to those it touches and to this many with the most similar features\n"
        "(proposal: 8).",
    )
    clean: Literal["median", "threshold"] = Field(
        "median",
        description="A label is clean where its mean cross-entropy under the given segmenter is at most the median of\n"
        "its class in the image, or below `clean_below` (proposal: median).",
    )
    clean_below: float = Field(0.5, gt=0, description="With clean: threshold, the threshold in nats (proposal: .5).")
    purity: float = Field(
        0.8,
        ge=0,
        le=1,
        description="A clean superpixel has the same label on at least this share of its pixels (proposal: .8).",
    )
    heads: int = Field(8, ge=1, description="Heads of the first layer (proposal: 8; the second has one).")
    hidden: int = Field(32, ge=1, description="Channels of each head (proposal: 32).")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of features and of attention dropped in training (proposal: .5)."
    )
    steps: int = Field(100, ge=1, description="Training steps for each image (proposal: 100).")
    lr: float = Field(5e-3, gt=0, description="Learning rate of Adam (proposal: 5e-3).")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of Adam (proposal: 5e-4).")
    seed: int = Field(0, ge=0, description="Seed of initial weights and dropout, together with the id of the image.")
    batch_size: int = Field(8, ge=1, description="Images of identical size in one forward pass of the segmenter.")
    background: float = Field(
        0.5, ge=0, le=1, description="Score of the background in the masks; .5: a class wins where it is more probable."
    )
    margin: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Pixels whose two highest scores differ by less than this are unknown (255) in the masks.\n"
        "With background .5, .1 is a probability of .6 (proposal).",
    )

    def inputs(self) -> tuple[str, ...]:
        return (*super().inputs(), "segmenter")
