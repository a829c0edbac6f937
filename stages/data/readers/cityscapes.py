"""Cityscapes: 2,975 finely annotated street scenes to train on, 500 of val, 1,525 of test; 19 classes, no background.

    raw = find(CityscapesConfig(source="cityscapes"), Execution())
    # cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    # cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png

An image id is city, sequence and frame: aachen_000000_000019. The classes are the 19 that the benchmark scores, by
their train ids; all else becomes 255. Masks are read from `labelIds` files, which come with the data set, or, without
those, from `labelTrainIds` files, which people make from the polygons. gtFine's masks of test are dummies: never
read.

`coarse` adds the images of train_extra, which have coarse masks alone: as weak ones, whose labels are the classes in
the coarse mask, or as unlabelled ones. There are 19,998; one of them (troisdorf_000000_000073) is black, as the
download page says. It is always left out, so that a copy without it gives the same data set: 19,997 remain.

Facts: cityscapesScripts (README, helpers/labels.py) and the download page of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts.errors import DataError
from artifacts.masks import IGNORE, read_mask
from artifacts.text import named
from stages.contract import Execution
from stages.data.config import CITYSCAPES_CLASS_NAMES, CITYSCAPES_LABEL_IDS, CityscapesConfig
from stages.data.lists.id_lists import check_disjoint
from stages.data.readers.raw import RawDataset, says_what_cannot_be_read
from stages.data.readers.voc import files_by_id

IMAGES, FINE, COARSE = "leftImg8bit", "gtFine", "gtCoarse"
MASKS = {"train": FINE, "val": FINE, "train_extra": COARSE}
EXPECTED = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19_997}
BLACK = "troisdorf_000000_000073"
COUNT_HINTS = {3475: "3,475 is train and val together", 5000: "5,000 is train, val and test together"}
LABEL_IDS = tuple(range(34))  # license plates have the id -1, and are never drawn
TRAIN_IDS = (*range(len(CITYSCAPES_CLASS_NAMES)), IGNORE)


# ------------------------------------------------------------------------------------------------- what lies where


@dataclass(frozen=True)
class Tree:
    """The folders of Cityscapes below `root`: each kind of file in a folder of its name, with the splits below it."""

    root: Path

    def folder(self, kind: str, split: str) -> str | None:
        """`leftImg8bit/train`, or `leftImg8bit_trainvaltest/leftImg8bit/train`, whichever has folders of cities."""
        places = (f"{kind}/{split}", f"{archive(kind, split)}/{kind}/{split}")
        return next((place for place in places if sub_folders(self.root / place)), None)

    def holds(self, kind: str) -> bool:
        return any(self.folder(kind, split) for split in EXPECTED)

    def files(self, kind: str, split: str) -> dict[str, str]:
        """id -> file below `root` of all cities. `labelIds` win over `labelTrainIds`."""
        place = self.folder(kind, split)
        names = (kind,) if kind == IMAGES else (f"{kind}_labelIds", f"{kind}_labelTrainIds")
        found: dict[str, str] = {}
        for city in sub_folders(self.root / place) if place else ():
            files = files_by_id(city, [f"_{name}.png" for name in names])
            found |= {i: f"{place}/{city.name}/{file}" for i, file in files.items() if not i.startswith(".")}
        return found

    def lack(self, kind: str, split: str) -> str:
        """A sentence on what is missing if `files` found nothing."""
        place, name = self.folder(kind, split), archive(kind, split)
        wanted = f"{kind}/{split}/CITY/*_{IMAGES if kind == IMAGES else f'{kind}_labelIds'}.png"
        if place is None:
            unpack = "lies there, to be extracted" if (self.root / f"{name}.zip").is_file() else "brings them"
            return f"{self.root} has no files {wanted} ({name}.zip {unpack})"
        if any(next(city.glob(f"*_{kind}_polygons.json"), None) for city in sub_folders(self.root / place)):
            return f"{self.root / place} has polygons, but no files {wanted} (extract {name}.zip again)"
        return f"{self.root / place} has no files {wanted} ({name}.zip brings them)"


def archive(kind: str, split: str) -> str:
    """The name of the archive that brings these files, and of the folder that many unpack it into."""
    if kind == COARSE:
        return kind
    return f"{kind}_{'trainextra' if split == 'train_extra' else 'trainvaltest'}"


def sub_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def find_root(source: Path) -> Path:
    """The folder that holds leftImg8bit and gtFine: `source`, one above (where it names a part) or the one below it.

    DataError where there is none, or more than one. With leftImg8bit alone, its folder: the rest is reported later.
    """
    parts = {name for kind in (IMAGES, FINE, COARSE) for split in EXPECTED for name in (kind, archive(kind, split))}
    above = source.absolute()
    while above.name in parts | EXPECTED.keys():
        above = above.parent
    children = sub_folders(source)
    whole = [root for root in (source, above) if Tree(root).holds(IMAGES) and Tree(root).holds(FINE)][:1]
    whole = whole or [root for root in children if Tree(root).holds(IMAGES) and Tree(root).holds(FINE)]
    if len(whole) > 1:
        raise DataError(
            f"{source} holds Cityscapes more than once: {named([root.name for root in whole])}", "give one of them"
        )
    candidates = (*whole, source, above, *children)
    root = next((root for root in candidates if Tree(root).holds(IMAGES)), None)
    if root is None:
        unpack = sorted(path.name for path in source.glob(f"{IMAGES}_*.zip"))
        raise DataError(
            f"{source} is not a folder of Cityscapes: no folder {IMAGES} with train and val in, above or below it",
            f"extract {', '.join(unpack)} there" if unpack else f"give the folder that holds {IMAGES} and {FINE}",
        )
    return root


# ------------------------------------------------------------------------------------------------- masks


def train_ids() -> np.ndarray:
    """Look-up table, uint8 (256,): label ids 0..33 to the train ids 0..18, all others to 255 (labels.py)."""
    table = np.full(256, IGNORE, np.uint8)
    for class_id, name in enumerate(CITYSCAPES_CLASS_NAMES):
        table[CITYSCAPES_LABEL_IDS[name]] = class_id
    return table


def read_label_image(path: Path) -> np.ndarray:
    """A `labelIds` or `labelTrainIds` file as uint8 (H, W), train ids and 255.

    DataError for values that files of that name do not have, such as train ids under the name of label ids.
    """
    mask = read_mask(path)
    of_training = path.name.endswith("_labelTrainIds.png")
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    if wrong := sorted(set(values.tolist()) - set(TRAIN_IDS if of_training else LABEL_IDS)):
        expected = "the train ids 0..18 and 255" if of_training else "the label ids 0..33"
        raise DataError(
            f"mask {path} has the values {named([str(value) for value in wrong])}, expected {expected}",
            f"masks of {'label' if of_training else 'train'} ids end in "
            f"_{'labelIds' if of_training else 'labelTrainIds'}.png; extract the annotations again, or rename them",
        )
    return mask if of_training else train_ids()[mask]


# ------------------------------------------------------------------------------------------------- all together


@says_what_cannot_be_read
def find(settings: CityscapesConfig, execution: Execution) -> RawDataset:
    """The data set on disk. DataError lists everything that is missing."""
    source = Path(settings.source).expanduser()
    tree = Tree(find_root(source))
    if tree.root != source:
        execution.progress.note(f"Cityscapes is in {tree.root}")
    photos, masks = list_files(tree, settings.coarse)
    extra = photos.get("train_extra", {})
    for split in ("val", "test"):
        training = photos["train"].keys() | extra
        check_disjoint(training, photos.get(split, ()), "the training folders", f"the folder {split} of {IMAGES}")
    coarse = {image_id: tree.root / file for image_id, file in masks.get("train_extra", {}).items()}
    fine = {image_id: tree.root / file for split in ("train", "val") for image_id, file in masks[split].items()}
    return RawDataset(
        name="cityscapes",
        class_names=CITYSCAPES_CLASS_NAMES,
        root=tree.root,
        images={image_id: file for files in photos.values() for image_id, file in files.items()},
        masks=coarse | fine,
        read_mask=read_label_image,
        train=tuple(sorted(photos["train"])),
        pool=tuple(sorted(photos["train"].keys() | (extra if settings.coarse == "weak" else {}))),
        val=tuple(sorted(photos["val"])),
        test=tuple(sorted(photos.get("test", ()))),
        unlabelled=tuple(sorted(extra)) if settings.coarse == "unlabelled" else (),
        official=frozenset(fine) if coarse else None,
        expected={split: EXPECTED[split] for split in photos},
        found={split: len(files) for split, files in photos.items()},
        deviations=tuple(deviations(photos, masks)),
        facts={"coarse": settings.coarse},
    )


def text_files(settings: CityscapesConfig) -> dict[str, Path]:
    """None: the folders are the lists."""
    return {}


def list_files(tree: Tree, coarse: str) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """(images, masks) of the wanted splits, by split and id. DataError for missing files, except those of test."""
    splits = ("train", "val") if coarse == "none" else ("train", "val", "train_extra")
    images = {split: tree.files(IMAGES, split) for split in splits}
    masks = {split: tree.files(MASKS[split], split) for split in splits if split != "train_extra" or coarse == "weak"}
    problems = [tree.lack(IMAGES, split) for split, files in images.items() if not files]
    problems += [tree.lack(MASKS[split], split) for split, files in masks.items() if not files]
    for files in (images.get("train_extra", {}), masks.get("train_extra", {})):
        files.pop(BLACK, None)
    for split, files in masks.items():
        if files and (bare := sorted(images[split].keys() - files.keys())):
            problems.append(f"{len(bare)} images of {split} have no mask in {MASKS[split]}: {named(bare)}")
    if problems:
        raise DataError("\n".join(problems), "extract all archives into one folder, and give that (--source)")
    if test := tree.files(IMAGES, "test"):
        images["test"] = test
    return images, masks


def deviations(images: Mapping[str, Mapping[str, str]], masks: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A sentence for each count that is not the published one, and for masks whose images lack."""
    for split, files in images.items():
        if (count := len(files)) != EXPECTED[split]:
            hint = COUNT_HINTS.get(count)
            yield f"{split} has {count:,} images, expected {EXPECTED[split]:,}" + (f" ({hint})" if hint else "")
    for split, files in masks.items():
        if lonely := sorted(files.keys() - images[split].keys()):
            yield f"{len(lonely):,} masks of {split} have no image: {named(lonely)}"
