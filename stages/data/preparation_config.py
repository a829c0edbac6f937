"""The settings of `prepare-data`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from artifacts.errors import ConfigError
from stages.config import SHORTHAND, Config, External, ExternalFile
from stages.data.config import AnyDataset, DatasetSettings, ShapesConfig, check_kept


def reader_of(settings: DatasetSettings) -> Any:
    """The module that reads a data set made of files."""
    return importlib.import_module(f"stages.data.readers.{settings.reader}")


def check_folders(settings: DatasetSettings) -> None:
    """ConfigError for a folder that is not there."""
    for key in ("source", "sbd", "images", "annotations"):
        folder = getattr(settings, key, "")
        if folder and not Path(folder).expanduser().is_dir():
            raise ConfigError(f"{key} names {folder}, which is not a folder", f"correct {key}")


def _text_files(settings: DatasetSettings) -> Mapping[str, Path]:
    """Lists and labels that the settings name or that lie in their folders: all that the reader says."""
    check_folders(settings)
    return reader_of(settings).text_files(settings) if settings.reader else {}


def _list_file(amount: str) -> Path | None:
    parsed = _parse_amount(amount) if amount else None
    return parsed if isinstance(parsed, Path) else None


class PrepareDataConfig(Config):
    """Which data set to prepare, and how. The fields after `dataset` are for data sets made of files, not shapes."""

    dataset: Annotated[AnyDataset, External(_text_files)] = Field(
        ShapesConfig(),
        description="shapes (drawn here), voc-aug, cityscapes, coco, pascal-context, or folder (your own).",
    )
    allow_subset: bool = Field(
        False, description="Accept counts other than the published (VOC: train 1,464, trainaug 10,582, val 1,449)."
    )
    classes: tuple[str, ...] = Field(
        (),
        description="Classes to keep, in the order of their new ids; the others leave the labels. Empty: all.\n"
        "With dataset folder, the path of a text file is taken as its class_table.",
    )
    other_classes: Literal["ignore", "background"] = Field(
        "ignore", description="What pixels of classes that are not kept become: 255 (ignore) or background."
    )
    without_kept_class: Literal["keep", "drop"] = Field(
        "keep",
        description="What becomes of training images that show no kept class: keep them (background and 255 only) "
        "or drop them. Images of val always stay, so that scores stay comparable.",
    )
    labelled: Annotated[str, External(_list_file)] = Field(
        "",
        description="Images of split train, whose masks may be used: a list file, a number (183), a fraction (1/8, "
        "0.125), or empty for the data set's own train list.",
    )
    labelled_from: Literal["train", "all"] = Field(
        "train",
        description="What a number or fraction is drawn from: the train list (VOC's 1,464) or all training images "
        "(trainaug's 10,582).",
    )
    labelled_seed: int = Field(0, ge=0, description="Seed of that draw; draws of one seed are nested.")
    labelled_balanced: bool = Field(False, description="Draw so that the classes get images as evenly as possible.")
    holdout: Annotated[str, External(_list_file)] = Field(
        "",
        description="Labelled images set aside as split holdout, to choose a checkpoint or a setting by: a number, a "
        "fraction (0.2) or a list file. Nothing trains on them.",
    )
    holdout_seed: int = Field(0, ge=0, description="Seed of that draw.")
    unlabelled: ExternalFile = Field(
        "", description="List file of the other training images, checked against the labelled ones; empty: all others."
    )
    others: Literal["weak", "unlabelled", "none"] = Field(
        "weak",
        description="What the other training images become: split weak (with image-level labels), unlabelled, or none.",
    )
    tag_source: str = Field(
        "auto",
        min_length=1,
        description="Image-level labels from Annotations (xml), from the masks (masks), from a text file (file), or "
        "from a source that the data set's reader names; auto takes the first of these, masks last, that covers the "
        "training images. Results differ between sources.",
    )
    tag_file: ExternalFile = Field(
        "", description="Text file of labels (id and class names); empty: the data set's own."
    )
    copy_images: bool = Field(False, description="Copy the images into the artifact, instead of linking to them.")
    verify_images: bool = Field(False, description="Decode every image now, not only its header.")

    @model_validator(mode="before")
    @classmethod
    def _class_table_by_classes(cls, value: Any) -> Any:
        """`--images DIR` alone means dataset folder; with it, `--classes FILE` is its class table."""
        if not isinstance(value, dict) or not isinstance(value.get("dataset"), dict):
            return value
        chosen, dataset = value.get("classes"), value["dataset"]
        if "images" in dataset and not {"name", SHORTHAND} & dataset.keys():
            dataset = {"name": "folder"} | dataset
            value = value | {"dataset": dataset}
        words = [chosen] if isinstance(chosen, str) else list(chosen or ())
        if len(words) > 1 and Path(whole := ",".join(map(str, words))).expanduser().is_file():
            words = [whole]  # the path of a file, with a comma in it
        if dataset.get("name", dataset.get(SHORTHAND)) != "folder" or len(words) != 1 or not _is_table(words[0]):
            return value
        return value | {"classes": (), "dataset": {"class_table": words[0]} | dataset}

    @field_validator("classes", mode="before")
    @classmethod
    def _split_classes(cls, value: Any) -> Any:
        """`cat,cow,dog` of the command line."""
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("labelled", "holdout", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        """YAML reads 183 and 0.125 as numbers."""
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("labelled", "holdout")
    @classmethod
    def _amount_is_meaningful(cls, value: str, info: ValidationInfo) -> str:
        if value:
            _in_words(_parse_amount, value, info.field_name)
        return value

    @model_validator(mode="after")
    def _classes_are_known(self) -> PrepareDataConfig:
        if self.dataset.known_classes:
            _in_words(check_kept, self.classes, self.dataset.known_classes, self.dataset.name)
        return self

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> PrepareDataConfig:
        """ConfigError for settings that have no effect on the chosen data set."""
        idle = [
            name
            for name, field in type(self).model_fields.items()
            if name not in ("dataset", "holdout", "holdout_seed")
            and getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        if self.dataset.name == "shapes" and idle:
            raise ValueError(f"{', '.join(idle)} has no effect on dataset shapes")
        if self.holdout_seed and not (self.holdout and not isinstance(_parse_amount(self.holdout), Path)):
            raise ValueError("holdout_seed needs holdout to be a number or fraction")
        drawn = self.labelled and not isinstance(_parse_amount(self.labelled), Path)
        if not drawn and (self.labelled_seed != 0 or self.labelled_balanced):
            raise ValueError("labelled_seed and labelled_balanced need labelled to be a number or fraction")
        if not self.labelled and self.labelled_from != "train":  # a recipe may set it for whatever labelled is given
            raise ValueError("labelled_from has no effect without labelled")
        if self.unlabelled and self.others == "none":
            raise ValueError("unlabelled has no effect with others none")
        if self.other_classes != "ignore" and not self.classes:
            raise ValueError("other_classes has no effect without classes")
        if self.tag_file and self.tag_source not in ("auto", "file"):
            raise ValueError(f"tag_file has no effect with tag_source {self.tag_source}")
        return self


_TABLES = (".txt", ".csv", ".json", ".yaml", ".yml")


def _is_table(word: Any) -> bool:
    return isinstance(word, str) and (Path(word).suffix in _TABLES or Path(word).expanduser().is_file())


def _parse_amount(text: str, what: str = "labelled") -> Any:
    from stages.data.lists.splits import parse_amount

    return parse_amount(text, what)


def _in_words(check: Any, *arguments: Any) -> None:
    """Raises a ConfigError as the ValueError that pydantic collects."""
    try:
        check(*arguments)
    except ConfigError as error:
        raise ValueError(error.message) from None
