"""Settings and names of the data sets, separate from the code that reads them, so that `--help` loads little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import Field, field_validator, model_validator

from artifacts.errors import ConfigError
from artifacts.text import did_you_mean
from stages.config import Config

VOC_CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


CITYSCAPES_CLASS_NAMES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)


# The order of 59_labels.txt, the names of labels.txt: the former has diningtable, clothes and bedcloth in some copies.
PASCAL_CONTEXT_CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
    "bag",
    "bed",
    "bench",
    "book",
    "building",
    "cabinet",
    "ceiling",
    "cloth",
    "computer",
    "cup",
    "door",
    "fence",
    "floor",
    "flower",
    "food",
    "grass",
    "ground",
    "keyboard",
    "light",
    "mountain",
    "mouse",
    "curtain",
    "platform",
    "sign",
    "plate",
    "road",
    "rock",
    "shelves",
    "sidewalk",
    "sky",
    "snow",
    "bedclothes",
    "track",
    "tree",
    "truck",
    "wall",
    "water",
    "window",
    "wood",
)


class DatasetSettings(Config):
    """Base of the settings of a data set; `name` selects it."""

    name: str
    known_classes: ClassVar[tuple[str, ...]] = ()
    """Names that `classes` may keep, where they are known before anything is read."""
    reader: ClassVar[str] = ""
    """The module of stages.data.readers with its `find` and `text_files`; empty: it is drawn, and has no files."""


class ShapesConfig(DatasetSettings):
    """The embedded data set `shapes`: drawn by semiseg, needs no files. It has no published counterpart."""

    name: Literal["shapes"] = "shapes"
    train: int = Field(default=60, ge=1, description="Images with masks (split `train`).")
    weak: int = Field(default=540, ge=0, description="Images with image-level labels only (split `weak`).")
    val: int = Field(default=150, ge=1, description="Images that are scored (split `val`).")
    seed: int = Field(default=0, ge=0, description="Seed; every image draws from (seed, image id) alone.")
    long_side: int = Field(default=96, ge=48, le=512, description="Long side of every image, in pixels.")
    shortest_side: float = Field(
        default=0.72, ge=0.5, le=1.0, description="Smallest short side as a share of the long side; aspect varies."
    )
    object_radius: tuple[float, float] = Field(
        default=(0.18, 0.42), description="Smallest and largest object radius as shares of the short side."
    )
    most_objects: int = Field(default=4, ge=1, le=6, description="Most objects drawn into one image.")
    clutter: int = Field(
        default=6, ge=0, le=40, description="Mean number of clutter objects, which belong to no class."
    )
    context_with: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Probability that an object with a context (boat: water, mushroom: moss) is drawn in it.",
    )
    context_without: float = Field(
        default=0.06, ge=0, le=1, description="Probability that a context appears in an image without its class."
    )
    border: int = Field(
        default=1, ge=0, le=4, description="Pixels of 255 on each side of an object's outline (VOC draws about 2-3)."
    )
    noise: float = Field(default=0.02, ge=0, le=0.3, description="Standard deviation of pixel noise, of 0..1.")
    objects: bool = Field(
        default=False,
        description="Also write the number of each pixel's object (objects/), for evaluate-instances.",
    )

    @model_validator(mode="after")
    def _radii_are_ordered(self) -> ShapesConfig:
        smallest, largest = self.object_radius
        if not 0.08 <= smallest <= largest <= 0.6:
            raise ValueError(f"object_radius is {self.object_radius}, expected 0.08 <= smallest <= largest <= 0.6")
        return self


class VocAugConfig(DatasetSettings):
    """PASCAL VOC 2012 with SBD: 10,582 training images, 1,449 of val."""

    name: Literal["voc-aug"] = "voc-aug"
    reader: ClassVar[str] = "voc"
    known_classes: ClassVar[tuple[str, ...]] = VOC_CLASS_NAMES[1:]
    source: str = Field("", description="VOC devkit: the folder that holds JPEGImages (or VOC2012 or VOCdevkit).")
    sbd: str = Field(
        "",
        description="SBD's folder (benchmark_RELEASE or its dataset folder), or a folder of PNG masks; "
        "empty: the devkit's SegmentationClassAug.",
    )
    download: str = Field(
        "", description="Folder to download VOC 2012 and SBD into (3.4 GB, once; continued after a cut), and to use."
    )
    mirrors: tuple[str, ...] = Field((), description="Base addresses tried before the official ones.")

    @field_validator("mirrors", mode="before")
    @classmethod
    def _one_mirror(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_a_place(self) -> VocAugConfig:
        if bool(self.source) == bool(self.download):
            raise ValueError("needs source, the folder of a VOC devkit, or download, a folder to fetch it into")
        if self.download and self.sbd:
            raise ValueError("sbd has no effect with download, which fetches SBD too")
        if self.mirrors and not self.download:
            raise ValueError("mirrors has no effect without download")
        return self


class CityscapesConfig(DatasetSettings):
    """Cityscapes: 2,975 finely annotated training images, 500 of val; 19 classes (trainIds), no background."""

    name: Literal["cityscapes"] = "cityscapes"
    reader: ClassVar[str] = "cityscapes"
    known_classes: ClassVar[tuple[str, ...]] = CITYSCAPES_CLASS_NAMES
    source: str = Field(description="The folder that holds leftImg8bit and gtFine (and gtCoarse).")
    coarse: Literal["none", "weak", "unlabelled"] = Field(
        "none",
        description="The images of train_extra: left out, weak (labels from their coarse masks) or unlabelled.",
    )


class CocoConfig(DatasetSettings):
    """COCO: background and 80 classes, masks drawn from the instances."""

    name: Literal["coco"] = "coco"
    reader: ClassVar[str] = "coco"
    source: str = Field(description="The folder that holds annotations and train2017, val2017 (or of 2014).")
    year: Literal["2014", "2017"] = Field("2017", description="Which split of the images.")
    crowd: Literal["ignore", "class"] = Field(
        "ignore", description="Crowd regions become 255 where no single object lies, or their class."
    )

    unlabelled: bool = Field(
        False, description="Take the 123,403 images of unlabeled2017, which have no annotations, as split unlabelled."
    )

    @field_validator("year", mode="before")
    @classmethod
    def _year_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _unlabelled_is_of_2017(self) -> CocoConfig:
        if self.unlabelled and self.year != "2017":
            raise ValueError("unlabelled has no effect with year 2014: the images are those of 2017")
        return self


class PascalContextConfig(DatasetSettings):
    """PASCAL-Context: 4,998 / 5,105 images of VOC 2010; its 59 most frequent classes, with or without background."""

    name: Literal["pascal-context"] = "pascal-context"
    reader: ClassVar[str] = "pascal_context"
    known_classes: ClassVar[tuple[str, ...]] = PASCAL_CONTEXT_CLASS_NAMES
    source: str = Field(description="VOC 2010 devkit: the folder that holds JPEGImages (or VOC2010 or VOCdevkit).")
    annotations: str = Field(
        "",
        description="Folder of the .mat files (trainval), with labels.txt in, next to or above it, or of PNG masks "
        "with the values 1..59, and 0 for background; empty: found below source or next to the devkit.",
    )
    png_order: Literal["auto", "official", "alphabetical"] = Field(
        "auto",
        description="Order of the classes in PNG masks. official: the order of 59_labels.txt (in a folder "
        "59_context_labels). alphabetical: that of the detail API and mmsegmentation (SegmentationClassContext). "
        "auto: by the folder's name.",
    )
    num_classes: Literal[59, 60] = Field(
        60, description="60: background is a class. 59: background becomes 255 and there is no background class."
    )


class FolderConfig(DatasetSettings):
    """Your own images: a folder of images, and masks, labels or nothing for each of them."""

    name: Literal["folder"] = "folder"
    reader: ClassVar[str] = "folder"
    images: str = Field(description="Folder of images; the id of one is its file name without suffix.")
    masks: str | tuple[str, ...] = Field(
        "",
        description="Folder of masks of the same file names (PNG of class ids or of colours, LabelMe or Supervisely "
        "JSON, YOLO polygons), or a file for all: COCO or Label Studio JSON, CVAT XML. Several: [masks, corrected]; "
        "the last mask of an image counts. Images without a mask become weak (with labels) or unlabelled.",
    )
    mask_format: Literal[
        "auto", "ids", "colours", "binary", "labelme", "coco", "cvat", "supervisely", "label-studio", "yolo"
    ] = Field("auto", description="How masks are read; auto looks at the masks, and prints what it found.")
    class_table: str = Field(
        "",
        description="Text file of the classes: a name a line, with its colour `name R G B` where masks are painted; "
        "CSV with a header, JSON or YAML.",
    )
    labels: str = Field(
        "", description="CSV or text file of image-level labels: id and class names, or a column a class."
    )
    uncertain_labels: Literal["refuse", "absent", "present"] = Field(
        "refuse", description="What marks such as -1, ? and nan in a column of `labels` mean."
    )
    unlabelled: str = Field("", description="Folder of further images without any label.")
    val: str = Field(
        "0.2",
        description="Images with masks to evaluate on: a list file, a number, or a fraction (drawn with val_seed).",
    )
    val_seed: int = Field(0, ge=0, description="Seed of that draw.")
    scenes: str = Field(
        "",
        description="Images of one scene are never on both sides of a draw of val or holdout. similar: near-duplicates "
        "and series of photos, which are found; a text file: an image and its scene on each line; empty: no scenes.",
    )
    exif: Literal["auto", "apply", "ignore"] = Field(
        "auto",
        description="Turned photos: apply the EXIF orientation, ignore it, or (auto) whichever gives the mask's size.",
    )
    white: float = Field(
        0,
        ge=0,
        description="The value of white in images with more than 8 bits a channel (4095 for 12 bits, 1 for floats "
        "of 0..1). 0: as the file declares; else 65535, and for floats the first of 1, 255, 65535 that holds them.",
    )

    @field_validator("val", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def check_kept(kept: Sequence[str], known: Sequence[str], dataset: str) -> None:
    """ConfigError for a name that is not a class of the data set (with similar names), or that occurs twice."""
    for name in kept:
        if name not in known:
            raise ConfigError(f"{name!r} is not a class of {dataset}{did_you_mean(name, known)}", "correct classes")
    if len(set(kept)) != len(kept):
        raise ConfigError("a class occurs twice", "correct classes")


if TYPE_CHECKING:
    AnyDataset = DatasetSettings
else:
    AnyDataset = Annotated[
        Union[tuple(DatasetSettings.__subclasses__())],  # noqa: UP007  (of a tuple)
        Field(discriminator="name"),
    ]


# labels.py of cityscapesScripts: the 19 classes that are scored, in the order of their train ids 0..18.
CITYSCAPES_LABEL_IDS: dict[str, int] = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
