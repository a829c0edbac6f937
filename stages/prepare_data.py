"""`prepare-data`: one data set artifact from the embedded shapes or from a PASCAL VOC 2012 devkit.

    semiseg prepare-data --dataset shapes
    semiseg prepare-data --dataset voc-aug --source VOCdevkit/VOC2012 --sbd benchmark_RELEASE

The artifact holds the lists of the splits `train` (masks), `weak` (image-level labels) and `val` (scored), the
labels, the masks, and for shapes the images; the images of VOC stay where they are unless `copy_images` is set.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from artifacts.errors import ConfigError
from artifacts.store import Artifact, Writer
from stages.config import Config
from stages.contract import Execution, Stage
from stages.data.config import VOC_CLASS_NAMES, ShapesConfig


class PrepareDataConfig(Config):
    """Which data set to prepare, and how. The fields from `source` on are for voc-aug, `shapes` is for shapes."""

    dataset: Literal["shapes", "voc-aug"] = Field(
        "shapes",
        description="shapes: drawn here, needs no files. voc-aug: PASCAL VOC 2012 with SBD, 10,582 / 1,449 images.",
    )
    source: str = Field("", description="VOC devkit: the folder that holds JPEGImages (or VOC2012 or VOCdevkit).")
    sbd: str = Field(
        "",
        description="SBD's folder (benchmark_RELEASE or its dataset folder), or a folder of PNG masks; "
        "empty: the devkit's SegmentationClassAug.",
    )
    allow_subset: bool = Field(
        False, description="Accept other counts than VOC's (train 1,464, trainaug 10,582, val 1,449)."
    )
    classes: tuple[str, ...] = Field(
        (),
        description="Classes to keep, in the order of their new ids 1..K; the others become 255 in the masks and "
        "leave the labels. Empty: all 20.",
    )
    without_kept_class: Literal["keep", "drop"] = Field(
        "keep",
        description="What becomes of training images that show no kept class: keep them (background and 255 only) "
        "or drop them. Images of val always stay, so that scores stay comparable.",
    )
    labelled: str = Field(
        "",
        description="Images of split train, whose masks may be used: a list file, a number (183), a fraction (1/8, "
        "0.125), or empty for VOC's train list.",
    )
    labelled_from: Literal["train", "trainaug"] = Field(
        "train", description="What a number or fraction is drawn from: VOC's 1,464 or all 10,582 training images."
    )
    labelled_seed: int = Field(0, ge=0, description="Seed of that draw; draws of one seed are nested.")
    weak: bool = Field(True, description="Whether the other training images form the split weak.")
    tag_source: Literal["auto", "xml", "masks", "file"] = Field(
        "auto",
        description="Image-level labels from Annotations (xml), from the masks, or from a text file; auto takes the "
        "first of xml, file, masks that covers the training images. Results differ between sources.",
    )
    tag_file: str = Field("", description="Text file of labels (id and class names); empty: image_labels.txt.")
    copy_images: bool = Field(False, description="Copy the images into the artifact instead of pointing to them.")
    verify_images: bool = Field(False, description="Decode every image now, not only its header.")
    shapes: ShapesConfig = Field(default=ShapesConfig(), description="How shapes is drawn.")

    @field_validator("classes", mode="before")
    @classmethod
    def _split_classes(cls, value: Any) -> Any:
        """`cat,cow,dog` of the command line."""
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("labelled", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        """YAML reads 183 and 0.125 as numbers."""
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("labelled")
    @classmethod
    def _labelled_is_meaningful(cls, value: str) -> str:
        if value:
            _in_words(_parse_labelled, value)
        return value

    @field_validator("classes")
    @classmethod
    def _classes_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in VOC_CLASS_NAMES[1:]:
                close = difflib.get_close_matches(name, VOC_CLASS_NAMES[1:], n=1)
                meant = f", did you mean {close[0]!r}?" if close else f"; VOC has {', '.join(VOC_CLASS_NAMES[1:])}"
                raise ValueError(f"{name!r} is no class of VOC{meant}")
        if len(set(value)) != len(value):
            raise ValueError("a class stands twice")
        return value

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> PrepareDataConfig:
        """A setting of the other data set would do nothing, without a word."""
        if self.dataset == "voc-aug" and not self.source:
            raise ValueError("dataset voc-aug needs source, the folder of a VOC devkit")
        defaults = type(self).model_fields
        own = {"dataset", "shapes"} if self.dataset == "shapes" else set(defaults) - {"shapes"}
        idle = [
            name
            for name in defaults
            if name not in own and getattr(self, name) != defaults[name].get_default(call_default_factory=True)
        ]
        if idle:
            raise ValueError(f"{', '.join(idle)} has no effect on dataset {self.dataset}")
        drawn = self.labelled and not isinstance(_parse_labelled(self.labelled), Path)
        if not drawn and (self.labelled_from != "train" or self.labelled_seed != 0):
            raise ValueError(
                "labelled_from and labelled_seed have an effect only when labelled is a number or fraction"
            )
        if self.tag_file and self.tag_source not in ("auto", "file"):
            raise ValueError(f"tag_file has no effect with tag_source {self.tag_source}")
        return self


def _parse_labelled(text: str) -> Any:
    from stages.data.splits import parse_labelled

    return parse_labelled(text)


def _in_words(parse: Any, text: str) -> None:
    """A ConfigError as the ValueError that pydantic gathers."""
    try:
        parse(text)
    except ConfigError as error:
        raise ValueError(error.message) from None


def run(
    config: PrepareDataConfig, inputs: Mapping[str, Artifact | None], writer: Writer, execution: Execution
) -> dict[str, Any]:
    """Write the data set; returns what a person wants to know of it."""
    if execution.rank != 0:
        return {}  # under torchrun one process prepares, with a pool of its own
    if config.dataset == "shapes":
        from stages.data.shapes import write_shapes

        return write_shapes(config.shapes, writer, execution)
    from stages.data.voc import write_voc

    return write_voc(config, writer, execution)


def externals(config: PrepareDataConfig) -> dict[str, Path]:
    """Lists and label files that the config names or that lie in its folders: their content counts, not their path.

    ConfigError for a folder that is not there: then nothing can be said about its files.
    """
    check(config, {})
    files: dict[str, Path] = {}
    if config.dataset == "voc-aug":
        from stages.data.voc import text_files

        files |= text_files(Path(config.source).expanduser(), Path(config.sbd).expanduser() if config.sbd else None)
    if config.labelled:
        labelled = _parse_labelled(config.labelled)
        if isinstance(labelled, Path):
            files["labelled"] = labelled
    if config.tag_file:
        files["tag_file"] = Path(config.tag_file).expanduser()
    return files


def check(config: PrepareDataConfig, inputs: Mapping[str, Artifact | None]) -> None:
    """The folders named by the config exist."""
    for key in ("source", "sbd"):
        folder = getattr(config, key)
        if folder and not Path(folder).expanduser().is_dir():
            raise ConfigError(f"{key} names {folder}, which is no folder", f"correct {key}")


STAGE = Stage(
    name="prepare-data",
    version=1,
    summary="Prepare a data set: lists, image-level labels, masks.",
    config=PrepareDataConfig,
    inputs={},
    output="dataset",
    run=run,
    externals=externals,
    check=check,
)
