"""Settings of CLIP where it makes maps (`seeds --set source=clip`, method weclip): weights, texts, how maps spread.

No torch here. The published numbers are those of Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven
Approach for Weakly Supervised Semantic Segmentation", CVPR 2023.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from stages.config import Config, External, ExternalFile

NO_WEIGHTS = "none"
TEXT_SETS: dict[str, dict[str, str]] = {
    "names": {},
    "voc": {
        "bird": "bird avian",
        "chair": "chair seat",
        "person": "person with clothes,people,human",
        "tvmonitor": "tvmonitor screen",
    },
}
"""Texts by class that are known by a name; a class without one is called by its name."""

BACKGROUND = (
    "ground land grass tree building wall sky lake water river sea railway railroad keyboard helmet cloud house "
    "mountain ocean road rock street valley bridge sign"
)


def _file_of_weights(value: str) -> Path | None:
    """None for no weights, and for MODEL:TAG, which open_clip downloads."""
    if value in ("", NO_WEIGHTS) or re.fullmatch(r"[\w.-]{2,}:[\w.-]+", value):
        return None
    return Path(value).expanduser()


def _file_of_texts(value: str) -> Path | None:
    return None if value in TEXT_SETS else Path(value).expanduser()


class ClassifierSource(Config):
    """Class-activation maps of a classifier (train-classifier)."""

    name: Literal["classifier"] = "classifier"


class ClipConfig(Config):
    """CLIP, the texts by which it knows the classes, and how its maps are made of both.

    Attributes:
        key: the dotted key of these settings, for messages.
    """

    key: ClassVar[str] = "method.clip"
    weights: Annotated[str, External(_file_of_weights)] = Field(
        "",
        description="A file with the weights of CLIP with a vision transformer, image and text side, by the names of\n"
        "OpenAI: its ViT-B-16.pt, or one of open_clip (.bin, .pt, .safetensors). Or MODEL:TAG of open_clip, which\n"
        "downloads them (ViT-B-16:openai). none: a small network with random weights, to try the commands: its maps\n"
        "mean nothing.",
    )
    activation: Literal["quick_gelu", "gelu"] = Field(
        "quick_gelu",
        description="Of the network that the weights are of. OpenAI's: quick_gelu. LAION's, DataComp's: gelu, unless\n"
        "the name of their model ends with -quickgelu.",
    )
    texts: Annotated[str, External(_file_of_texts)] = Field(
        "names",
        description="How CLIP is told of the classes. names: by their names. voc: the paper's texts for VOC, for the\n"
        "others their names. Or a YAML file with lines CLASS: TEXT or CLASS: [TEXT, TEXT] (the mean of their\n"
        "vectors); classes that it lacks go by their names.",
    )
    templates: tuple[str, ...] = Field(
        ("a clean origami {}.",),
        min_length=1,
        description="Sentences that a text is put into, at {}; the mean of their vectors counts.",
    )
    background: tuple[str, ...] = Field(
        tuple(BACKGROUND.split()),
        min_length=1,
        description="What else images show: texts that compete with the labels of an image. Those that are the name\n"
        "or text of a class are left out.",
    )
    vectors: ExternalFile = Field(
        "",
        description="A file .npz with the vectors of the texts; then open_clip is not needed. Its arrays: names (of\n"
        "classes and background texts) and vectors (a row for each). Every artifact made with source clip has one:\n"
        "text_vectors.npz.",
    )
    attention_blocks: int = Field(
        8, ge=0, description="Blocks, the last ones, whose attention spreads the maps; 0: the maps are not spread."
    )
    box_threshold: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="Cells from which a map is spread: the boxes of the areas where it is above this, of its maximum.",
    )
    rounds: int = Field(3, ge=1, description="How often the columns and rows of the attention are normalised to 1.")
    power: int = Field(2, ge=1, description="How often a map is multiplied by the attention.")

    @property
    def file_of_weights(self) -> Path | None:
        return _file_of_weights(self.weights)

    @pydantic.field_validator("templates")
    @classmethod
    def _have_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [template for template in value if template.count("{}") != 1]:
            raise ValueError(f"{odd[0]!r} does not contain {{}} once, where the text of the class goes")
        return value


class ClipSource(ClipConfig):
    """Maps of CLIP, which knows the classes by their texts: no training (CLIP-ES)."""

    key: ClassVar[str] = "source"
    name: Literal["clip"]
    batch_size: int = Field(16, ge=1, description="Images of identical size in one forward pass.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the network. auto: bf16 on GPUs that have it, else fp32."
    )
