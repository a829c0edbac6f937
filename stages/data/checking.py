"""Reads every file of a data set and reports all problems at once.

    report = check_dataset(Dataset("runs/default/data"), Execution())      # a prepared data set
    report = check_raw(raw, config, Execution())                           # the files on disk, before they are prepared

A problem is what makes the data unusable or the figures worthless (the same image in train and val). A remark is what
raises no error, but is likely a mistake: a PNG named .jpg, a mask that is 255 everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.dataset import MASKED, SCORED, SPLITS, TRAINING, Dataset, check_image_id, first_label
from artifacts.errors import DataError
from artifacts.image_files import FORMATS, open_image
from artifacts.masks import IGNORE
from artifacts.text import amount, named
from stages.contract import Execution
from stages.data.choose_splits import choose_holdout, choose_labelled, choose_others
from stages.data.findings import Finding, Looked, Report, gather, in_order, of_all
from stages.data.lists.id_lists import check_disjoint
from stages.data.photographs import ImageFile, look_at
from stages.data.pixels import HINTS, REMARKS
from stages.data.preparation import (
    check_mask_size,
    checked_mask,
    choose_tag_source,
    digest_images,
    files_of,
    kept_classes,
    read_tags,
    without_images,
)
from stages.data.readers.raw import RawDataset, TagSource
from stages.parallel.processes import map_in_processes

if TYPE_CHECKING:
    from stages.data.preparation_config import PrepareDataConfig

_AGAIN = "copy or extract the file again from its source, or take it out of the folder"


# ------------------------------------------------------------------------------------------------- prepared


def check_dataset(dataset: Dataset, execution: Execution) -> Report:
    """Read every image and mask of a prepared data set again and compare them with its lists, labels and sizes."""
    begin = time.monotonic()
    findings = list(_of_prepared_lists(dataset))
    splits = {split: dataset.splits.get(split, ()) for split in SPLITS}
    ids = sorted({image_id for part in splits.values() for image_id in part})
    looked = _look_at_all(look_prepared, dataset, ids, execution)
    tags = {image_id: dataset.tags(image_id) for image_id in ids if dataset.has_tags(image_id)}
    findings += of_all(looked, splits, tags, dataset.class_names, range(dataset.num_classes))
    findings += _exchanged(dataset, looked)
    masks = sum(dataset.has_mask(image_id) for image_id in ids)
    return Report(dataset.name, in_order(findings), len(ids), masks, time.monotonic() - begin)


def look_prepared(dataset: Dataset, image_id: str) -> Looked:
    """Decode an image and its mask: both exist, have the recorded size, and the mask's values are class ids or 255."""
    findings: list[Finding] = []
    path, shape, mask = None, None, None
    with gather(findings, "layout"):  # said of every image, and shown once
        path = dataset.image_path(image_id)
    looked = Looked(()) if path is None else look_at_file(path, image_id)
    if path is not None and not any(finding.is_problem for finding in looked.findings):
        with gather(findings, "image", path, image_id):
            shape = dataset.image(image_id).shape[:2]
    if dataset.has_mask(image_id):
        with gather(findings, "mask", dataset.mask_path(image_id), image_id):
            mask = dataset.mask(image_id)
            if shape is not None:
                check_mask_size(dataset.mask_path(image_id), mask.shape, shape)
        findings += _blank(mask, dataset.mask_path(image_id), image_id, dataset.has_background)
    return replace(looked, findings=(*looked.findings, *findings), values=_values(mask))


def _of_prepared_lists(dataset: Dataset) -> Iterator[Finding]:
    """Mistakes that prepare-data does not write: dataset.json was changed since."""
    again = "run prepare-data again; dataset.json is not to be edited"
    file = str(dataset.path / "dataset.json")
    first = first_label(dataset.class_names)
    for split in TRAINING + SCORED:
        for image_id in dataset.splits.get(split, ()):
            if split in MASKED and not dataset.has_mask(image_id):
                yield Finding("missing-mask", f"id {image_id} in split {split!r} has no mask", again, file, image_id)
            if split in ("train", "weak") and not dataset.has_tags(image_id):
                yield Finding("labels", f"id {image_id} in split {split!r} has no labels", again, file, image_id)
            labels = dataset.tags(image_id) if dataset.has_tags(image_id) else ()
            if wrong := [label for label in labels if not first <= label < dataset.num_classes]:
                what = f"id {image_id} has the labels {wrong}, expected class ids {first}..{dataset.num_classes - 1}"
                yield Finding("labels", what, again, file, image_id)
    yield from _overlaps({split: dataset.splits.get(split, ()) for split in SPLITS})


def _exchanged(dataset: Dataset, looked: Mapping[str, Looked]) -> Iterator[Finding]:
    """Whether the images' files have the recorded sizes in bytes; reported only if all of them exist."""
    recorded = dataset.facts.get("images_sha256_of_id_and_bytes")
    if not recorded or dataset.facts.get("converted_images") or not all(one.digest for one in looked.values()):
        return
    if digest_images((image_id, looked[image_id].file_bytes) for image_id in sorted(looked)) != recorded:
        yield Finding(
            "exchanged",
            "the sizes of the images' files have changed since the data set was made",
            "put the old files back, or run prepare-data again, so that results record what they were made from",
        )


# ------------------------------------------------------------------------------------------------- raw


def check_raw(raw: RawDataset, config: PrepareDataConfig, execution: Execution) -> Report:
    """Do what prepare-data does, without writing, and continue after every mistake."""
    begin = time.monotonic()
    findings = [
        Finding("counts", sentence, "complete the data set, or accept it with --allow-subset", str(raw.root))
        for sentence in raw.deviations
    ]
    if config.allow_subset:
        findings = [replace(finding, is_problem=False, hint="") for finding in findings]
    findings += [Finding("left-out", sentence, is_problem=False) for sentence in raw.left_out]
    kept = list(raw.class_names)
    with gather(findings, "settings"):
        kept = kept_classes(config, raw)
    splits = _choose_splits(config, raw, execution, findings)
    tags = _labels(config, raw, splits, findings, execution.progress.note)
    findings += _of_raw_lists(raw, splits)
    ids = sorted({image_id for part in splits.values() for image_id in part if image_id in raw.images})
    looked = _look_at_all(look_raw, without_images(raw), ids, execution, partial(files_of, raw))
    findings += of_all(looked, splits, tags, raw.class_names, {raw.class_names.index(name) for name in kept})
    masks = sum(image_id in raw.masks for image_id in ids)
    return Report(raw.name, in_order(findings), len(ids), masks, time.monotonic() - begin)


def look_raw(raw: RawDataset, item: tuple[str, tuple[Path, Any]]) -> Looked:
    """Decode an image and its mask as prepare-data does. item: (id, `files_of` it)."""
    image_id, (path, entry) = item
    findings: list[Finding] = []
    image, mask = None, None
    looked = look_at_file(path, image_id)
    if entry is not None:
        with gather(findings, "mask", entry, image_id):
            mask = checked_mask(raw, entry)
        findings += _blank(mask, entry, image_id, raw.has_background)
        findings += [
            Finding("mask-colours", sentence, "", str(entry), image_id, is_problem=False)
            for sentence in (raw.remarks(entry) if raw.remarks else ())
        ]
    if not any(finding.is_problem for finding in looked.findings):
        with gather(findings, "image", path, image_id):
            shape = None if mask is None else mask.shape
            image = look_at(path, shape, raw.photographs, raw.exif, decode=True, white=raw.white)
            findings += _of_reading(image, path, image_id)
    if image is not None and mask is not None:
        with gather(findings, "mask", entry, image_id):
            check_mask_size(entry, mask.shape, image.size)
    if image is not None and image.ambiguous:
        what = f"{path} is turned by EXIF; it is square, so that its mask fits with and without the turn"
        hint = "look at it in the contact sheet, then set dataset.exif (apply or ignore)"
        findings.append(Finding("turned", what, hint, str(path), image_id, is_problem=False))
    return replace(looked, findings=(*looked.findings, *findings), values=_values(mask))


def _of_reading(image: ImageFile, path: Path, image_id: str) -> Iterator[Finding]:
    """Remarks on an image that may have been read differently from how it was meant."""
    for kind, found in image.remarks.items():
        what = f"{path} ({REMARKS[kind]})" + (f": {found}" if found else "")
        yield Finding(f"read-{kind}", what, HINTS.get(kind, ""), str(path), image_id, is_problem=False)


def _choose_splits(
    config: PrepareDataConfig, raw: RawDataset, execution: Execution, findings: list[Finding]
) -> dict[str, Sequence[str]]:
    """The ids by split, as prepare-data chooses them; all training images where a list cannot be used."""
    note = execution.progress.note
    labelled: Sequence[str] = raw.train
    with gather(findings, "lists", config.labelled):  # a balanced draw asks for the labels; its number is looked at
        labelled = choose_labelled(config.model_copy(update={"labelled_balanced": False}), raw, note)
    others = sorted(set(raw.pool) - set(labelled))
    with gather(findings, "lists", config.unlabelled):
        others = choose_others(config, raw, labelled, note)
    train: Sequence[str] = labelled
    holdout: Sequence[str] = []
    with gather(findings, "lists", config.holdout):
        train, holdout = choose_holdout(config, labelled, raw.names, note, raw.scene_of)
    splits: dict[str, Sequence[str]] = {
        "train": train,
        "holdout": holdout,
        "weak": [],
        "unlabelled": raw.unlabelled,
    }
    rest = "unlabelled" if config.others == "unlabelled" else "weak"
    splits[rest] = sorted({*splits[rest], *others})
    return splits | {"val": raw.val, "test": raw.test}


def _of_raw_lists(raw: RawDataset, splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Ids that are invalid, that lack their image or mask, or that are both trained on and scored."""
    add = "add the file, or remove its id from the list"
    for split, ids in splits.items():
        for image_id in ids:
            findings: list[Finding] = []
            with gather(findings, "lists", image_id=image_id):
                check_image_id(image_id)
            yield from findings
            if image_id not in raw.images:
                what = f"id {image_id} in split {split!r} has no image below {raw.root}"
                yield Finding("missing-image", what, add, image_id=image_id)
            if split in MASKED and image_id not in raw.masks:
                yield Finding("missing-mask", f"id {image_id} in split {split!r} has no mask", add, image_id=image_id)
    yield from _overlaps(splits)


def _labels(
    config: PrepareDataConfig,
    raw: RawDataset,
    splits: Mapping[str, Sequence[str]],
    findings: list[Finding],
    note: Callable[[str], None],
) -> dict[str, tuple[int, ...]]:
    """Image-level labels as class ids by id, of the source that prepare-data would use; empty if that is the masks.

    A damaged annotation must not hide the next one, so a source that fails is read again for fewer images.
    """
    training = sorted({*splits["train"], *splits["holdout"], *splits["weak"]})
    ids = sorted({*training, *splits["val"]})
    found: list[Finding] = []
    name, source = "masks", None
    with gather(found, "labels", config.tag_file):
        name, source = choose_tag_source(config, raw, training, note)
    if found:
        looked_into = raw.tag_sources.values() if config.tag_source == "auto" and not config.tag_file else ()
        parts = [read_in_parts(one, ids) for one in looked_into]
        mistakes = [error for _, errors in parts for error in errors]
        findings += [Finding("labels", error.message, error.hint or "") for error in mistakes] or found
        names = next(
            (names for names, errors in parts if errors), {}
        )  # the source that was meant, for the checks below
        return read_tags(lambda _: names, ids, raw.class_names, raw.class_names)
    if source is None:
        return {}
    names, errors = read_in_parts(source, ids)
    findings += [Finding("labels", error.message, error.hint or "") for error in errors]
    known = names.keys() | set(raw.masks if raw.tags_of_masks_too else ())
    if not errors and (untagged := [image_id for image_id in training if image_id not in known]):
        what = amount(len(untagged), "training image has", "training images have")
        what += f" no labels in the source {name!r}: {named(untagged)}"
        findings.append(Finding("labels", what, "complete them, or take the labels from another source (tag_source)"))
    return read_tags(lambda _: names, ids, raw.class_names, raw.class_names)


def read_in_parts(source: TagSource, ids: Sequence[str]) -> tuple[dict[str, frozenset[str]], list[DataError]]:
    """The labels of all images that have some, and an error for each image whose annotation has a mistake.

    An error that the first and the last image have in common concerns all of them, and is reported once.
    """
    try:
        return dict(source(ids)), []
    except DataError as error:
        if len(ids) == 1 or all(_message(source, [end]) == error.message for end in (ids[0], ids[-1])):
            return {}, [error]
    middle = len(ids) // 2
    (earlier, errors), (later, more) = read_in_parts(source, ids[:middle]), read_in_parts(source, ids[middle:])
    return earlier | later, errors + more


def _message(source: TagSource, ids: Sequence[str]) -> str | None:
    try:
        source(ids)
    except DataError as error:
        return error.message
    return None


# ------------------------------------------------------------------------------------------------- one file


def look_at_file(path: Path, image_id: str) -> Looked:
    """The file of an image: whether it has bytes, and whether they are of the type that its name says."""
    try:
        data = path.read_bytes()
    except OSError:
        return Looked((), str(path))  # reading the image says why
    if not data:
        empty = Finding("image", f"image {path} is empty (0 bytes)", _AGAIN, str(path), image_id)
        return Looked((empty,), str(path))
    findings = []
    with contextlib.suppress(Exception):  # reading the image says why
        with open_image(io.BytesIO(data)) as opened:
            kind, mode = opened.format, opened.mode
        if kind not in FORMATS.get(path.suffix.lower(), (kind,)):
            what = f"{path} is a {kind} file by its content; it is read as that"
            hint = "rename it if other programs cannot read it"
            findings.append(Finding("suffix", what, hint, str(path), image_id, is_problem=False))
        if mode == "CMYK":
            what = f"{path} is CMYK; it is read, but colours may differ slightly from those in a viewer"
            findings.append(Finding("cmyk", what, "", str(path), image_id, is_problem=False))
    return Looked(tuple(findings), str(path), len(data), hashlib.sha256(data).hexdigest())


def _values(mask: np.ndarray | None) -> frozenset[int] | None:
    return None if mask is None else frozenset(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())


def _blank(mask: np.ndarray | None, file: Any, image_id: str, has_background: bool) -> Iterator[Finding]:
    values = _values(mask)
    if values == {IGNORE}:
        what, hint = f"mask {file} is 255 everywhere: nothing in it is trained on or scored", "draw it, or leave it out"
    elif values == {0} and has_background:
        what, hint = f"mask {file} is background everywhere", "if that is a mistake, draw the objects"
    else:
        return
    yield Finding("blank-mask", what, hint, str(file), image_id, is_problem=False)


def _look_at_all(
    look: Callable[[Any, Any], Looked],
    shared: Any,
    ids: Sequence[str],
    execution: Execution,
    carry: Callable[[str], Any] | None = None,
) -> dict[str, Looked]:
    looked = {}
    with execution.progress.track(len(ids), "checking") as task:
        for image_id, one in map_in_processes(look, shared, ids, execution.workers, carry):
            looked[image_id] = one
            task.advance()
    return looked


def _overlaps(splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for split in TRAINING:
        for scored in SCORED:
            findings: list[Finding] = []
            with gather(findings, "lists"):
                check_disjoint(splits.get(split, ()), splits.get(scored, ()), f"split {split!r}", f"split {scored!r}")
            yield from findings
