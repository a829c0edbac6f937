"""Data sets: lists of image ids, image-level labels, images and index masks in one artifact.

dataset.json             names, classes, splits, labels: see `write_dataset`
masks/<id>.png           index masks whose values are class ids of this data set (artifacts.masks)
images/...               the images, or, if they stay in their own folder,
local/images.json        {"root": "/absolute/folder"}: valid on this machine only, not part of the content
local/columns.npz        what dataset.json holds, in columns (artifacts.image_table): a copy that is quicker to open

Class 0 is `background`, which is never an image-level label; or, where the first class has another name (Cityscapes),
there is no background and every class can be a label.
"""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.canonical import file_digest
from artifacts.dataset_record import (
    COLUMNS,
    MASKED,
    MAX_CLASSES,
    MAX_NAME,
    SCORED,
    SPLITS,
    TRAINING,
    ClassNames,
    Head,
    Record,
    Split,
    check_agreement,
    check_class_names,
    check_image_id,
    check_record,
    first_label,
    table_of,
    write_dataset,
)
from artifacts.errors import ArtifactError, DataError
from artifacts.image_files import open_image, orientation, reason, stored_size, turned
from artifacts.image_table import ImageTable, SortedIds, load
from artifacts.json_items import MAKE_AGAIN, Shape, Text, read_json, shaped
from artifacts.manifest import has_manifest
from artifacts.masks import PNG_SIGNATURE, png_damage, read_mask, voc_palette
from artifacts.store import Artifact, read_item

# What all other modules import from here, although some of it is defined elsewhere.
__all__ = [
    "MASKED",
    "MAX_CLASSES",
    "MAX_NAME",
    "SCORED",
    "SPLITS",
    "TRAINING",
    "ClassNames",
    "Dataset",
    "Split",
    "artifact_folder",
    "check_agreement",
    "check_class_names",
    "check_image_id",
    "first_label",
    "read_image",
    "write_dataset",
]


def artifact_folder(artifact_or_path: Artifact | Path | str) -> Path:
    """The folder of an artifact, given as `Artifact` or by its path."""
    return Path(artifact_or_path) if isinstance(artifact_or_path, (str, Path)) else artifact_or_path.path


class _LocalImages(Shape):
    """local/images.json."""

    root: Text


class Dataset:
    """A published data set.

    Attributes: name, class_names (background first, if any), num_classes (background counted), has_background,
    label_names and num_labels (classes that can be image-level labels), splits (split -> ids), palette (768 bytes),
    tag_source, facts.
    """

    def __init__(self, artifact_or_path: Artifact | Path | str, check: bool = True) -> None:
        """artifact_or_path: the artifact or its folder. Raises ArtifactError if dataset.json cannot be read.

        check: whether lists, labels and masks must agree; check-data, which lists all mistakes, opens it without.
        """
        self.path = artifact_folder(artifact_or_path)
        sha256 = _recorded_digest(artifact_or_path)
        self._opened_as = (sha256, check)
        if check and sha256 is not None and (mapped := _mapped(self.path, sha256)):
            self._fill(*mapped)
            return
        record = read_item(artifact_or_path, "dataset.json", Record, "run prepare-data")
        if check:
            try:
                check_record(record)
            except DataError as error:
                raise ArtifactError(f"{self.path / 'dataset.json'} is damaged: {error.message}", MAKE_AGAIN) from None
        self._fill(Head.of(record), table_of(record))
        if not check:  # an id may stand twice in a list
            self.splits = {split: tuple(ids) for split, ids in record.splits.items()}

    def _fill(self, head: Head, table: ImageTable) -> None:
        self.name: str = head.name
        self.class_names: tuple[str, ...] = tuple(head.classes)
        self.num_classes = len(self.class_names)
        self._first_label = first_label(self.class_names)
        self.has_background = self._first_label == 1
        self.label_names = self.class_names[self._first_label :]
        self.num_labels = len(self.label_names)
        self.palette: bytes = voc_palette()
        self.tag_source: str = head.tag_source
        self.facts: dict[str, Any] = head.facts
        self._split_names = head.splits
        self._place = head.images
        self._table, self._ids = table, SortedIds(table.ids)
        self._sizes_from_files: dict[str, tuple[int, int]] = {}
        self._root: str | None = None

    def __reduce__(self) -> Any:
        """A process that is sent a data set opens it itself: it maps the columns, and reads no list."""
        return _opened_in_process, (str(self.path), *self._opened_as)

    @functools.cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The sorted ids of each split."""
        bits = {split: 1 << number for number, split in enumerate(SPLITS)}
        of_splits = {split: self._table.splits & bits[split] != 0 for split in self._split_names}
        return {split: self._ids.at(self._table.ids[rows]) for split, rows in of_splits.items()}

    def ids(self, split: str) -> tuple[str, ...]:
        """Sorted ids of a split; DataError names the splits that exist."""
        if split not in self.splits:
            raise DataError(f"data set {self.name!r} has no split {split!r}", f"it has {', '.join(self.splits)}")
        return self.splits[split]

    def tags(self, image_id: str) -> tuple[int, ...]:
        """The image-level labels: sorted class ids, background never among them."""
        row = self._row(image_id)
        if not self._table.labelled[row]:
            raise DataError(
                f"{self._where(image_id)} has no image-level labels", "prepare the data set with labels for this split"
            )
        return tuple(self._table.labels_of(row))

    def has_tags(self, image_id: str) -> bool:
        row = self._ids.row(image_id)
        return row is not None and bool(self._table.labelled[row])

    def possible_classes(self, image_id: str) -> tuple[int, ...]:
        """The classes a pixel of the image can have by its labels: background (if there is one) and those."""
        return (*range(self._first_label), *self.tags(image_id))

    def tags_vector(self, image_id: str) -> np.ndarray:
        """The image-level labels as float32 (num_labels,): 1 where the class is present, the first index is that of
        the first foreground class. All nan if the labels are unknown, so that no loss can use them unnoticed.
        """
        row = self._row(image_id)
        if not self._table.labelled[row]:
            return np.full(self.num_labels, np.nan, dtype=np.float32)
        vector = np.zeros(self.num_labels, dtype=np.float32)
        vector[[tag - self._first_label for tag in self._table.labels_of(row)]] = 1
        return vector

    def require_background(self, what: str) -> None:
        """DataError if there is no class background, which `what` needs."""
        if not self.has_background:
            raise DataError(
                f"{what} needs a class background; the data set {self.name!r} begins with {self.class_names[0]!r}",
                "use a data set of objects on a background",
            )

    def has_mask(self, image_id: str) -> bool:
        row = self._ids.row(image_id)
        return row is not None and bool(self._table.masked[row])

    def mask_path(self, image_id: str) -> Path:
        if not self._table.masked[self._row(image_id)]:
            raise DataError(f"{self._where(image_id)} has no mask", "use a split with masks, such as 'train' or 'val'")
        return self.path / "masks" / f"{image_id}.png"

    def mask(self, image_id: str) -> np.ndarray:
        """The index mask, uint8 (H, W), values 0..num_classes-1 and 255; see `artifacts.masks.read_mask`."""
        path = self.mask_path(image_id)
        size = self._table.size_of(self._row(image_id))
        try:
            return read_mask(path, self.num_classes, None if size is None else (size[1], size[0]))
        except DataError as error:
            if path.exists():
                raise
            again = "add the file, or make the data set again: the command that made it, with --force"
            raise DataError(error.message, again) from None

    def image_path(self, image_id: str) -> Path:
        if copied := self._table.copy_of(self._row(image_id)):
            return Path(self.path, copied)
        return self.source_path(image_id)

    def source_path(self, image_id: str) -> Path:
        """The user's own file of the image, even where a converted copy of it is used."""
        relative = self._table.file_of(self._row(image_id)) or self._place.pattern.replace("{id}", image_id)
        return Path(self._image_root(), relative)

    def image(self, image_id: str) -> np.ndarray:
        """The image, RGB uint8 (H, W, 3), with its pixels as stored in the file.

        The EXIF orientation is not applied: masks are drawn on the stored pixels (VOC's images carry none).
        Raises DataError, with the file's name, if it is missing, truncated or not of the recorded size.
        """
        path = self.image_path(image_id)
        pixels = read_image(path, self._where(image_id))
        recorded = self._table.size_of(self._row(image_id))
        if recorded is not None and pixels.shape[:2] != recorded:
            raise DataError(
                f"{self._where(image_id)}: image {path} is {pixels.shape[1]}x{pixels.shape[0]} (width x height), "
                f"but was {recorded[1]}x{recorded[0]} when the data set was made",
                "rerun prepare-data, or put the old image back",
            )
        return pixels

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) of the image: as recorded, else from the file's header."""
        if recorded := self._table.size_of(self._row(image_id)):
            return recorded
        if image_id not in self._sizes_from_files:
            path = self.image_path(image_id)
            try:
                with open_image(path) as image:
                    height, width = stored_size(image)
                    itself = image.format == "TIFF" and orientation(image) >= 5
                self._sizes_from_files[image_id] = (width, height) if itself else (height, width)
            except Exception as error:
                raise _unreadable(path, self._where(image_id), error) from error
        return self._sizes_from_files[image_id]

    def _row(self, image_id: str) -> int:
        row = self._ids.row(image_id)
        if row is None:
            raise DataError(
                f"data set {self.name!r} has no image {image_id!r}", "check the id, or prepare the data again"
            )
        return row

    def _where(self, image_id: str) -> str:
        bits = int(self._table.splits[self._row(image_id)])
        return f"id {image_id} in split {SPLITS[(bits & -bits).bit_length() - 1]!r}"

    def _image_root(self) -> str:
        if self._root is None:
            self._root = str(self.path) if self._place.place == "artifact" else self._local_root()
        return self._root

    def _local_root(self) -> str:
        record = self.path / "local" / "images.json"
        root: str = read_json(record, _LocalImages, "it records the folder of the images: rerun prepare-data").root
        if not os.path.isdir(root):
            raise DataError(
                f"the images' folder {root} (recorded in {record}) does not exist",
                "put it back, or write its new path into that file",
            )
        return root


def _recorded_digest(artifact_or_path: Artifact | Path | str) -> str | None:
    """The digest of dataset.json; None if there is no such file, or it is not what was published."""
    path = artifact_folder(artifact_or_path) / "dataset.json"
    try:
        found = file_digest(path)
    except (OSError, ValueError):
        return None
    if not isinstance(artifact_or_path, Artifact) and has_manifest(path.parent):
        artifact_or_path = Artifact(path.parent)
    if not isinstance(artifact_or_path, Artifact):
        return found
    item = artifact_or_path.items.get("dataset.json")
    return found if item is not None and item["sha256"] == found else None


def _mapped(folder: Path, sha256: str, whole: bool = True) -> tuple[Head, ImageTable] | None:
    """The columns, if they are of the dataset.json with this digest."""
    if (found := load(folder / COLUMNS, whole)) is None:
        return None
    try:
        head = shaped(found[0], Head, COLUMNS)
    except ArtifactError:
        return None
    return (head, found[1]) if head.sha256 == sha256 else None


@functools.lru_cache(maxsize=2)
def _opened_in_process(folder: str, sha256: str | None, check: bool) -> Dataset:
    """A data set that another process has opened and checked; once for all that this process is sent of it."""
    mapped = _mapped(Path(folder), sha256, whole=False) if check and sha256 is not None else None
    if mapped is None:
        return Dataset(folder, check)
    dataset = Dataset.__new__(Dataset)
    dataset.path, dataset._opened_as = Path(folder), (sha256, check)
    dataset._fill(*mapped)
    return dataset


def read_image(path: Path | str, where: str = "") -> np.ndarray:
    """Read an image file as RGB uint8 (H, W, 3); EXIF orientation is not applied, except to TIFF files.

    `where` begins the message of the DataError for a missing, truncated or 16-bit file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data.startswith(PNG_SIGNATURE) and (damage := png_damage(data)):
            raise ValueError(damage)
        with open_image(io.BytesIO(data)) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            if image.format == "TIFF":
                return np.array(turned(image, orientation(image)).convert("RGB"))
            return np.array(image.convert("RGB"))
    except Exception as error:
        raise _unreadable(path, where, error) from error


def _unreadable(path: Path, where: str, error: Exception) -> DataError:
    begin = f"{where}: " if where else ""
    if not path.is_file():
        begin = f"{where} " if where else "there is "
        return DataError(f"{begin}has no file {path}" if where else f"there is no image {path}", "add the image")
    return DataError(
        f"{begin}image {path} cannot be read: {reason(path, error)}", "copy or extract the file again from its source"
    )
