"""COCO: background and 80 classes, masks drawn from the instances; image-level labels from the annotations.

    raw = find(CocoConfig(source="coco"), Execution())
    # coco/annotations/instances_train2017.json, instances_val2017.json, coco/train2017/*.jpg, coco/val2017/*.jpg

The classes are COCO's 80 in the order of their ids (1..90 with gaps), renumbered 1..80. Where objects overlap, the
smaller one is drawn on top, so that it stays visible; crowd regions become 255 outside single objects. Masks by other
programs differ there. An outline without area covers nothing and is left out (with a remark, except in the official
files); wrong outlines are an error.

Images of train and val have ids such as 000000000009 (2017) or COCO_train2014_000000000009; 1,021 images of
train2017 show nothing of the 80 classes, and have background masks and no labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from artifacts.errors import DataError
from artifacts.text import named
from stages.contract import Execution
from stages.data.annotations.annotated_masks import say_what_is_left_out
from stages.data.annotations.coco_outlines import CocoFile, CocoMasks, read_coco, stem_of
from stages.data.annotations.drawing import Drawing, draw, refuse_problems
from stages.data.config import CocoConfig
from stages.data.images import SUFFIXES
from stages.data.lists.id_lists import check_disjoint
from stages.data.readers.raw import RawDataset, says_what_cannot_be_read
from stages.data.readers.voc import files_by_id

EXPECTED = {  # cocodataset.org, "Download"
    "2014": {"train": 82_783, "val": 40_504, "classes": 80},
    "2017": {"train": 118_287, "val": 5_000, "classes": 80},
}
UNLABELLED = 123_403


@dataclass(frozen=True)
class CocoTags:
    """Image-level labels: the categories that have an annotation, crowds too."""

    files: tuple[CocoFile, ...]

    def __call__(self, ids: Sequence[str]) -> dict[str, frozenset[str]]:
        found = {}
        for image_id in ids:
            for file in self.files:
                if image_id in file.image_ids:
                    found[image_id] = file.labels_of(image_id)
        return found


@dataclass(frozen=True)
class Drawer:
    """Draws an image's mask; travels to other processes."""

    class_ids: Mapping[str, int]
    crowd: str

    def __call__(self, drawing: Drawing) -> np.ndarray:
        return draw(drawing, self.class_ids, crowd="class" if self.crowd == "class" else "ignore")


@says_what_cannot_be_read
def find(settings: CocoConfig, execution: Execution) -> RawDataset:
    """The data set on disk. Reads the annotation files: a minute and 3 GB for train2017."""
    root, year = _root(settings), settings.year
    execution.progress.note(f"reading COCO's annotations of {year}")
    train, val = (read_coco(path) for path in _annotations(root, year))
    for file in (train, val):
        refuse_problems(str(file.path), file.problems)
    if train.categories != val.categories:
        raise DataError(f"{train.path} and {val.path} have different categories", "take both from one release")
    check_disjoint(train.image_ids, val.image_ids, str(train.path), str(val.path))
    names = ("background", *(train.categories[key] for key in sorted(train.categories)))
    images = _images(root, year, (train, val))
    extra = files_by_id(root / "unlabeled2017", (".jpg",)) if settings.unlabelled else {}
    if settings.unlabelled and not extra:
        raise DataError(f"{root} has no images in unlabeled2017", "extract unlabeled2017.zip there")
    found = {"train": len(train.image_ids), "val": len(val.image_ids), "classes": len(train.categories)}
    expected = EXPECTED[year] | ({"unlabelled": UNLABELLED} if extra else {})
    found |= {"unlabelled": len(extra)} if extra else {}
    deviations = tuple(
        f"{name} has {found[name]:,} {'names' if name == 'classes' else 'images'}, expected {count:,}"
        for name, count in expected.items()
        if found[name] != count
    )
    if deviations:  # user files: the few outlines without area of the official files are known
        for file in (train, val):
            say_what_is_left_out(file.path, map(file.annotations_of, file.image_ids), execution.progress.note)
    return RawDataset(
        name=f"coco-{year}",
        class_names=names,
        root=root,
        images=images | {image_id: f"unlabeled2017/{file}" for image_id, file in extra.items()},
        masks=CocoMasks((train, val)),
        read_mask=Drawer({name: class_id for class_id, name in enumerate(names)}, settings.crowd),
        train=tuple(sorted(train.image_ids)),
        pool=tuple(sorted(train.image_ids)),
        val=tuple(sorted(val.image_ids)),
        unlabelled=tuple(sorted(extra)),
        tag_sources={"file": CocoTags((train, val))},
        expected=expected,
        found=found,
        deviations=deviations,
        facts={"crowd": settings.crowd, "image_level_labels": "categories with an annotation"},
    )


@says_what_cannot_be_read
def text_files(settings: CocoConfig) -> dict[str, Path]:
    """The annotation files."""
    paths = _annotations(_root(settings), settings.year)
    return {path.stem: path for path in paths}


def _root(settings: CocoConfig) -> Path:
    root = Path(settings.source).expanduser()
    if not (root / "annotations").is_dir():
        raise DataError(
            f"{root} is not a folder of COCO: it has no folder annotations",
            "give the folder that holds annotations and the images (--source)",
        )
    return root


def _annotations(root: Path, year: str) -> tuple[Path, Path]:
    paths = (root / "annotations" / f"instances_train{year}.json", root / "annotations" / f"instances_val{year}.json")
    if missing := [path.name for path in paths if not path.is_file()]:
        other = "2014" if year == "2017" else "2017"
        there = (root / "annotations" / f"instances_train{other}.json").is_file()
        raise DataError(
            f"{root / 'annotations'} has no {' and no '.join(missing)}",
            f"those of {other} are there: --set dataset.year={other}"
            if there
            else f"extract annotations_trainval{year}.zip there",
        )
    return paths


def _images(root: Path, year: str, files: Sequence[CocoFile]) -> dict[str, str]:
    """id -> file below `root`, of all listed images. They lie in train2017/, or in images/train2017/."""
    images: dict[str, str] = {}
    problems: list[str] = []
    for split, file in zip(("train", "val"), files, strict=True):
        folder = next((f for f in (f"{split}{year}", f"images/{split}{year}") if (root / f).is_dir()), None)
        if folder is None:
            problems.append(f"{root} has no folder {split}{year}")
            continue
        there = _file_names(root / folder)
        found = {image_id: _place(root, folder, file.file_name(image_id), there) for image_id in file.image_ids}
        images |= {image_id: place for image_id, place in found.items() if place is not None}
        if missing := sorted(image_id for image_id, place in found.items() if place is None):
            problems.append(
                f"{len(missing)} images of {file.path.name} are not in {root / folder}: "
                f"{named([file.file_name(image_id) for image_id in missing])} (there are "
                f"{named(sorted(there.values())) or 'no images'})"
            )
    if problems:
        raise DataError("\n".join(problems), "extract the archives of the images there")
    return images


def _file_names(folder: Path) -> dict[str, str]:
    """File names of images by stem, of any suffix in any case; where two have one stem, the JPEG."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES)
    return {Path(name).stem: name for name in sorted(names, key=lambda name: name.lower().endswith((".jpg", ".jpeg")))}


def _place(root: Path, folder: str, file_name: str, there: Mapping[str, str]) -> str | None:
    """Where an image lies below `root`: in its folder under its name or another suffix, or where its name says."""
    written = PurePosixPath(file_name.replace("\\", "/"))
    if (name := there.get(stem_of(file_name))) is not None:
        return f"{folder}/{name}"
    if written.is_absolute() or ".." in written.parts:
        return None
    return next((f"{base}{written}" for base in (f"{folder}/", "") if (root / f"{base}{written}").is_file()), None)
