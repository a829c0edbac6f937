"""Settings and card of context adjustment."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.methods.settings.base import Card, MethodSettings


class ContaSettings(MethodSettings):
    """Zhang et al., NeurIPS 2020: a classifier that also sees the mask which the last round's segmenter predicted."""

    card: ClassVar[Card] = Card(
        title="CONTA: a classifier that sees the context of the mask which the round before predicted",
        paper="Zhang, Zhang, Tang, Hua & Sun, NeurIPS 2020",
        uses=("tags",),
        forward=1,
        backward=1,
        beside="the mean mask of each class, made once from all predicted masks",
        sources=(
            "Zhang, Zhang, Tang, Hua & Sun, NeurIPS 2020, equation 3",
            "its code, ZHANGDONG-NJUST/CONTA: segmentation/tools/m_t.py, which nothing calls",
            "its authors' answers there, issues 3, 12, 13 and 19",
        ),
        inference="the classifier, which is given predicted masks with the images",
        output="classifier",
        recipe="conta-voc",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["conta"] = "conta"
    side: int = Field(
        32,
        ge=1,
        le=256,
        description="Cells along each side of the grid of masks and context (its authors: those of the map that the\n"
        "context is joined to, which are 32 with ResNets and crops of 512).",
    )
    bias: bool = Field(False, description="Projections with a bias (paper: without; its code: with).")

    def inputs(self) -> tuple[str, ...]:
        return ("predictions",)
