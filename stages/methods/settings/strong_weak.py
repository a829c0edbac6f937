"""Settings of the methods in which a weak view of a picture teaches strong ones."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import CutMixSettings, Share, StrongAugmentationSettings, TeacherSettings
from stages.methods.settings.base import Card, SemiSupervisedSettings, TeacherStudentSettings


class StrongWeakSettings(SemiSupervisedSettings):
    """What FixMatch and both UniMatch have in common. Published values: the code of UniMatch and UniMatch V2."""

    weight: Share = Field(
        0.5,
        description="w: the unlabelled part of the loss; the supervised one gets 1 - w (published: .5 each). 0: the\n"
        "unlabelled pictures do not take part, and what is left is `supervised`.",
    )
    threshold: Share = Field(
        0.95,
        description="tau: pixels teach whose label is at least this probable (published: .95 on VOC and COCO).\n"
        "0: all of them do, as fixmatch and unimatch have it on Cityscapes.",
    )
    strong: StrongAugmentationSettings = Field(StrongAugmentationSettings(), description="The strong views.")
    mixing: CutMixSettings = Field(
        CutMixSettings(style="unimatch"), description="The box of another picture in a strong view."
    )


class OwnLabelsSettings(StrongWeakSettings, TeacherStudentSettings):
    """What FixMatch and UniMatch have in common: the network labels its own weak views."""

    label_mode: Literal["train", "eval"] = Field(
        "train",
        description="Labels of the picture itself. train: from the pass through labelled and unlabelled pictures\n"
        "together (published). eval: from a pass in eval mode, as those of its partner.",
    )
    teacher: TeacherSettings | None = Field(
        None,
        description="An averaged teacher that gives all labels (UniMatch V2's FixMatch: {decay: 0.996}); null: the\n"
        "network itself (published).",
    )


class FixMatchSettings(OwnLabelsSettings):
    """Sohn et al., NeurIPS 2020, as UniMatch's code has it for segmentation: a weak view teaches a strong one."""

    card: ClassVar[Card] = Card(
        title="FixMatch: confident labels of the weak view teach a strong view",
        paper="Sohn et al., NeurIPS 2020; for segmentation Yang et al., CVPR 2023",
        uses=("masks", "pictures"),
        place="stages.methods.fixmatch:FixMatch",
        loss="L = (1 - w) CE(f(x), y) + w 1/|V| sum_V [P(u) >= tau] CE(f(S(u)), argmax P(u)),  w = 1/2\n"
        "S: colours, blur, and a box of another picture; V: valid pixels",
        forward=4,
        backward=3,
        sources=("Yang et al., CVPR 2023", "its code: fixmatch.py"),
        recipe="voc-classic",
    )
    name: Literal["fixmatch"] = "fixmatch"


class UniMatchSettings(OwnLabelsSettings):
    """Yang et al., CVPR 2023: a weak view teaches two strong views and its own perturbed features."""

    card: ClassVar[Card] = Card(
        title="UniMatch: two strong views and perturbed features learn from one weak view",
        paper="Yang et al., CVPR 2023",
        uses=("masks", "pictures"),
        place="stages.methods.unimatch:UniMatch",
        loss="L = (1 - w) CE(f(x), y) + w [(1 - m) (L_s1 + L_s2) / 2 + m L_fp],  w = m = 1/2\n"
        "L_k = 1/|V| sum_V [P(u) >= tau] CE(f_k, argmax P(u)); fp: channels of the features dropped",
        forward=5,
        backward=4,
        beside="once more both through the head",
        sources=("Yang et al., CVPR 2023", "its code: unimatch.py, configs"),
        recipe="voc-classic",
    )
    name: Literal["unimatch"] = "unimatch"
    feature_weight: Share = Field(
        0.5, description="m: the perturbed features' part of the unlabelled loss; the strong views share 1 - m."
    )
    feature_dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability of dropping a channel of the features (published)."
    )


class UniMatchV2Settings(StrongWeakSettings, TeacherStudentSettings):
    """Yang et al., 2024 (arXiv 2410.10777): an averaged teacher, two strong views with complementary channels."""

    card: ClassVar[Card] = Card(
        title="UniMatch V2: an averaged teacher teaches two strong views, each with half of the channels",
        paper="Yang et al., 2024 (arXiv 2410.10777)",
        uses=("masks", "pictures"),
        place="stages.methods.unimatch_v2:UniMatchV2",
        loss="L = (1 - w) CE(f(x), y) + w (L_s1 + L_s2) / 2,  w = 1/2\n"
        "L_k = 1/|V| sum_V [P_t(u) >= tau] CE(g(m_k e(S_k(u))), argmax P_t(u)),  m_1 + m_2 = 2",
        forward=5,
        backward=3,
        beside="2 of the forward passes are the teacher's",
        sources=("Yang et al., arXiv 2410.10777", "its code: unimatch_v2.py, model/semseg/dpt.py"),
        recipe="voc-classic",
        profile="dinov2",
        inference="the teacher (evaluate student: the network)",
    )
    name: Literal["unimatch-v2"] = "unimatch-v2"
    teacher: TeacherSettings = Field(TeacherSettings(decay=0.996), description="The average (published: .996, eval).")
    whole: Share = Field(
        0.5,
        description="Share of the pictures, drawn anew each step, whose features keep all channels (published: .5).\n"
        "1: no dropout of channels, FixMatch with an averaged teacher and two strong views.",
    )
