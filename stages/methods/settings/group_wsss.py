"""Settings and card of Group-WSSS."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import Share
from stages.methods.settings.base import Card, MethodSettings


class GroupWsssSettings(MethodSettings):
    """Li et al., AAAI 2021: images of the same classes exchange, by messages, what they have in common."""

    card: ClassVar[Card] = Card(
        title="Group-WSSS: the class maps of images with the same labels exchange messages, and cover more of objects",
        paper="Li, Zhou, Li, Zhou & Zhang, AAAI 2021",
        uses=("tags",),
        forward=3,
        backward=3,
        beside="one of each image of a group",
        sources=(
            "Li, Zhou, Li, Zhou & Zhang, AAAI 2021",
            "its code, Lixy1997/Group-WSSS: train.py, models/vgg_gnn.py, models/ConvGRU.py, gen_labels.py",
        ),
        inference="the classifier, whose maps are those of groups",
        output="classifier",
        recipe="group-voc",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["group-wsss"] = "group-wsss"
    group: int = Field(
        3,
        ge=2,
        le=8,
        description="Images in a group (its code: 3). batch_size counts groups: a step learns from `group` times as\n"
        "many images.",
    )
    alike: Literal["same-tags", "tags"] = Field(
        "same-tags",
        description="Which images are a group. same-tags: those with exactly the labels of the first one, and where\n"
        "they do not suffice any that share a label with it, which is drawn (its code). tags: always the latter.",
    )
    rounds: int = Field(3, ge=1, le=10, description="Rounds of messages (its code: 3).")
    weight: float = Field(
        0.4, ge=0, description="Weight of the loss on the maps before the exchange; the one after it has 1 (its code)."
    )
    drop_rate: Share = Field(
        0.8,
        description="Probability that graph dropout weakens a node's most attended cells; else it weighs all cells by\n"
        "importance (its code: .8).",
    )
    drop_threshold: Share = Field(
        0.7, description="Share of the highest attention from which on a cell is weakened (its code: .7)."
    )
    attention: Literal["maps", "positive"] = Field(
        "maps",
        description="What the attention of a cell is the mean of over the classes. maps: the maps before a ReLU (its\n"
        "code); where all these means are negative nothing is weakened. positive: what is positive of them (ours).",
    )
