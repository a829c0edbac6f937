"""Settings of the methods whose pseudo labels are made between trainings, by stages of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stages.engine.config import Share, StrongAugmentationSettings
from stages.methods.settings.base import Card, SemiSupervisedSettings


class StudentSettings(SemiSupervisedSettings):
    """What a student on pseudo labels can be told."""

    hard_examples: ClassVar[bool] = False  # one mean over labelled and pseudo-labelled pixels
    labels_from: ClassVar[str] = (
        "semiseg predict --segmenter TEACHER --split weak --output masks --name weak-labels, TEACHER being trained "
        "with --method supervised; all steps: semiseg run self-training"
    )
    weight: float = Field(
        1.0, ge=0, description="Weight of a pseudo-labelled pixel; a labelled one weighs 1 (published: 1)."
    )
    strong: StrongAugmentationSettings = Field(
        StrongAugmentationSettings(cutout=0.5),
        description="Augmentation of the pseudo-labelled pictures (published: colours, blur, a noisy hole).",
    )

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weight > 0 else ()


class SelfTrainingSettings(StudentSettings):
    """Yang et al., CVPR 2022: a fresh student on masks and on a teacher's labels, strongly augmented."""

    card: ClassVar[Card] = Card(
        title="Offline self-training: a fresh student learns from a teacher's masks, strongly augmented (ST)",
        paper="Yang et al., ST++, CVPR 2022 (its ST)",
        uses=("masks", "pictures"),
        place="stages.methods.self_training:SelfTraining",
        loss="L = CE([f(x), f(S(u))], [y, y_T])  over labelled and pseudo-labelled pixels together\n"
        "y_T: the teacher's masks (scales .5 to 2, flipped), S: colours, blur, holes",
        forward=2,
        backward=2,
        beside="before it a supervised training and one prediction of all pictures",
        sources=("Yang et al., CVPR 2022", "its code, LiheYoung/ST-PlusPlus"),
        recipe="self-training",
        profile="paper",
        inference="the student",
    )
    name: Literal["self-training"] = "self-training"


class StPlusPlusSettings(StudentSettings):
    """Yang et al., CVPR 2022: self-training on the reliable pictures first, then on all of them."""

    card: ClassVar[Card] = Card(
        title="Self-training that begins with the pictures whose masks were stable (ST++)",
        paper="Yang et al., CVPR 2022",
        uses=("masks", "pictures"),
        place="stages.methods.st_plus_plus:StPlusPlus",
        loss="L = CE([f(x), f(S(u))], [y, y_T])  over the masks and those pictures u that have a label so far:\n"
        "first the half whose label was stable while the teacher trained, then all",
        forward=2,
        backward=2,
        beside="in two trainings; before them a supervised one; two predictions",
        sources=("Yang et al., CVPR 2022", "its code, LiheYoung/ST-PlusPlus"),
        recipe="self-training",
        profile="paper",
        inference="the last student",
    )
    name: Literal["st-plus-plus"] = "st-plus-plus"


class DmtSettings(SemiSupervisedSettings):
    """Feng et al., 2022: two models label for each other; a pixel counts by how much both agree on it."""

    card: ClassVar[Card] = Card(
        title="Dynamic mutual training: the other model's labels, weighted by agreement, in growing shares",
        paper="Feng et al., Pattern Recognition 2022",
        uses=("masks", "pictures"),
        place="stages.methods.dmt:Dmt",
        loss="L = sum_p w_p CE(f(x)_p, y_p) / #labelled pixels,  w = 1 on exact masks; on pseudo labels (y, c):\n"
        "w = P_y^g1 if argmax P = y;  0 if it is another and max P > c;  P_y^g2 if it is another and max P <= c",
        forward=8,
        backward=8,
        beside="7 of them on pseudo labels; ten trainings (five rounds, two models), a prediction before each",
        sources=("Feng et al., Pattern Recognition 2022", "its code, voldemortX/DST-CBC"),
        recipe="dmt",
        profile="paper",
        inference="both models, one after the other",
    )
    hard_examples: ClassVar[bool] = False
    labels_from: ClassVar[str] = (
        "semiseg predict --segmenter OTHER --split weak --output masks --set confidence=true --name guesses, then "
        "semiseg pseudo-labels --predictions guesses --set share=0.2 --name weak-labels; all rounds: semiseg run dmt"
    )
    name: Literal["dmt"] = "dmt"
    gamma_agree: float = Field(5.0, ge=0, description="gamma1: sharpens the weight where both agree (VOC 5, city 3).")
    gamma_differ: float = Field(5.0, ge=0, description="gamma2: where they do not and the label is the surer one.")
    weight: float = Field(1.0, ge=0, description="Factor on the weights of pseudo-labelled pixels (published: 1).")
    labelled_share: Share = Field(
        0.125, gt=0, lt=1, description="Share of labelled pictures in a batch (published: 1 of 8; Cityscapes 2 of 8)."
    )

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weight > 0 else ()
