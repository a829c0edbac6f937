"""The record of a data set: names, classes, lists and labels as dataset.json, and the rules that they keep.

`write_dataset` writes it, and the same in columns (artifacts.image_table); `artifacts.dataset` reads either.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from artifacts.canonical import file_digest
from artifacts.errors import DataError
from artifacts.image_table import ImageTable
from artifacts.json_items import MAX_COUNT, Anything, Shape
from artifacts.store import Writer
from artifacts.text import amount, forbidden_character

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
COLUMNS = "local/columns.npz"
_SIMPLE_ID = re.compile(r"[0-9A-Za-z_-]{1,200}")


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


class Place(Shape):
    place: Literal["artifact", "local"]
    pattern: str


class Images(Place):
    files: dict[str, str]
    copied: dict[str, str]


class Record(Shape):
    """dataset.json, see `write_dataset`; `check_record` checks that its fields agree with each other."""

    schema_version: Literal[2] = Field(alias="schema")
    name: str
    classes: ClassNames
    splits: dict[Split, list[str]]
    tags: dict[str, list[Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]]]
    tag_source: str
    masks: list[str]
    images: Images
    sizes: dict[str, Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=2, max_length=2)]]
    facts: Anything


class Head(Shape):
    """What local/columns.npz holds in addition to the columns; sha256: of the dataset.json that it was made of."""

    sha256: str
    name: str
    classes: list[str]
    splits: list[str]
    tag_source: str
    images: Place
    facts: Anything

    @classmethod
    def of(cls, record: Record) -> Head:
        return cls(
            sha256="",
            name=record.name,
            classes=record.classes,
            splits=list(record.splits),
            tag_source=record.tag_source,
            images=record.images,
            facts=record.facts,
        )


def table_of(record: Record) -> ImageTable:
    """The columns of what was read."""
    splits: dict[str, list[str]] = {str(split): ids for split, ids in record.splits.items()}
    lists = [splits.get(split, []) for split in SPLITS]
    files, copied = record.images.files, record.images.copied
    return ImageTable.of(lists, record.tags, record.masks, record.sizes, files, copied)


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
    `image_root` if that is given; image_files: id -> relative file, where it is not that of the pattern;
    copied_images: images that are in the artifact nevertheless, id -> file in it. sizes: id -> (H, W), checked
    whenever a mask or an image is read. facts: further JSON, for people and for the content digest (counts, a digest
    of the images). Raises DataError if lists, labels and files do not agree.
    """
    class_names = list(class_names)
    lists = {split: sorted(splits.get(split, ())) for split in SPLITS}
    same: dict[tuple[int, ...], tuple[int, ...]] = {}

    def shared(values: Iterable[int]) -> tuple[int, ...]:
        """One tuple for all images with the same labels, or of one size."""
        found = tuple(values)
        return same.setdefault(found, found)

    labels = {image_id: shared(sorted({int(tag) for tag in ids})) for image_id, ids in tags.items()}
    masked = sorted(set(mask_ids))
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise DataError(f"unknown split {unknown[0]!r}", f"the splits are {', '.join(SPLITS)}")
    check_agreement(class_names, lists, labels, masked)
    everything = sorted({image_id for ids in lists.values() for image_id in ids})
    given = image_files or {}
    named = ((image_id, given[image_id]) for image_id in everything if image_id in given)
    files = {image_id: file for image_id, file in named if file != image_pattern.replace("{id}", image_id)}
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
    place = "artifact" if image_root is None else "local"
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
                "place": place,
                "pattern": image_pattern,
                "files": files,
                "copied": copied,
            },
            "sizes": {image_id: shared(map(int, sizes[image_id])) for image_id in sorted(sizes)} if sizes else {},
            "facts": dict(facts or {}),
        },
    )
    head = {
        "sha256": file_digest(writer.path / "dataset.json"),
        "name": name,
        "classes": class_names,
        "splits": list(lists),
        "tag_source": tag_source,
        "images": {"place": place, "pattern": image_pattern},
        "facts": dict(facts or {}),
    }
    table = ImageTable.of(list(lists.values()), labels, masked, sizes or {}, files, copied)
    with writer.item(COLUMNS) as temporary:
        table.save(temporary, head)


def check_agreement(
    class_names: Sequence[str],
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[int]],
    masked: Iterable[str],
) -> None:
    """DataError unless classes, sorted lists of ids, sorted labels and ids with masks can be those of a data set."""
    check_class_names(class_names)
    _check_lists(lists, masked)
    _check_tags(lists, labels, class_names)


def check_record(record: Record) -> None:
    """The checks of `write_dataset`, and that every id is in a split and every image file inside its folder."""
    given = {str(split): sorted(ids) for split, ids in record.splits.items()}
    lists = {split: given.get(split, []) for split in SPLITS}
    check_agreement(record.classes, lists, record.tags, record.masks)
    known = set(itertools.chain.from_iterable(lists.values()))
    of_images = {"images.files": record.images.files, "images.copied": record.images.copied}
    for place, ids in {"tags": record.tags, "masks": record.masks, "sizes": record.sizes, **of_images}.items():
        if unknown := sorted(set(ids) - known):
            count = amount(len(unknown), "id that is", "ids that are")
            raise DataError(f"{place} has {count} in no split, e.g. {unknown[0]!r}")
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
                f"{amount(len(without), 'id')} of split {split!r} without a mask, e.g. {without[0]}",
                "add the masks, or remove the ids from the list",
            )
    for split, scored in itertools.product(TRAINING, SCORED):
        if both := sorted(set(lists[split]) & set(lists[scored])):
            raise DataError(
                f"{amount(len(both), 'id is', 'ids are')} in both {split!r} and {scored!r}, e.g. {both[0]}",
                "remove them from one of the lists: scored images must not be trained on",
            )


def _check_tags(
    lists: Mapping[str, Sequence[str]], tags: Mapping[str, Sequence[int]], class_names: Sequence[str]
) -> None:
    first, num_classes = first_label(class_names), len(class_names)
    for split in ("train", "weak"):
        for image_id in lists[split]:
            if image_id not in tags:
                raise DataError(
                    f"id {image_id} in split {split!r} has no image-level labels",
                    "add its labels (an empty list is allowed)",
                )
    for image_id, labels in tags.items():
        if labels and not (first <= labels[0] and labels[-1] < num_classes and list(labels) == sorted(set(labels))):
            raise DataError(
                f"id {image_id} has the labels {list(labels)}, expected class ids {first}..{num_classes - 1}",
                "labels are class ids; background is never a label",
            )


def first_label(class_names: Sequence[str]) -> int:
    """The smallest class id that can be an image-level label: 1, or 0 if there is no background."""
    return 1 if class_names and class_names[0] == "background" else 0


def _split_of(lists: Mapping[str, Sequence[str]], image_id: str) -> str | None:
    return next((split for split, ids in lists.items() if image_id in ids), None)
