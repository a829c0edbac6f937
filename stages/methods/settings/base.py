"""The common part of the settings of all methods, and the card that describes a method. No torch."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from stages.config import Config
from stages.engine.config import (
    IMAGE_LABELS,
    AdaptiveThresholdSettings,
    ClampSettings,
    CutMixSettings,
    GuidanceSettings,
    ImageLabels,
    OptimizerConfig,
    Share,
    StrongAugmentationSettings,
    TeacherSettings,
)

Settings = TypeVar("Settings", bound=Config)
Implementation = TypeVar("Implementation")

Reduction = Literal["sum", "mean"]
USES = ("masks", "tags", "images")
"""Parts of a data set: "images" are images without any label."""
_FORMULA = re.compile(r"\w+ = ")
REDUCTION = "Squared differences over the classes: their sum, or their mean (the sum divided by the number of classes)."


@dataclass(frozen=True)
class Card:
    """The description of a method, which needs no torch; `semiseg methods` prints it, with `MethodSettings.formula`.

    Attributes:
        title: one line.
        paper: authors, venue, year.
        uses: those of USES that it learns from.
        forward, backward: passes through a network for each labelled image of a step (and one unlabelled image
            with it), those of teachers and further networks included.
        beside: the cost of a step in addition to these passes, or which network they belong to.
        sources: where formula and defaults come from; docs/methods/NAME.md lists the differences.
        recipe, profile: the recipe that reproduces it, where one does.
        inference: what is evaluated and published.
        output: the kind of artifact a training gives.
    """

    title: str
    paper: str
    uses: tuple[str, ...]
    forward: int
    backward: int
    beside: str = ""
    sources: tuple[str, ...] = ()
    recipe: str = ""
    profile: str = ""
    inference: str = "the network"
    output: Literal["segmenter", "classifier", "refiner"] = "segmenter"

    @property
    def cost(self) -> str:
        """The whole cost of a step, in words."""
        return f"{self.forward} forward, {self.backward} backward" + (f"; {self.beside}" if self.beside else "")


_PREDICTED = "semiseg predict --segmenter NAME --split weak --output masks --set image_labels=share --name weak-labels"
_NOT_PREDICTED = (
    "from class-activation maps: semiseg crf --predictions seeds --name weak-labels; "
    "made elsewhere: semiseg import-masks --folder DIR --name weak-labels"
)


class MethodSettings(Config):
    """Base of the settings; `name` is the method they belong to."""

    card: ClassVar[Card]
    hard_examples: ClassVar[bool] = True
    """Whether OHEM applies: the method has a separate supervised term on exact masks."""
    labels_from: ClassVar[str] = (
        f"{_PREDICTED}, NAME being trained on image-level labels (--method dsrg); {_NOT_PREDICTED}; "
        "all steps: semiseg run table1"
    )
    """The commands that make estimated masks for this method."""
    taken_with: ClassVar[Mapping[str, str]] = {}
    """What to set so that an optional input is used."""
    as_drawn: ClassVar[tuple[str, ...]] = ()
    """Streams whose images the networks see exactly as they were drawn: kept features may stand for these."""
    own_network: ClassVar[str] = ""
    """The key, in these settings, of the weights of a network that the method brings: `network` has no effect."""
    name: str

    def inputs(self) -> tuple[str, ...]:
        """Inputs of `train` in addition to the data set that these settings take: "weak_labels", "seeds"."""
        return ()

    def check(self, class_names: Sequence[str]) -> None:
        """ConfigError or DataError, before any work, where something is missing that these settings need."""

    @classmethod
    def formula(cls) -> str:
        """What is minimised, and its symbols: the docstring of the method's module that begins with a formula.

        It is read from the source, since the module itself loads torch.
        """
        module = cls.__module__.replace(".settings.", ".")
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
        classes = [part for part in ast.parse(source or "").body if isinstance(part, ast.ClassDef)]
        docstrings = [ast.get_docstring(part) or "" for part in classes]
        return next((text for text in docstrings if _FORMULA.match(text)), "")


class SemiSupervisedSettings(MethodSettings):
    """Base of the settings of methods that learn from images with masks and images without."""

    labelled_share: Share = Field(
        0.5, gt=0, lt=1, description="Share of labelled images in a batch; the rest have no masks."
    )


class LabellingSettings(SemiSupervisedSettings):
    """Base of the settings of methods whose networks label images in every step."""

    before: ClassVar = {"image_labels": "ignore"}
    image_labels: ImageLabels = Field("share", description=IMAGE_LABELS)

    def labels_masked(self) -> bool:
        """Whether the networks label the images with masks, too."""
        return False


class TeacherStudentSettings(LabellingSettings):
    """Base of the settings of methods with an averaged teacher."""

    teacher: TeacherSettings | None = Field(TeacherSettings(), description="The average of the network over the steps.")
    evaluate: Literal["student", "teacher"] = Field(
        "teacher", description="What is evaluated and published, where there is a teacher."
    )


Channels = Annotated[int, Field(ge=2)]


class DiscriminatorSettings(Config):
    """A network that judges predictions, and how it learns."""

    channels: tuple[Channels, ...] = Field(
        (64, 128, 256, 512),
        min_length=1,
        description="Channels of its layers; each layer halves the map (published).",
    )
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(name="adam", lr=1e-4, new_lr_factor=1.0, weight_decay=0.0, betas=(0.9, 0.99)),
        description="Its optimiser (published: Adam, 1e-4, betas .9 and .99); the schedule is that of the training.",
    )


SURE = "The teacher is sure where its highest probability reaches this; 0: everywhere."


CONFIDENCE = (
    "batch: the share of sure pixels of the joint batch, padding included, multiplies the loss (French et al.).\n"
    "pixel: sure pixels alone are taught (an option of their code)."
)


class TrainingTeacherSettings(TeacherSettings):
    """A teacher in train mode with statistics of its own, unless the settings name a different mode."""

    average: Literal["parameters", "floats"] = Field(
        "parameters", description=TeacherSettings.model_fields["average"].description
    )
    mode: Literal["eval", "train"] = Field("train", description=TeacherSettings.model_fields["mode"].description)


class ConfidentSettings(TeacherStudentSettings):
    """The common part of the two methods of French et al.: consistency with a teacher where it is sure."""

    threshold: Share = Field(0.97, description=f"{SURE} Published: .97.")
    confidence: Literal["batch", "pixel"] = Field("batch", description=CONFIDENCE)
    reduction: Reduction = Field("sum", description=f"{REDUCTION} Published: sum (PixelSSL's CutMix: mean, weight 20).")
    teacher: TeacherSettings = Field(
        TeacherSettings(warmup=False),
        description="The average (authors' code: .99 from the first step on, all floats, BatchNorm frozen).",
    )


class MutualSettings(LabellingSettings):
    """The common part of cps and cpc."""

    cutmix: bool = Field(True, description="Mix two unlabelled images with random boxes (CutMix).")
    weight: float = Field(1.0, ge=0, description="lambda: weight of what the networks learn from each other.")
    mixing: CutMixSettings = Field(
        CutMixSettings(boxes=3, share=(0.25, 0.5)),
        description="The boxes of CutMix (CPS, authors' code: 3 whose areas add up to .25 to .5: 25 % of the pixels,\n"
        "since two boxes over each other change nothing).",
    )
    ignore_padding: bool = Field(
        True, description="Leave padded pixels out of the unlabelled loss; the authors' code of CPS keeps them in."
    )

    def labels_masked(self) -> bool:
        return not self.cutmix


class StudentSettings(SemiSupervisedSettings):
    """The settings of a student that learns from pseudo labels."""

    as_drawn: ClassVar[tuple[str, ...]] = ("strong",)
    hard_examples: ClassVar[bool] = False  # one mean over labelled and pseudo-labelled pixels
    labels_from: ClassVar[str] = (
        f"{_PREDICTED.replace('NAME', 'TEACHER')}, TEACHER being trained with --method supervised; "
        "all steps: semiseg run self-training"
    )
    taken_with: ClassVar[Mapping[str, str]] = {"weak_labels": "set method.weight above 0"}
    weight: float = Field(
        1.0, ge=0, description="Weight of a pseudo-labelled pixel; a labelled one weighs 1 (published: 1)."
    )
    strong: StrongAugmentationSettings = Field(
        StrongAugmentationSettings(cutout=0.5),
        description="Augmentation of the pseudo-labelled images (published: colours, blur, a noisy cutout).",
    )

    clamp: ClampSettings | None = Field(
        None,
        description="For pseudo labels: pixels with a loss far above that around them teach no more. null: all do.",
    )

    @model_validator(mode="after")
    def _clamp_has_a_place(self) -> StudentSettings:
        if self.clamp is not None and self.weight == 0:
            raise ValueError("clamp is for pseudo labels, and with weight 0 there are none")
        return self

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.weight > 0 else ()


class StrongWeakSettings(LabellingSettings):
    """The common part of FixMatch, UniMatch and UniMatch V2. Published values: the code of UniMatch and UniMatch V2."""

    labels_from: ClassVar[str] = (
        f"{_PREDICTED}, NAME being any segmenter; {_NOT_PREDICTED}; or leave method.guidance out"
    )
    taken_with: ClassVar[Mapping[str, str]] = {
        "weak_labels": "set method.guidance.weight=0.1: they teach beside the network's own labels, "
        "where method.weight is above 0"
    }
    weight: Share = Field(
        0.5,
        description="w: the unlabelled part of the loss; the supervised one gets 1 - w (published: .5 each). 0: the\n"
        "unlabelled images do not take part, which leaves `supervised`.",
    )
    threshold: Share | AdaptiveThresholdSettings = Field(
        0.95,
        description="tau: only pixels whose label is at least this probable teach (published: .95 on VOC, COCO).\n"
        "0: all of them do, as fixmatch and unimatch have it on Cityscapes.\n"
        "{start: 0.85, momentum: 0.999}: follows, from there, the mean of the highest confidence of each class.",
    )
    strong: StrongAugmentationSettings = Field(StrongAugmentationSettings(), description="The strong views.")
    mixing: CutMixSettings = Field(
        CutMixSettings(style="unimatch"), description="The box of a second image in a strong view."
    )
    guidance: GuidanceSettings | None = Field(
        None,
        description="Estimated masks of unlabelled images (input weak_labels) beside the labels of the network: they\n"
        "teach all pixels of the views that are not 255, less and less. null: none.",
    )

    @property
    def guided(self) -> bool:
        """Whether estimated masks take part."""
        return self.guidance is not None and self.weight > 0

    def inputs(self) -> tuple[str, ...]:
        return ("weak_labels",) if self.guided else ()


class OwnLabelsSettings(StrongWeakSettings, TeacherStudentSettings):
    """The common part of FixMatch and UniMatch: the network labels its own weak views."""

    label_mode: Literal["train", "eval"] = Field(
        "train",
        description="Labels of the image itself. train: from the pass through labelled and unlabelled images\n"
        "together (published). eval: from a pass in eval mode, as those of its partner.",
    )
    teacher: TeacherSettings | None = Field(
        None,
        description="An averaged teacher that gives all labels (UniMatch V2's FixMatch: {decay: 0.996}); null: the\n"
        "network itself (published).",
    )


def settings_in(package: str, places: Iterable[str], base: type[Settings]) -> dict[str, type[Settings]]:
    """By name, the settings with a card in the modules of a package (`__name__`, `__path__`), derived of `base`."""
    found = {}
    for module in pkgutil.iter_modules(places):
        for value in vars(importlib.import_module(f"{package}.{module.name}")).values():
            own = isinstance(value, type) and value.__module__ == f"{package}.{module.name}"
            if own and issubclass(value, base) and "card" in vars(value):
                found[value.model_fields["name"].default] = value
    return found


def implementation(package: str, name: str, base: type[Implementation]) -> type[Implementation]:
    """The class derived of `base` in the module of a package that has this name (`-` as `_`)."""
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    found = [value for value in own if isinstance(value, type) and issubclass(value, base)]
    assert len(found) == 1, f"{module.__name__} has {len(found)} classes derived of {base.__name__}"
    return found[0]
