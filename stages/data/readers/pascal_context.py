"""PASCAL-Context: all pixels of VOC 2010's images labelled; the 59 most frequent classes, with or without background.

    raw = find(PascalContextConfig(source="VOCdevkit"), Execution())
    # VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg, ImageSets/Main/{train,val}.txt, trainval/2008_000002.mat, labels.txt

The annotations exist in three forms with three numberings. All become one here: the classes in the order of
59_labels.txt, with the names of labels.txt.

- trainval.tar.gz of the authors: a .mat file an image, whose LabelMap holds ids of labels.txt (459 names). Labels
  outside the 59 become background.
- 59_context_labels.tar.gz of the authors: PNG files, 0 background, 1..59 in the order of 59_labels.txt.
- SegmentationClassContext, made with the `detail` API for mmsegmentation and others: PNG files, 0 background, 1..59 in
  alphabetical order. With it come lists of its own, ImageSets/SegmentationContext.

train and val are those of VOC 2010's ImageSets/Main, restricted to annotated images: 4,998 and 5,105. The lists of
the detail API lack three of them: 4,996 and 5,104.

With num_classes 60 background is class 0. With 59 there is none: it becomes 255, and class ids are 0..58.

Facts: the project page of PASCAL-Context (Mottaghi et al., CVPR 2014), the data layer and lists of classes of FCN
(Shelhamer et al., 2017), the converter of mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE, read_mask
from artifacts.text import amount, named
from stages.contract import Execution
from stages.data.config import PASCAL_CONTEXT_CLASS_NAMES, PascalContextConfig
from stages.data.lists.id_lists import Names, check_disjoint, read_lines, read_list
from stages.data.readers.raw import RawDataset, says_what_cannot_be_read
from stages.data.readers.voc import files_by_id

EXPECTED = {"train": 4998, "val": 5105}
EXPECTED_OF_DETAIL = {"train": 4996, "val": 5104}
COUNT_HINTS = {964: "964 is VOC 2010's list for segmentation", 10_103: "10,103 is train and val together"}
MAT_FOLDER = "trainval"
PNG_FOLDERS = {"59_context_labels": "official", "SegmentationClassContext": "alphabetical"}
LIST_FOLDERS = ("Main", "SegmentationContext")


# ------------------------------------------------------------------------------------------------- what lies where


@dataclass(frozen=True)
class Annotations:
    """A folder of annotations; the files by image id."""

    folder: Path
    files: Mapping[str, str]
    order: str  # "mat", or that of the PNG files: "official", "alphabetical"


@dataclass(frozen=True)
class Layout:
    """What the settings name, found on disk."""

    root: Path  # holds JPEGImages
    annotations: Annotations
    labels: Path | None  # labels.txt, of .mat files
    lists: Mapping[str, Path]  # "train", "val"


def locate(settings: PascalContextConfig) -> Layout:
    """Finds the devkit, the annotations and the lists. DataError lists everything that is missing."""
    source = Path(settings.source).expanduser()
    root = next((p for p in (source, source / "VOC2010", source / "VOCdevkit" / "VOC2010") if _is_devkit(p)), None)
    if root is None:
        raise DataError(
            f"{source} is not a VOC 2010 devkit: no folder JPEGImages in it or in VOC2010 or VOCdevkit/VOC2010 below",
            "give the folder that holds JPEGImages and ImageSets (--source)",
        )
    annotations = _annotations(settings, source, root)
    labels, lists = _labels(annotations) if annotations else None, _lists(root, annotations)
    problems = []
    if annotations is None:
        where = settings.annotations or f"{root}, {root.parent}"
        problems.append(
            f"there are no annotations in {where}: no {MAT_FOLDER}/*.mat, no PNGs in {_either(PNG_FOLDERS)}"
        )
    elif annotations.order == "mat" and labels is None:
        problems.append(f"labels.txt is neither in {annotations.folder} nor beside or above it")
    if not lists:
        problems.append(f"{root / 'ImageSets'} has no train.txt and val.txt in {_either(LIST_FOLDERS)}")
    if annotations is None or problems:
        raise DataError(
            "\n".join(problems),
            "trainval.tar.gz brings the .mat files and labels.txt, the devkit of VOC 2010 the lists; folders of other "
            "names: --set dataset.annotations=DIR",
        )
    return Layout(root, annotations, labels, lists)


def _is_devkit(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir()


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _annotations(settings: PascalContextConfig, source: Path, root: Path) -> Annotations | None:
    """The folder that the settings name, or the first found: .mat files before PNGs. None: there is none."""
    names = (MAT_FOLDER, f"{MAT_FOLDER}/{MAT_FOLDER}", *PNG_FOLDERS)
    if settings.annotations:
        folder = Path(settings.annotations).expanduser()
        places = [folder, *(folder / name for name in names)]
    else:
        places = [base / name for name in names for base in (root, root.parent, source)]
    for place in places:
        if files := files_by_id(place, (".mat",)):
            if settings.png_order != "auto":
                raise ConfigError(f"png_order has no effect on the .mat files in {place}", "leave it out")
            return Annotations(place, files, "mat")
        if files := files_by_id(place, (".png",)):
            return Annotations(place, files, _order(settings, place))
    return None


def _order(settings: PascalContextConfig, folder: Path) -> str:
    if settings.png_order != "auto":
        return settings.png_order
    if folder.name not in PNG_FOLDERS:
        raise DataError(
            f"the order of the classes in the PNG files of {folder} is not known: "
            f"its name is not {_either(PNG_FOLDERS)}",
            "--set dataset.png_order=official (the order of 59_labels.txt) or alphabetical (mmsegmentation's)",
        )
    return PNG_FOLDERS[folder.name]


def _labels(annotations: Annotations) -> Path | None:
    above = (annotations.folder, *annotations.folder.absolute().parents[:2])
    return next((folder / "labels.txt" for folder in above if (folder / "labels.txt").is_file()), None)


def _lists(root: Path, annotations: Annotations | None) -> dict[str, Path]:
    """The lists that belong to the annotations, else the other ones; empty if there are none."""
    names = LIST_FOLDERS if annotations is None or annotations.order != "alphabetical" else LIST_FOLDERS[::-1]
    for name in names:
        lists = {split: root / "ImageSets" / name / f"{split}.txt" for split in EXPECTED}
        if all(path.is_file() for path in lists.values()):
            return lists
    return {}


# ------------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True)
class ContextMasks:
    """Reads masks of either kind as uint8 (H, W), class ids and 255. Travels to other processes.

    table: uint8, the value in the file -> the class id. PNG files may also have 255.
    """

    table: np.ndarray

    def __call__(self, path: Path) -> np.ndarray:
        highest = len(self.table) - 1
        if path.suffix == ".mat":
            values, other = read_label_map(path), None
            hint = "labels.txt has to be that of these annotations"
        else:
            values, other = read_mask(path), IGNORE
            hint = "PNG masks of the 59 classes are wanted; for all 459 labels give the folder of the .mat files"
        beyond = values > highest
        if wrong := sorted({int(value) for value in np.unique(values[beyond])} - {other}):
            shown = named([str(value) for value in wrong])
            raise DataError(
                f"mask {path} has the values {shown}, expected 0..{highest}", f"{hint} (dataset.annotations)"
            )
        mask: np.ndarray = self.table[np.where(beyond, 0, values)]
        mask[beyond] = IGNORE
        return mask


def read_label_map(path: Path) -> np.ndarray:
    """`LabelMap` of a .mat file, integers (H, W), ids of labels.txt. DataError for a damaged or other file."""
    import scipy.io

    try:
        labels = np.asarray(scipy.io.loadmat(path)["LabelMap"])
    except Exception as error:  # scipy raises whatever its parser trips over in a damaged file
        raise DataError(
            f"{path} cannot be read as an annotation of PASCAL-Context (LabelMap): {type(error).__name__}: {error}",
            "extract trainval.tar.gz again",
        ) from None
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.size == 0 or labels.min() < 0:
        raise DataError(
            f"{path}: LabelMap is {labels.dtype} {labels.shape}, expected label ids of one image",
            "the .mat files of other data sets (PASCAL-Part, SBD) are not masks of PASCAL-Context",
        )
    return labels


def read_labels(path: Path) -> dict[str, int]:
    """The ids by name of labels.txt, whose lines are `2: aeroplane`. DataError unless all 59 classes are in it."""
    ids: dict[str, int] = {}
    for number, line in read_lines(path):
        label_id, colon, name = line.partition(":")
        if not colon or not label_id.strip().isdecimal():
            raise DataError(
                f"{path}, line {number}: {line!r} is not a label; expected `2: aeroplane`", "correct the line"
            )
        ids[name.strip()] = int(label_id)
    if missing := [name for name in PASCAL_CONTEXT_CLASS_NAMES if name not in ids]:
        raise DataError(
            f"{path} lacks the labels {named(missing)}",
            "labels.txt of trainval.tar.gz is wanted, with 459 names; 59_labels.txt is another file",
        )
    return ids


def class_table(values: Mapping[str, int], size: int, num_classes: int) -> np.ndarray:
    """Look-up table, uint8 (size,): the values that files have for the 59 classes to class ids, others to background.

    num_classes: 60: background is 0, the classes 1..59. 59: background is 255, the classes 0..58.
    """
    first = num_classes - len(PASCAL_CONTEXT_CLASS_NAMES)
    table = np.full(size, 0 if first else IGNORE, np.uint8)
    for class_id, name in enumerate(PASCAL_CONTEXT_CLASS_NAMES, start=first):
        table[values[name]] = class_id
    return table


def values_of(layout: Layout) -> tuple[dict[str, int], int]:
    """(the value that the annotations have for each class, how many values they may have)."""
    if layout.labels is not None:
        values = read_labels(layout.labels)
        return values, max(values.values()) + 1
    names: Sequence[str] = PASCAL_CONTEXT_CLASS_NAMES
    if layout.annotations.order == "alphabetical":
        names = sorted(names)
    return {name: value for value, name in enumerate(names, start=1)}, len(names) + 1


# ------------------------------------------------------------------------------------------------- all together


@says_what_cannot_be_read
def find(settings: PascalContextConfig, execution: Execution) -> RawDataset:
    """The data set on disk."""
    layout = locate(settings)
    annotations = layout.annotations
    if not settings.annotations:
        execution.progress.note(f"annotations: {annotations.folder} (--set dataset.annotations=DIR names others)")
    images = files_by_id(layout.root / "JPEGImages", (".jpg",))
    names = Names({**images, **annotations.files})
    listed = {split: read_list(path, names) for split, path in layout.lists.items()}
    check_disjoint(listed["train"], listed["val"], str(layout.lists["train"]), "val.txt")
    lists = {split: tuple(sorted(i for i in ids if i in annotations.files)) for split, ids in listed.items()}
    found = {split: len(ids) for split, ids in lists.items()}
    of_detail = annotations.order == "alphabetical" and found == EXPECTED_OF_DETAIL
    expected = EXPECTED_OF_DETAIL if of_detail else EXPECTED
    background = ("background",) if settings.num_classes > len(PASCAL_CONTEXT_CLASS_NAMES) else ()
    return RawDataset(
        name=f"pascal-context-{settings.num_classes}",
        class_names=(*background, *PASCAL_CONTEXT_CLASS_NAMES),
        root=layout.root / "JPEGImages",
        images=images,
        masks={image_id: annotations.folder / file for image_id, file in annotations.files.items()},
        read_mask=ContextMasks(class_table(*values_of(layout), settings.num_classes)),
        train=lists["train"],
        pool=lists["train"],
        val=lists["val"],
        expected=expected,
        found=found,
        deviations=tuple(deviations(layout, expected, listed, found)),
        facts={"annotations": annotations.order, "lists": layout.lists["train"].parent.name},
    )


def deviations(
    layout: Layout, expected: Mapping[str, int], listed: Mapping[str, Sequence[str]], found: Mapping[str, int]
) -> Iterator[str]:
    """A sentence for each count that is not the published one."""
    for split, count in found.items():
        if count == expected[split]:
            continue
        reasons = [COUNT_HINTS[count]] if count in COUNT_HINTS else []
        if lacking := [image_id for image_id in listed[split] if image_id not in layout.annotations.files]:
            source = layout.lists[split].name
            some = amount(len(lacking), f"id of {source} has", f"ids of {source} have")
            reasons.append(f"{some} no annotation: {named(lacking)}")
        if layout.annotations.order == "alphabetical":
            reasons.append(f"the lists of the detail API have {EXPECTED_OF_DETAIL[split]:,}")
        yield f"{split} has {count:,} images, expected {expected[split]:,}" + (
            f" ({'; '.join(reasons)})" * bool(reasons)
        )


@says_what_cannot_be_read
def text_files(settings: PascalContextConfig) -> dict[str, Path]:
    """The lists and labels.txt."""
    layout = locate(settings)
    return {**layout.lists} | ({"labels": layout.labels} if layout.labels else {})
