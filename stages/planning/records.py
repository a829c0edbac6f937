"""What planning knows and says: the fingerprint of a data set, a machine, wishes, measurements, and the plan.

All are plain records: a plan is the same for equal records, on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.config import merge

GIB = 2**30


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread over images or objects: percentiles."""

    low: float  # 10th
    quarter: float  # 25th
    median: float
    high: float  # 90th


@dataclass(frozen=True)
class DataFacts:
    """The fingerprint of a prepared data set.

    Attributes:
        classes: their names, background first where there is one.
        masks: images of split train; image_labels: images of split weak with an image-level label; unlabelled: the
            images of weak without one and those of unlabelled; holdout and val: images with masks to choose and score.
        label_sets: different sets of image-level labels among the images of weak.
        short, long: sides of all images, pixels. None of both: there are no images.
        objects: sides of objects, sqrt(area / area of the image), of connected parts of one class in the masks of
            train; None: there are none. object_count and masks_read: from how many objects and masks.
        class_pixels, class_images: of the masks of train, by class; class_labels: images of weak with this label.
        decoded_bytes: the images and masks of all trained images, decoded.
    """

    name: str
    classes: tuple[str, ...]
    masks: int = 0
    image_labels: int = 0
    unlabelled: int = 0
    holdout: int = 0
    val: int = 0
    label_sets: int = 0
    short: Spread | None = None
    long: Spread | None = None
    objects: Spread | None = None
    object_count: int = 0
    masks_read: int = 0
    class_pixels: Mapping[str, int] = field(default_factory=dict)
    class_images: Mapping[str, int] = field(default_factory=dict)
    class_labels: Mapping[str, int] = field(default_factory=dict)
    decoded_bytes: int = 0

    @property
    def has_background(self) -> bool:
        return self.classes[:1] == ("background",)

    @property
    def foreground(self) -> tuple[str, ...]:
        return self.classes[self.has_background :]


@dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    Attributes:
        device: "cpu", or "cuda" with an index.
        memory: bytes that a training may use: of the GPU if there is one, else of a whole process.
        bf16: whether the device has instructions for bf16.
        cached: the backbones whose ImageNet weights need no download.
    """

    device: str = "cpu"
    name: str = "cpu"
    memory: int = 8 * GIB
    cores: int = 1
    bf16: bool = False
    cached: tuple[str, ...] = ()

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Wishes:
    """What the user decides instead of the plan; None or "" where the plan decides.

    weights: a file, "imagenet" or "none"; "": what is found on this machine. precision: of trainings; bf16 or fp32.
    spent_s: of the budget, before the first step. model: what `semiseg run own` does in one process is planned:
    the choice is trained once more, images are predicted and reviewed, the model is written; else the commands are.
    jobs: so many steps are made at a time.
    """

    network: str = ""
    weights: str = ""
    method: str = ""
    crop_size: int | None = None
    batch_size: int | None = None
    iterations: int | None = None
    budget_s: float | None = None
    precision: str = ""
    spent_s: float = 0.0
    model: bool = False
    jobs: int = 1

    def named(self, name: str, value: str) -> str:
        """How the user gives a wish: --weights FILE, or --set weights=FILE."""
        return f"--set {name}={value}" if self.model else f"--{name.replace('_', '-')} {value}"


@dataclass(frozen=True)
class Trial:
    """A few real steps of one training: seconds, and the highest memory in bytes.

    start_s: from the start of the training to its first step; first_s: what the first step takes longer than others;
    end_s: from the last step to the published network.
    """

    batch_size: int
    memory: int
    step_s: float
    start_s: float
    first_s: float = 0.0
    end_s: float = 0.0

    def seconds(self, iterations: float) -> float:
        return self.start_s + self.first_s + iterations * self.step_s + self.end_s


@dataclass(frozen=True)
class Pace:
    """The time of a stage that goes over images: its start, and each image."""

    start_s: float
    image_s: float

    def seconds(self, images: int) -> float:
        return self.start_s + images * self.image_s


@dataclass(frozen=True)
class Measured:
    """What the probe found: by the name of each training its trial, and the time of everything else.

    batch_size: the largest one, up to the one that was asked for, with which every training stays below the memory.
    memory: of the first training, bytes by the batches that were tried. process_s: until a process can begin. paces:
    of the other steps by name, and of what PREDICTED, EVALUATED and REVIEWED name.
    """

    batch_size: int
    trials: Mapping[str, Trial]
    memory: Mapping[int, int] = field(default_factory=dict)
    process_s: float = 0.0
    paces: Mapping[str, Pace] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One decision: its value, the reason in a line, and where the rule comes from."""

    what: str
    value: str
    reason: str
    source: str


@dataclass(frozen=True)
class Step:
    """One command of the pipeline: a stage, the artifact it makes, its inputs, what differs from the plan's section.

    trains: of a training, the images it passes over: a row of PASSES; "": it is none. splits: of a different stage, the
    splits whose images it goes over.
    """

    stage: str
    name: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    trains: str = ""
    splits: tuple[str, ...] = ()


PREDICTED, EVALUATED, REVIEWED = "predict", "evaluate", "review"  # of images with masks, by a network of the plan


@dataclass(frozen=True)
class Plan:
    """The proposal.

    Attributes:
        method: the name of the row of METHODS that was taken; segmenters: the steps whose networks are compared, the
            baseline first.
        sections: settings by stage, as --config takes them; steps: the commands, in order, the scoring apart.
        iterations: of each training, by the name of its step.
        seconds: predicted, of each part of the plan; {} without measurements. total_s: of all of it. starts_s: of each
            training, without its steps.
    """

    method: str
    choices: tuple[Choice, ...]
    sections: Mapping[str, Mapping[str, Any]]
    steps: tuple[Step, ...]
    segmenters: tuple[str, ...]
    iterations: Mapping[str, int]
    batch_size: int
    least_batch: int
    remarks: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    total_s: float | None = None
    starts_s: Mapping[str, float] = field(default_factory=dict)

    def config(self, step: Step) -> dict[str, Any]:
        """The whole config of a step: its stage's section and what it changes; that of a node of a recipe, too."""
        section = dict(self.sections.get(step.stage, {}))
        if "method" in step.settings:  # the settings of one method do not fit another
            section.pop("method", None)
        return merge(section, step.settings)

    def trainings(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.trains)
