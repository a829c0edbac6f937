"""What the settings of all methods have in common, and the card that says what a method is. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from stages.config import Config
from stages.engine.config import Share, TeacherSettings

Reduction = Literal["sum", "mean"]
REDUCTION = "Squared differences over the classes: their sum, or their mean (the sum divided by the number of classes)."


@dataclass(frozen=True)
class Card:
    """What is known of a method without loading torch; `semiseg methods` prints it.

    Attributes:
        title: one line.
        paper: authors, venue, year.
        uses: parts of the data set it learns from: "masks", "tags", "pictures" (without any label).
        place: "module:class" of the implementation.
        loss: the loss as a formula, a line a term, in the symbols of docs/methods.md.
        forward, backward: passes through a network for each labelled picture of a step (with one unlabelled beside it),
            those of teachers and further networks included.
        beside: what a step costs beside these passes, or whose they are.
        sources: where formula and defaults come from; what differs is in docs/methods.md.
        recipe, profile: the recipe that reproduces it; "league" where none does, which compares it with others.
        inference: what is evaluated and published.
        output: the kind of artifact a training gives.
    """

    title: str
    paper: str
    uses: tuple[str, ...]
    place: str
    loss: str
    forward: int
    backward: int
    beside: str = ""
    sources: tuple[str, ...] = ()
    recipe: str = "league"
    profile: str = ""
    inference: str = "the network"
    output: Literal["segmenter", "classifier"] = "segmenter"

    @property
    def cost(self) -> str:
        """All of what a step costs, in words."""
        return f"{self.forward} forward, {self.backward} backward" + (f"; {self.beside}" if self.beside else "")


class MethodSettings(Config):
    """Base of the settings; `name` says which method they belong to."""

    card: ClassVar[Card]
    hard_examples: ClassVar[bool] = True
    """Whether OHEM has a place: a supervised term of its own on exact masks."""
    labels_from: ClassVar[str] = (
        "semiseg predict --segmenter NAME --split weak --output masks --name weak-labels, "
        "NAME being trained on image-level labels (--method dsrg); all steps: semiseg run table1"
    )
    """How estimated masks are made for it, for whoever has none."""
    name: str

    def inputs(self) -> tuple[str, ...]:
        """Inputs of `train` beside the data set that these settings take: "weak_labels", "seeds"."""
        return ()


class SemiSupervisedSettings(MethodSettings):
    """Base of the settings of methods that learn from pictures with masks and pictures without."""

    labelled_share: Share = Field(
        0.5, gt=0, lt=1, description="Share of labelled pictures in a batch; the others have no masks."
    )


class TeacherStudentSettings(SemiSupervisedSettings):
    """Base of the settings of methods with an averaged teacher."""

    teacher: TeacherSettings | None = Field(TeacherSettings(), description="The average of the network over the steps.")
    evaluate: Literal["student", "teacher"] = Field(
        "teacher", description="What is evaluated and published, where there is a teacher."
    )
