"""Settings and card of UniMatch V2."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import (
    Share,
    TeacherSettings,
)
from stages.methods.settings.base import (
    Card,
    StrongWeakSettings,
    TeacherStudentSettings,
)


class UniMatchV2Settings(StrongWeakSettings, TeacherStudentSettings):
    """Yang et al., 2024 (arXiv 2410.10777): an averaged teacher, two strong views with complementary channels."""

    card: ClassVar[Card] = Card(
        title="UniMatch V2: an averaged teacher teaches two strong views, each with half of the channels",
        paper="Yang et al., 2024 (arXiv 2410.10777)",
        uses=("masks", "images"),
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
        description="Share of the images, drawn anew each step, whose features keep all channels (published: .5).\n"
        "1: no dropout of channels, FixMatch with an averaged teacher and two strong views.",
    )
