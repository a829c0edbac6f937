"""Data sets: lists of image ids, image-level labels, images and index masks in one artifact.

dataset.json             names, classes, splits, labels: see `write_dataset`
masks/<id>.png           index masks whose values are class ids of this data set (artifacts.masks)
images/...               the images, or, if they stay in their own folder,
local/images.json        {"root": "/absolute/folder"}: valid on this machine only, not part of the content

Class 0 is `background`, which is never an image-level label; or, where the first class has another name (Cityscapes),
there is no background and every class can be a label.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, Field

from artifacts.errors import ArtifactError, DataError
from artifacts.image_files import open_image, orientation, reason, stored_size, turned
from artifacts.json_items import MAKE_AGAIN, Anything, Shape, Text, read_json
from artifacts.masks import PNG_SIGNATURE, png_damage, read_mask, voc_palette
from artifacts.store import Artifact, Writer, read_item
from artifacts.text import forbidden_character

SCHEMA = 2
Split = Literal["train", "holdout", "weak", "unlabelled", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
TRAINING: tuple[str, ...] = ("train", "weak", "unlabelled")
SCORED: tuple[str, ...] = ("holdout", "val", "test")
MASKED: tuple[str, ...] = ("train", "holdout", "val")  # splits in which every image has a mask
MAX_CLASSES = 255  # ids 0..254; 255 is ignore
MAX_NAME = 200  # characters of a class name
_NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, lone surrogates and ends of lines
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"  # they change the direction of text
_SIMPLE_ID = re.compile(r"[0-9A-Za-z_-]{1,200}")


def artifact_folder(artifact_or_path: Artifact | Path | str) -> Path:
    """The folder of an artifact, given as `Artifact` or by its path."""
    return Path(artifact_or_path) if isinstance(artifact_or_path, (str, Path)) else artifact_or_path.path


class _LocalImages(Shape):
    """local/images.json."""

    root: Text


def check_image_id(image_id: str) -> str:
    """Return the id if it can name a file and an HDF5 group, else raise DataError saying why not."""
    if isinstance(image_id, str) and _SIMPLE_ID.fullmatch(image_id):  # quick, as almost all of thousands pass here
        return image_id
    reason = None
    if not isinstance(image_id, str):
        reason = f"it is a {type(image_id).__name__}, not text (in YAML, put it in quotes)"
    elif not image_id or image_id != image_id.strip():
        reason = "it is empty or has white space around it"
    elif found := forbidden_character(image_id):
        reason = f"it has {found}"
    elif any(c in "/\\" for c in image_id):
        reason = "it has a slash or backslash"
    elif image_id.startswith(".") or ".tmp-" in image_id:
        reason = "names that begin with '.' or hold '.tmp-' are reserved for hidden and temporary files"
    elif len(image_id.encode()) > 200:
        reason = "it is longer than 200 bytes"
    if reason:
        raise DataError(
            f"{image_id!r} cannot be an image id: {reason}", "rename the file; for sub-folders join the names with '-'"
        )
    return image_id


def check_class_names(names: Sequence[object], where: str = "") -> None:
    """DataError unless these can be the classes of a data set: distinct texts that can be shown, "background" first or
    nowhere, and not more than a mask holds. where: the file that has them, to begin the message.
    """
    begin = f"{where}: " if where else ""
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{begin}{len(names)} classes: an 8-bit mask holds {MAX_CLASSES} and 255 for ignore",
            "merge classes, or leave out rare ones",
        )
    for name in names:
        if reason := _no_class_name(name):
            shown = repr(name) if len(repr(name)) <= 60 else repr(name)[:60] + "..."
            raise DataError(f"{begin}{shown} cannot be a class name: {reason}", "rename it")
    if not names or len(set(names)) != len(names) or "background" in names[1:]:
        raise DataError(
            f"{begin}classes are {list(names)}: expected distinct names, 'background' first or nowhere",
            "correct the list of classes",
        )


def _no_class_name(name: object) -> str:
    """Why a value is not a class name; else ""."""
    if not isinstance(name, str):
        return f"it is a {type(name).__name__}, not text"
    if not name.strip():
        return "it is empty"
    if len(name) > MAX_NAME:
        return f"it has {len(name):,} characters, at most {MAX_NAME} are possible"
    if any(unicodedata.category(character) in _NOT_SHOWN or character in _TURNING for character in name):
        return "it has control characters, or characters that cannot be shown"
    return ""


def _class_names(names: list[str]) -> list[str]:
    check_class_names(names)
    return names


ClassNames = Annotated[list[str], AfterValidator(_class_names)]


class _Images(Shape):
    place: Literal["artifact", "local"]
    pattern: str
    files: dict[str, str]
    copied: dict[str, str]


class _Record(Shape):
    """dataset.json, see `write_dataset`; `_check_record` checks that its fields agree with each other."""

    schema_version: Literal[2] = Field(alias="schema")
    name: str
    classes: ClassNames
    splits: dict[Split, list[str]]
    tags: dict[str, list[int]]
    tag_source: str
    masks: list[str]
    images: _Images
    sizes: dict[str, Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=2, max_length=2)]]
    facts: Anything


def write_dataset(
    writer: Writer,
    *,
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Iterable[str]],
    tags: Mapping[str, Iterable[int]],
    tag_source: str,
    mask_ids: Iterable[str],
    image_pattern: str = "images/{id}.png",
    image_files: Mapping[str, str] | None = None,
    image_root: Path | str | None = None,
    copied_images: Mapping[str, str] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write dataset.json (and local/images.json); call it last, when masks and images are in place.

    class_names: background first, if there is one. splits: ids of "train" (with masks), "holdout" (labelled images,
    with masks, that are not trained on), "weak" (image-level labels), "unlabelled", "val" (with masks), "test".
    tags: id -> class ids without background, for every id of train and weak. tag_source: where these come from.
    mask_ids: the ids that have masks/<id>.png. image_pattern: the image's file below the artifact, or below
    `image_root` if that is given; image_files: exceptions to the pattern, id -> relative file; copied_images: images
    that are in the artifact nevertheless, id -> file in it. sizes: id -> (H, W), checked whenever a mask or an image is
    read. facts: further JSON, for people and for the content digest (counts, a digest of the images). Raises DataError
    if lists, labels and files do not agree.
    """
    class_names = list(class_names)
    lists = {split: sorted(splits.get(split, ())) for split in SPLITS}
    labels = {image_id: sorted({int(tag) for tag in ids}) for image_id, ids in tags.items()}
    masked = sorted(set(mask_ids))
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise DataError(f"unknown split {unknown[0]!r}", f"the splits are {', '.join(SPLITS)}")
    check_agreement(class_names, lists, labels, masked)
    everything = sorted({image_id for ids in lists.values() for image_id in ids})
    files = (
        {image_id: image_files[image_id] for image_id in everything if image_id in image_files} if image_files else {}
    )
    copied = {i: copied_images[i] for i in everything if i in copied_images} if copied_images else {}
    base = writer.path if image_root is None else Path(image_root)
    for image_id in everything:
        file = base / files.get(image_id, image_pattern.replace("{id}", image_id))
        if image_id in copied:
            file = writer.path / copied[image_id]
        if not file.is_file():
            raise DataError(
                f"id {image_id} in split {_split_of(lists, image_id)!r} has no file {file}",
                "add the image, or remove the id from the list",
            )
    for image_id in masked:
        if not writer.has(f"masks/{image_id}.png"):
            raise DataError(f"id {image_id} has no mask file masks/{image_id}.png in {writer.path}")
    if image_root is not None:
        writer.write_json("local/images.json", {"root": str(Path(image_root).absolute())})
    writer.write_json(
        "dataset.json",
        {
            "schema": SCHEMA,
            "name": name,
            "classes": class_names,
            "palette": "voc",
            "splits": lists,
            "tags": labels,
            "tag_source": tag_source,
            "masks": masked,
            "images": {
                "place": "artifact" if image_root is None else "local",
                "pattern": image_pattern,
                "files": files,
                "copied": copied,
            },
            "sizes": {image_id: [int(side) for side in sizes[image_id]] for image_id in sorted(sizes)} if sizes else {},
            "facts": dict(facts or {}),
        },
    )


def check_agreement(
    class_names: Sequence[str],
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, list[int]],
    masked: Iterable[str],
) -> None:
    """DataError unless classes, sorted lists of ids, sorted labels and ids with masks can be those of a data set."""
    check_class_names(class_names)
    _check_lists(lists, masked)
    _check_tags(lists, labels, class_names)


def _check_record(record: _Record) -> None:
    """The checks of `write_dataset`, and that every id is in a split and every image file inside its folder."""
    given = {str(split): sorted(ids) for split, ids in record.splits.items()}
    lists = {split: given.get(split, []) for split in SPLITS}
    check_agreement(record.classes, lists, record.tags, record.masks)
    known = set(itertools.chain.from_iterable(lists.values()))
    of_images = {"images.files": record.images.files, "images.copied": record.images.copied}
    for place, ids in {"tags": record.tags, "masks": record.masks, "sizes": record.sizes, **of_images}.items():
        if unknown := sorted(set(ids) - known):
            raise DataError(f"{place} has {len(unknown)} ids that are in no split, e.g. {unknown[0]!r}")
    for file in (record.images.pattern, *record.images.files.values(), *record.images.copied.values()):
        outside = ".." in file and os.path.normpath(file).startswith("..")
        if outside or not file or file[0] == "/" or "\0" in file:
            raise DataError(f"the image file {file!r} leaves the folder of the images")


def _check_lists(lists: Mapping[str, Sequence[str]], masked: Iterable[str]) -> None:
    have_mask = set(masked)
    for split, ids in lists.items():
        for image_id in ids:
            check_image_id(image_id)
        if len(set(ids)) != len(ids):
            twice = next(a for a, b in itertools.pairwise(ids) if a == b)
            raise DataError(f"id {twice} occurs twice in split {split!r}", "keep one of them in the list")
        if split not in MASKED:
            continue
        if without := [image_id for image_id in ids if image_id not in have_mask]:
            raise DataError(
                f"{len(without)} ids of split {split!r} have no mask, e.g. {without[0]}",
                "add the masks, or remove the ids from the list",
            )
    for split, scored in itertools.product(TRAINING, SCORED):
        if both := sorted(set(lists[split]) & set(lists[scored])):
            raise DataError(
                f"{len(both)} ids are in both {split!r} and {scored!r}, e.g. {both[0]}",
                "remove them from one of the lists: scored images must not be trained on",
            )


def _check_tags(lists: Mapping[str, Sequence[str]], tags: Mapping[str, list[int]], class_names: Sequence[str]) -> None:
    first, num_classes = first_label(class_names), len(class_names)
    for split in ("train", "weak"):
        for image_id in lists[split]:
            if image_id not in tags:
                raise DataError(
                    f"id {image_id} in split {split!r} has no image-level labels",
                    "add its labels (an empty list is allowed)",
                )
    for image_id, labels in tags.items():
        if labels and not (first <= labels[0] and labels[-1] < num_classes and labels == sorted(set(labels))):
            raise DataError(
                f"id {image_id} has the labels {labels}, expected class ids {first}..{num_classes - 1}",
                "labels are class ids; background is never a label",
            )


def first_label(class_names: Sequence[str]) -> int:
    """The smallest class id that can be an image-level label: 1, or 0 if there is no background."""
    return 1 if class_names and class_names[0] == "background" else 0


def _split_of(lists: Mapping[str, Sequence[str]], image_id: str) -> str | None:
    return next((split for split, ids in lists.items() if image_id in ids), None)


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
        record = read_item(artifact_or_path, "dataset.json", _Record, "run prepare-data")
        if check:
            try:
                _check_record(record)
            except DataError as error:
                raise ArtifactError(f"{self.path / 'dataset.json'} is damaged: {error.message}", MAKE_AGAIN) from None
        self.name: str = record.name
        self.class_names: tuple[str, ...] = tuple(record.classes)
        self.num_classes = len(self.class_names)
        self._first_label = first_label(self.class_names)
        self.has_background = self._first_label == 1
        self.label_names = self.class_names[self._first_label :]
        self.num_labels = len(self.label_names)
        self.splits: dict[str, tuple[str, ...]] = {split: tuple(ids) for split, ids in record.splits.items()}
        self.palette: bytes = voc_palette()
        self.tag_source: str = record.tag_source
        self.facts: dict[str, Any] = record.facts
        self._tags: dict[str, list[int]] = record.tags
        self._masks = frozenset(record.masks)
        self._sizes: dict[str, list[int]] = record.sizes
        self._sizes_from_files: dict[str, tuple[int, int]] = {}
        self._images = record.images
        self._split_of = {image_id: split for split in reversed(SPLITS) for image_id in self.splits.get(split, ())}
        self._root: str | None = None

    def ids(self, split: str) -> tuple[str, ...]:
        """Sorted ids of a split; DataError names the splits that exist."""
        if split not in self.splits:
            raise DataError(f"data set {self.name!r} has no split {split!r}", f"it has {', '.join(self.splits)}")
        return self.splits[split]

    def tags(self, image_id: str) -> tuple[int, ...]:
        """The image-level labels: sorted class ids, background never among them."""
        self._known(image_id)
        if image_id not in self._tags:
            raise DataError(
                f"{self._where(image_id)} has no image-level labels", "prepare the data set with labels for this split"
            )
        return tuple(self._tags[image_id])

    def has_tags(self, image_id: str) -> bool:
        return image_id in self._tags

    def possible_classes(self, image_id: str) -> tuple[int, ...]:
        """The classes a pixel of the image can have by its labels: background (if there is one) and those."""
        return (*range(self._first_label), *self.tags(image_id))

    def tags_vector(self, image_id: str) -> np.ndarray:
        """The image-level labels as float32 (num_labels,): 1 where the class is present, the first index is that of
        the first foreground class. All nan if the labels are unknown, so that no loss can use them unnoticed.
        """
        if image_id not in self._tags:
            self._known(image_id)
            return np.full(self.num_labels, np.nan, dtype=np.float32)
        vector = np.zeros(self.num_labels, dtype=np.float32)
        vector[[tag - self._first_label for tag in self._tags[image_id]]] = 1
        return vector

    def require_background(self, what: str) -> None:
        """DataError if there is no class background, which `what` needs."""
        if not self.has_background:
            raise DataError(
                f"{what} needs a class background; the data set {self.name!r} begins with {self.class_names[0]!r}",
                "use a data set of objects on a background",
            )

    def has_mask(self, image_id: str) -> bool:
        return image_id in self._masks

    def mask_path(self, image_id: str) -> Path:
        self._known(image_id)
        if image_id not in self._masks:
            raise DataError(f"{self._where(image_id)} has no mask", "use a split with masks, such as 'train' or 'val'")
        return self.path / "masks" / f"{image_id}.png"

    def mask(self, image_id: str) -> np.ndarray:
        """The index mask, uint8 (H, W), values 0..num_classes-1 and 255; see `artifacts.masks.read_mask`."""
        size, path = self._sizes.get(image_id), self.mask_path(image_id)
        try:
            return read_mask(path, self.num_classes, None if size is None else (size[1], size[0]))
        except DataError as error:
            if path.exists():
                raise
            again = "add the file, or make the data set again: the command that made it, with --force"
            raise DataError(error.message, again) from None

    def image_path(self, image_id: str) -> Path:
        self._known(image_id)
        if copied := self._images.copied.get(image_id):
            return Path(self.path, copied)
        return self.source_path(image_id)

    def source_path(self, image_id: str) -> Path:
        """The user's own file of the image, even where a converted copy of it is used."""
        self._known(image_id)
        files = self._images.files
        relative = files.get(image_id) or self._images.pattern.replace("{id}", image_id)
        return Path(self._image_root(), relative)

    def image(self, image_id: str) -> np.ndarray:
        """The image, RGB uint8 (H, W, 3), with its pixels as stored in the file.

        The EXIF orientation is not applied: masks are drawn on the stored pixels (VOC's images carry none).
        Raises DataError, with the file's name, if it is missing, truncated or not of the recorded size.
        """
        path = self.image_path(image_id)
        pixels = read_image(path, self._where(image_id))
        recorded = self._sizes.get(image_id)
        if recorded is not None and pixels.shape[:2] != tuple(recorded):
            raise DataError(
                f"{self._where(image_id)}: image {path} is {pixels.shape[1]}x{pixels.shape[0]} (width x height), "
                f"but was {recorded[1]}x{recorded[0]} when the data set was made",
                "rerun prepare-data, or put the old image back",
            )
        return pixels

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) of the image: as recorded, else from the file's header."""
        self._known(image_id)
        if image_id in self._sizes:
            height, width = self._sizes[image_id]
            return height, width
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

    def _known(self, image_id: str) -> None:
        if image_id not in self._split_of:
            raise DataError(
                f"data set {self.name!r} has no image {image_id!r}", "check the id, or prepare the data again"
            )

    def _where(self, image_id: str) -> str:
        return f"id {image_id} in split {self._split_of[image_id]!r}"

    def _image_root(self) -> str:
        if self._root is None:
            self._root = str(self.path) if self._images.place == "artifact" else self._local_root()
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
