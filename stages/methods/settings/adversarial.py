"""Settings of the methods with a discriminator, and of the image classifier that s4GAN is fused with."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stages.config import Config
from stages.engine.config import OptimizerConfig, Share, StrongAugmentationSettings, TeacherSettings
from stages.methods.settings.base import Card, SemiSupervisedSettings

Channels = Annotated[int, Field(ge=2)]


class DiscriminatorSettings(Config):
    """A network that judges predictions, and how it learns."""

    channels: tuple[Channels, ...] = Field(
        (64, 128, 256, 512),
        min_length=1,
        description="Channels of its layers, each of which halves the map (published).",
    )
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(name="adam", lr=1e-4, new_lr_factor=1.0, weight_decay=0.0, betas=(0.9, 0.99)),
        description="Its optimiser (published: Adam, 1e-4, betas .9 and .99); the schedule is that of the training.",
    )


class AdvSemSegSettings(SemiSupervisedSettings):
    """Hung et al., BMVC 2018: a discriminator of pixels judges predictions; pixels it trusts are pseudo labels."""

    card: ClassVar[Card] = Card(
        title="Adversarial training: a discriminator says which pixels of a prediction look like a mask's",
        paper="Hung et al., BMVC 2018",
        uses=("masks", "pictures"),
        place="stages.methods.advsemseg:AdvSemSeg",
        loss="L = L_S + L_D\n"
        "L_S = CE(f(x), y) + a BCE(D(P(x)), 1) + b BCE(D(P(u)), 1) + c CE(f(u), argmax f(u) where s(D(P(u))) >= T)\n"
        "L_D = 1/2 [BCE(D([P(x), P(u)]), 0) + BCE(D(onehot y), 1)];  s: sigmoid",
        forward=2,
        backward=2,
        beside="5 passes of the discriminator",
        sources=("Hung et al., BMVC 2018", "its code, hfslyc/AdvSemiSeg: weights of its README, T, widths"),
    )
    name: Literal["advsemseg"] = "advsemseg"
    adversarial: float = Field(
        0.01,
        ge=0,
        description="a: weight of the adversarial term on labelled pictures (published; the code's own is .1).",
    )
    adversarial_unlabelled: float = Field(
        0.001, ge=0, description="b: weight of the adversarial term on unlabelled pictures (published)."
    )
    weight: float = Field(0.1, ge=0, description="c: weight of the pseudo labels (published).")
    threshold: Share = Field(
        0.2, description="T: pixels whose score, sigmoid(D), is at least this have a pseudo label (published)."
    )
    start: Share = Field(
        0.25, description="Share of the iterations before there are pseudo labels (published: 5000 of 20000)."
    )
    discriminator: DiscriminatorSettings = Field(DiscriminatorSettings(), description="The discriminator D.")


class S4GanSettings(SemiSupervisedSettings):
    """Mittal et al., PAMI 2021: a discriminator of pictures matches features and chooses whole pictures."""

    card: ClassVar[Card] = Card(
        title="s4GAN: feature matching, and pseudo labels for the pictures a discriminator takes for real",
        paper="Mittal et al., PAMI 2021",
        uses=("masks", "pictures"),
        place="stages.methods.s4gan:S4Gan",
        loss="L = L_S + L_D\n"
        "L_S = CE(f(x), y) + m mean|E h(onehot y, x) - E h(P(u), u)|\n"
        "    + c CE(f(u), argmax f(u)) over the pictures u with s(D(P(u), u)) > g\n"
        "L_D = 1/2 [BCE(D(P(u), u), 0) + BCE(D(onehot y, x), 1)];  h: D's last features, s: sigmoid",
        forward=2,
        backward=2,
        beside="3 passes of the discriminator",
        sources=("Mittal et al., PAMI 2021", "its code, sud0301/semisup-semseg: train_s4GAN.py"),
        recipe="s4gan",
        profile="paper",
    )
    name: Literal["s4gan"] = "s4gan"
    feature_matching: float = Field(0.1, ge=0, description="m: weight of the feature matching (published).")
    weight: float = Field(1.0, ge=0, description="c: weight of the pseudo labels (published).")
    threshold: Share = Field(
        0.6, description="g: pictures scored above this, sigmoid(D), have pseudo labels (published; Cityscapes .7)."
    )
    warmup: Share = Field(
        0.0,
        description="Share of the iterations before pictures are chosen. Published: 0; but a discriminator that has\n"
        "learned little scores nearly every picture above .6 (issue 4 of ALS4GAN).",
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability that D drops a channel, after all layers but the last (published)."
    )
    discriminator: DiscriminatorSettings = Field(DiscriminatorSettings(), description="The discriminator D.")


class MlmtSettings(SemiSupervisedSettings):
    """Mittal et al., PAMI 2021: an image classifier with a mean teacher, whose classes a segmenter may not leave."""

    card: ClassVar[Card] = Card(
        title="MLMT: multi-label mean teacher, an image classifier that s4GAN's predictions are filtered with",
        paper="Mittal et al., PAMI 2021",
        uses=("masks", "pictures"),
        place="stages.methods.mlmt:Mlmt",
        loss="L = BCE(c(x), classes of y) + w(t) mean (1 - cos(c(S(u)), c'(u)))\n"
        "c' <- a c' + (1 - a) c;  S: colours, blur;  w: 0, then linear from start to start + ramp",
        forward=3,
        backward=2,
        beside="of a classifier, one of them of its average",
        sources=("Mittal et al., PAMI 2021", "its code, sud0301/semisup-semseg: train_mlmt.py"),
        inference="the teacher",
        output="classifier",
        recipe="s4gan",
        profile="paper",
    )
    hard_examples: ClassVar[bool] = False
    name: Literal["mlmt"] = "mlmt"
    weight: float = Field(1.0, ge=0, description="Largest w: weight of the consistency (published).")
    start: Share = Field(
        0.1, description="Share of the iterations before there is a consistency (published: 10 of 100 epochs)."
    )
    ramp: Share = Field(
        0.5, description="Share of the iterations over which w then rises linearly (published: 50 of 100 epochs)."
    )
    teacher: TeacherSettings = Field(
        TeacherSettings(decay=0.999),
        description="The average c' (published: .999, parameters alone, in train mode).",
    )
    strong: StrongAugmentationSettings = Field(
        StrongAugmentationSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.0),
        description="The student's view of unlabelled pictures (published: jitter .4 .4 .4 .1, blur .1 to 2).",
    )
    mirror: Share = Field(
        0.0,
        description="Probability that the student sees an unlabelled picture mirrored against the teacher (published:\n"
        ".5, as both mirror theirs by chance).",
    )
