"""PASCAL VOC 2012 with SBD: the 10,582 / 1,449 split, from a devkit and SBD or a SegmentationClassAug folder.

Rules, each for a mistake that published code made:

- trainaug = VOC train + SBD train + SBD val (or the list train_aug.txt) minus VOC val, sorted. SBD's own train list
  holds 545 VOC val images: taken as it is, it would train on images that are scored.
- where VOC and SBD both annotate an image, VOC's mask wins: it is finer, and has the 255 border that SBD's lack.
- masks are read as indices, never as colours.
- train 1,464, trainaug 10,582, val 1,449: another count is an error, unless a subset is allowed.

    raw = find(VocAugConfig(source="VOCdevkit"), Execution())     # what lies where
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import read_mask
from artifacts.text import amount
from stages.contract import Execution
from stages.data.annotations.image_labels import label_source, read_xml
from stages.data.config import VOC_CLASS_NAMES, VocAugConfig
from stages.data.lists.id_lists import Names, check_disjoint, read_list
from stages.data.readers.raw import RawDataset, TagSource, says_what_cannot_be_read

EXPECTED = {"train": 1464, "trainaug": 10582, "val": 1449}
COUNT_HINTS = {
    11355: "11,355 is SBD with its VOC val images",
    5623: "5,623 is SBD's train_noval.txt, a smaller list",
    12031: "12,031 is trainaug and val together",
    8498: "8,498 is SBD's train list alone",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
TRAINAUG_LISTS = ("train_aug.txt", "trainaug.txt")
LABEL_FILE = "image_labels.txt"


# ------------------------------------------------------------------------------------------------- what lies where


@dataclass(frozen=True)
class Devkit:
    """A VOC devkit on disk. Files by id; the folders were listed once."""

    root: Path
    lists: Path  # ImageSets/Segmentation
    images: Mapping[str, str]  # id -> file name in JPEGImages
    masks: Mapping[str, str]  # id -> file name in SegmentationClass
    annotations: Mapping[str, str]  # id -> file name in Annotations


@dataclass(frozen=True)
class ExtraMasks:
    """Masks beyond VOC's: SBD's .mat files, or PNG files of a SegmentationClassAug folder."""

    folder: Path
    files: Mapping[str, str]  # id -> file name
    lists: tuple[Path, ...]  # list files that name training images
    kind: str  # "sbd" (.mat) or "png"


def find_devkit(source: Path) -> Devkit:
    """The devkit at `source`, or at VOC2012 or VOCdevkit/VOC2012 below it. DataError says what is missing."""
    root = _devkit_root(source)
    if root is None:
        raise DataError(
            f"{source} is not a VOC devkit: no folder JPEGImages in it or in VOC2012 or VOCdevkit/VOC2012 below it",
            "give the folder that holds JPEGImages, SegmentationClass and ImageSets (--source)",
        )
    wanted = ("SegmentationClass", "ImageSets/Segmentation")
    if missing := [name for name in wanted if not (root / name).is_dir()]:
        raise DataError(f"the devkit {root} has no folder {' and no '.join(missing)}", "extract the devkit again")
    return Devkit(
        root=root,
        lists=root / "ImageSets" / "Segmentation",
        images=files_by_id(root / "JPEGImages", IMAGE_SUFFIXES),
        masks=files_by_id(root / "SegmentationClass", (".png",)),
        annotations=files_by_id(root / "Annotations", (".xml",)),
    )


def _devkit_root(source: Path) -> Path | None:
    places = (source, source / "VOC2012", source / "VOCdevkit" / "VOC2012")
    return next((place for place in places if (place / "JPEGImages").is_dir()), None)


@says_what_cannot_be_read
def text_files(settings: VocAugConfig) -> dict[str, Path]:
    """The lists and labels that decide what the data set holds, as far as they exist, by a name for each.

    Downloaded archives are identified by their digest: nothing else is needed.
    """
    files: dict[str, Path] = {}
    if settings.download:
        return files
    source, sbd = Path(settings.source).expanduser(), Path(settings.sbd).expanduser() if settings.sbd else None
    if root := _devkit_root(source):
        lists = root / "ImageSets" / "Segmentation"
        for name in ("train.txt", "val.txt", *TRAINAUG_LISTS):
            files[f"source_{name.removesuffix('.txt')}"] = lists / name
        files["source_image_labels"] = root / LABEL_FILE
    for root in _sbd_roots(sbd) if sbd else ():
        files |= {f"sbd_{name}": root / f"{name}.txt" for name in ("train", "val") if (root / "cls").is_dir()}
    return {name: path for name, path in files.items() if path.is_file()}


def _sbd_roots(sbd: Path) -> tuple[Path, ...]:
    return sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset"


def find_extra_masks(devkit: Devkit, sbd: Path | None) -> ExtraMasks | None:
    """SBD at `sbd` (its root, its folder `dataset`, or PNG masks), else the devkit's SegmentationClassAug."""
    if sbd is None:
        folder = devkit.root / "SegmentationClassAug"
        lists = tuple(devkit.lists / name for name in TRAINAUG_LISTS if (devkit.lists / name).is_file())[:1]
        files = files_by_id(folder, (".png",))
        return ExtraMasks(folder, files, lists, "png") if files or lists else None
    for root in _sbd_roots(sbd):
        if files := files_by_id(root / "cls", (".mat",)):
            lists = tuple(root / name for name in ("train.txt", "val.txt") if (root / name).is_file())
            return ExtraMasks(root / "cls", files, lists, "sbd")
    for root in (sbd, sbd / "SegmentationClassAug"):
        if files := files_by_id(root, (".png",)):
            lists = tuple(devkit.lists / name for name in TRAINAUG_LISTS if (devkit.lists / name).is_file())[:1]
            return ExtraMasks(root, files, lists, "png")
    raise DataError(
        f"{sbd} has neither SBD's folder cls with .mat files nor PNG masks",
        "give the folder benchmark_RELEASE (or its dataset folder), or a SegmentationClassAug folder (--sbd)",
    )


def files_by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """File names by stem of one listing; a folder that is not there has none. The first suffix given wins."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    found: dict[str, str] = {}
    for suffix in reversed(suffixes):
        found |= {name[: -len(suffix)]: name for name in names if name.endswith(suffix)}
    return found


# ------------------------------------------------------------------------------------------------- which images


@dataclass(frozen=True)
class Lists:
    """The lists of the split, sorted."""

    train: tuple[str, ...]  # VOC's official train list
    trainaug: tuple[str, ...]
    val: tuple[str, ...]
    val_ids_removed: int  # ids of the training lists that VOC val holds


def assemble_lists(devkit: Devkit, extra: ExtraMasks | None) -> Lists:
    """Union of all training lists minus VOC val. Without lists of the extra masks, their files are the list."""
    names = Names({**devkit.images, **devkit.masks, **(extra.files if extra else {})})
    train, val = (read_list(devkit.lists / f"{name}.txt", names) for name in ("train", "val"))
    check_disjoint(train, val, f"{devkit.lists / 'train.txt'}", "val.txt")
    union = set(train)
    if extra is not None:
        union.update(*(read_list(path, names) for path in extra.lists) if extra.lists else [extra.files])
    trainaug = union - set(val)
    return Lists(tuple(sorted(train)), tuple(sorted(trainaug)), tuple(sorted(val)), len(union & set(val)))


def count_deviations(lists: Lists) -> list[str]:
    """One sentence for every list whose length is not VOC's; empty for the full data set."""
    found = {"train": len(lists.train), "trainaug": len(lists.trainaug), "val": len(lists.val)}
    return [
        f"{name} has {amount(found[name], 'id')}, expected {EXPECTED[name]:,}"
        + (f" ({COUNT_HINTS[found[name]]})" if found[name] in COUNT_HINTS else "")
        for name in EXPECTED
        if found[name] != EXPECTED[name]
    ]


# ------------------------------------------------------------------------------------------------- masks


def read_sbd_mask(path: Path) -> np.ndarray:
    """`GTcls.Segmentation` of an SBD .mat file, uint8 (H, W), VOC class ids. DataError for a damaged or other file."""
    import scipy.io

    try:
        with open(path, "rb") as file:
            content = scipy.io.loadmat(file)
        mask = np.asarray(content["GTcls"][0, 0]["Segmentation"])
    except Exception as error:  # scipy raises whatever its parser trips over in a damaged file
        raise DataError(
            f"{path} cannot be read as an SBD annotation (GTcls.Segmentation): {type(error).__name__}: {error}",
            "extract SBD's folder cls again",
        ) from None
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer) or mask.min() < 0 or mask.max() > 20:
        raise DataError(
            f"{path}: GTcls.Segmentation is {mask.dtype} {mask.shape} with values {mask.min()}..{mask.max()}, "
            "expected class ids 0..20 of one image",
            "SBD's folder cls holds class masks; inst holds instances",
        )
    return mask.astype(np.uint8)


def read_any_mask(path: Path) -> np.ndarray:
    """A mask of VOC (PNG) or SBD (.mat), uint8 (H, W), VOC class ids and 255."""
    return read_sbd_mask(path) if path.suffix == ".mat" else read_mask(path, num_classes=len(VOC_CLASS_NAMES))


# ------------------------------------------------------------------------------------------------- labels


def tag_sources(devkit: Devkit, note: Callable[[str], None]) -> dict[str, TagSource]:
    """Annotations first, then the text file."""
    sources: dict[str, TagSource] = {}
    if devkit.annotations:
        sources["xml"] = partial(_xml_tags, devkit)
    if (devkit.root / LABEL_FILE).is_file():
        names = Names({**devkit.images, **devkit.masks})
        sources["file"] = label_source(devkit.root / LABEL_FILE, VOC_CLASS_NAMES, names, note)
    return sources


def _xml_tags(devkit: Devkit, ids: Sequence[str]) -> dict[str, frozenset[str]]:
    folder = devkit.root / "Annotations"
    covered = [image_id for image_id in ids if image_id in devkit.annotations]
    return {image_id: read_xml(folder / devkit.annotations[image_id], VOC_CLASS_NAMES) for image_id in covered}


# ------------------------------------------------------------------------------------------------- all together


@says_what_cannot_be_read
def find(settings: VocAugConfig, execution: Execution) -> RawDataset:
    """The data set on disk, downloaded first where the settings say so."""
    source, sbd = settings.source, settings.sbd
    if settings.download:
        from stages.data.archives.download import download
        from stages.data.archives.published import SBD, VOC2012

        folder = Path(settings.download).expanduser()
        places = download((VOC2012, SBD), folder, mirrors=settings.mirrors, progress=execution.progress)
        source, sbd = str(places[VOC2012.name]), str(places[SBD.name])
    devkit = find_devkit(Path(source).expanduser())
    extra = find_extra_masks(devkit, Path(sbd).expanduser() if sbd else None)
    lists = assemble_lists(devkit, extra)
    masks = {image_id: extra.folder / file for image_id, file in extra.files.items()} if extra is not None else {}
    official = {image_id: devkit.root / "SegmentationClass" / file for image_id, file in devkit.masks.items()}
    return RawDataset(
        name="voc-aug",
        class_names=VOC_CLASS_NAMES,
        root=devkit.root / "JPEGImages",
        images=devkit.images,
        masks={**masks, **official},
        read_mask=read_any_mask,
        train=lists.train,
        pool=lists.trainaug,
        val=lists.val,
        test=_test_ids(devkit),
        official=frozenset(official),
        tag_sources=tag_sources(devkit, execution.progress.note),
        expected=EXPECTED,
        found={name: len(getattr(lists, name)) for name in EXPECTED},
        deviations=tuple(count_deviations(lists)),
        facts={"val_ids_removed_from_training_lists": lists.val_ids_removed},
    )


def _test_ids(devkit: Devkit) -> tuple[str, ...]:
    """VOC's test list, where the devkit holds its images: they come in an archive of their own."""
    path = devkit.lists / "test.txt"
    ids = sorted(read_list(path, Names(devkit.images))) if path.is_file() else []
    return tuple(ids) if ids and all(image_id in devkit.images for image_id in ids) else ()
