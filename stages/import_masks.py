"""`import-masks`: a folder of masks made elsewhere, checked, as an artifact like those of `crf`.

    semiseg import-masks --data data --folder DIR
    semiseg train --method dual-branch --weak-labels import-masks

A mask is named after its image and has its size. Index PNGs hold the class ids of the data set and 255 (unknown);
painted masks VOC's colours of these ids; other ids and colours are those of a class table. The masks are read as
`prepare-data` reads those of a folder. The result has `masks/<id>.png` and `classes.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from artifacts.dataset import Dataset, Split
from artifacts.errors import ConfigError, DataError
from artifacts.masks import IGNORE, encode_mask, read_mask
from artifacts.store import Artifact, Writer
from artifacts.text import amount, named
from stages.config import Config, ExternalFile
from stages.contract import Execution, Input, Inputs, Stage
from stages.data.images import ids_of
from stages.parallel.each_image import for_each_image
from stages.parallel.meeting import of_all_ranks
from stages.parallel.share import counted, share_of

if TYPE_CHECKING:
    from stages.data.annotations.class_table import ClassTable
    from stages.data.readers.folder import MaskFiles

MOST_COMPARED = 200  # masks that are compared with the image-level labels to find out how their ids are shifted


class ImportMasksConfig(Config):
    """Which masks are taken, and how they are read."""

    folder: ExternalFile = Field(
        "", description="Folder of the masks, <image id>.png: class ids, or painted in colours. Required."
    )
    splits: tuple[Split, ...] = Field(
        ("weak",), min_length=1, description="Splits of the data set whose images get masks; other masks are not used."
    )
    allow_missing: bool = Field(False, description="Accept that images of these splits have no mask.")
    mask_format: Literal["auto", "ids", "colours", "binary"] = Field(
        "auto", description="How masks are read; auto looks at them and says what it found."
    )
    class_table: ExternalFile = Field(
        "",
        description="Text file of the classes in the masks where they are not the data set's ids: `id name` or\n"
        "`name R G B` a line. Empty: the data set's ids, or VOC's colours of them.",
    )
    other_classes: Literal["ignore", "background"] = Field(
        "ignore", description="What pixels of classes that the data set does not have become: 255, or background."
    )


@dataclass(frozen=True)
class ImportMasksInputs(Inputs):
    data: Annotated[Artifact, Input(("dataset",), "the data set of the images", default=("data",))]


@dataclass(frozen=True)
class Found:
    """The masks to be imported, by image id, and what is to be told of the folder."""

    files: Mapping[str, Path]
    wanted: int
    remarks: tuple[str, ...]


def find_files(config: ImportMasksConfig, dataset: Dataset) -> Found:
    """The mask of each image of the splits. DataError where some lack one and may not."""
    from stages.data.listing import list_files
    from stages.data.readers.folder import MASK_SUFFIXES, named_after, refuse_lossy

    if not config.folder:
        raise ConfigError("no folder of masks is given", "name it: --folder DIR")
    remarks: list[str] = []
    place = Path(config.folder).expanduser()
    if not place.is_dir():
        raise DataError(f"{place} is not a folder", "name the folder of the masks (--folder DIR)")
    listing = list_files(place, MASK_SUFFIXES, "mask")
    refuse_lossy(place, listing.files)
    wanted = ids_of(dataset, config.splits)
    known = {image_id for ids in dataset.splits.values() for image_id in ids}
    files = named_after(listing.files, sorted(known), remarks.append)
    missing = [image_id for image_id in wanted if image_id not in files]
    if len(missing) == len(wanted):
        raise DataError(
            f"{place} has no mask of the {len(wanted):,} images of {', '.join(config.splits)}; "
            f"it has {amount(len(files), 'mask')}: {named(list(files)) or 'none'}",
            "a mask is named after its image, <image id>.png; --split names other splits",
        )
    for what, some in (
        ("of images that are not in the data set", sorted(files.keys() - known)),
        ("of images of other splits", sorted(files.keys() & known - set(wanted))),
    ):
        remarks += [f"not used: {amount(len(some), 'mask')} {what}: {named(some)}"] if some else []
    if missing:
        message = f"{len(missing):,} of {len(wanted):,} images of {', '.join(config.splits)} have no mask in {place}"
        if not config.allow_missing:
            raise DataError(f"{message}: {named(missing)}", "add them, or say that they may lack (allow_missing=true)")
        remarks.append(f"{message}: {named(missing)}")
    return Found({i: files[i] for i in wanted if i in files}, len(wanted), (*remarks, *listing.left_out))


def check(config: ImportMasksConfig, inputs: ImportMasksInputs) -> None:
    """Whether the images have their masks, and the class table is one of the data set's classes."""
    dataset = Dataset(inputs.data)
    if config.other_classes == "background":
        dataset.require_background("other_classes: background")
    find_files(config, dataset)
    if config.class_table:
        _given_table(config, dataset)


def _given_table(config: ImportMasksConfig, dataset: Dataset) -> ClassTable:
    """The class table of the settings. DataError where it lacks a class of the data set other than background."""
    from stages.data.annotations.class_table import read_class_table

    table = read_class_table(Path(config.class_table).expanduser())
    if lacking := [name for name in dataset.label_names if name not in table.names]:
        raise DataError(
            f"{config.class_table} lacks {amount(len(lacking), 'class', 'classes')} of the data set: {named(lacking)}",
            f"it has {named(table.names)}; write each class as the data set has it",
        )
    return table


def _own_table(config: ImportMasksConfig, dataset: Dataset, paths: Sequence[Path]) -> ClassTable:
    """The data set's classes; with VOC's colours, which masks are written in here, if some masks have no values."""
    from stages.data.annotations.class_table import ClassTable
    from stages.data.annotations.palette_guess import guess_palette

    names, ids = dataset.class_names, range(dataset.num_classes)
    painted = config.mask_format == "colours" or (config.mask_format == "auto" and guess_palette(paths).values is None)
    if not painted:
        return ClassTable(names, listed=frozenset(ids))
    colours = {int.from_bytes(dataset.palette[3 * value : 3 * value + 3]): value for value in (*ids, IGNORE)}
    return ClassTable(names, colours)


def _how_to_read(
    config: ImportMasksConfig, dataset: Dataset, paths: Sequence[Path], note: Callable[[str], None]
) -> tuple[MaskFiles, np.ndarray]:
    """What reads the masks, and the look-up table from the classes in them to those of the data set, uint8 (256,)."""
    from stages.data.preparation import class_map
    from stages.data.readers.folder import MaskFiles, understand

    table = _given_table(config, dataset) if config.class_table else _own_table(config, dataset, paths)
    for sentence in table.notes:
        note(sentence)
    kind, table = understand(config.mask_format, table, paths, note)
    return MaskFiles(kind, table), class_map(table.names, dataset.class_names, config.other_classes)


@dataclass(frozen=True)
class Task:
    """What a process needs to import masks; travels to it once."""

    dataset: Dataset
    files: Mapping[str, Path]
    read: MaskFiles
    table: np.ndarray
    writer: Writer


def import_mask(task: Task, image_id: str) -> tuple[bool, float]:
    """Writes one mask; (whether it shows a class that is no image-level label of its image, share of 255)."""
    path, item = task.files[image_id], f"masks/{image_id}.png"
    if task.writer.has(item):
        mask = read_mask(task.writer.path / item)
    else:
        mask, size = task.table[task.read(path)], task.dataset.size(image_id)
        if mask.shape != size:
            raise DataError(
                f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} (width x height), its image {size[1]}x{size[0]}",
                "a mask has the size of its image; resize masks with nearest neighbour only",
            )
        task.writer.write_bytes(item, encode_mask(mask, task.dataset.palette))
    shown = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - {IGNORE}
    odd = task.dataset.has_tags(image_id) and not shown <= set(task.dataset.possible_classes(image_id))
    return odd, float((mask == IGNORE).mean())


def run(config: ImportMasksConfig, inputs: ImportMasksInputs, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Imports what is still missing; under torchrun each rank its share of the images."""
    try:
        return _import(config, Dataset(inputs.data), writer, execution)
    except DataError as error:
        raise DataError(_own_words(error.message), error.hint and _own_words(error.hint)) from None


def _import(config: ImportMasksConfig, dataset: Dataset, writer: Writer, execution: Execution) -> dict[str, Any]:
    def note(sentence: str) -> None:
        execution.progress.note(_own_words(sentence))

    found = find_files(config, dataset)
    ids = list(found.files)
    for sentence in found.remarks:
        note(sentence)
    read, table = _how_to_read(config, dataset, list(found.files.values()), note)
    task, odd, unknown = Task(dataset, found.files, read, table, writer), 0, 0.0
    if not config.class_table and read.format == "ids":
        refuse_shifted(dataset, found.files)
    own = share_of(ids, execution, made=lambda image_id: False)
    with counted(writer, execution, "import-masks", own) as advance:
        for _, (is_odd, share) in for_each_image(import_mask, task, own.own, execution.own_workers):
            odd, unknown = odd + is_odd, unknown + share
            advance()
    odd, unknown = map(sum, zip(*of_all_ranks([odd, unknown]), strict=True))
    if execution.rank != 0:
        return {}
    if odd:
        note(f"{odd:,} of {len(ids):,} masks show a class that is no image-level label of their image")
    writer.write_json(
        "classes.json", {"class_names": list(dataset.class_names), "ids": ids, "splits": list(config.splits)}
    )
    return {
        "images": len(ids),
        "missing": found.wanted - len(ids),
        "mask_format": read.format,
        "unknown_share": round(unknown / len(ids), 6),
        "masks_with_classes_that_are_no_label": odd,
    }


def refuse_shifted(dataset: Dataset, files: Mapping[str, Path]) -> None:
    """DataError where the ids of masks are shifted by one, as far as image-level labels tell.

    Masks without background begin at 0 with the first object, others count it as 1: values that are all class ids, and
    wrong. So the classes shown are compared with the labels, as they are and shifted.
    """
    from stages.data.annotations.colour_masks import read_values

    tagged = [image_id for image_id in files if dataset.has_tags(image_id)][:MOST_COMPARED]
    fits = dict.fromkeys((-1, 0, 1), 0)
    for image_id in tagged:
        try:
            values = set(np.unique(read_values(files[image_id])).tolist()) - {IGNORE}
        except DataError:  # told when it is imported
            continue
        possible = set(dataset.possible_classes(image_id))
        for shift in fits:
            ids = {value - shift for value in values}
            fits[shift] += ids <= possible and bool(ids - {0})
    shift = max((-1, 1), key=lambda shift: fits[shift])
    if not tagged or fits[shift] < 0.9 * len(tagged) or fits[0] > 0.5 * len(tagged):
        return
    names = dataset.class_names
    first = [f"`{index + shift} {names[index]}`" for index in range(len(names)) if index + shift >= 0][:2]
    raise DataError(
        f"the masks of {files[tagged[0]].parent} have other class ids than the data set: they are one too "
        f"{'high' if shift == 1 else 'low'}. So read, {fits[shift]:,} of {len(tagged):,} masks show image-level labels "
        f"of their image, and {fits[0]:,} as they are",
        f"write their ids into a class table, a line a class, {', '.join(first)}, ..., and give it: --set "
        "class_table=FILE (which pins the ids, whatever they are)",
    )


def _own_words(text: str) -> str:
    """The readers' messages name settings of `prepare-data`, which stand in a section there."""
    return text.replace("dataset.mask_format", "mask_format")


STAGE = Stage(
    name="import-masks",
    version=1,
    summary="Import a folder of masks made elsewhere, checked against the data set.",
    config=ImportMasksConfig,
    inputs=ImportMasksInputs,
    output="masks",
    run=run,
    check=check,
)
