"""From the files of a data set to the artifact, by the same rules for every reader.

Decides which images are labelled, which classes are kept and where image-level labels come from, and reads and checks
every file in a pool. Counts are kept in the artifact, so that two artifacts can be distinguished by their figures.

    summary = prepare(find(settings, execution), config, writer, execution)      # find: of a reader
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.dataset import MASKED, write_dataset
from artifacts.errors import DataError
from artifacts.masks import IGNORE, encode_mask, read_mask
from artifacts.store import Writer
from artifacts.text import SHOWN, amount, named
from stages.contract import Execution
from stages.data.annotations.image_labels import label_source
from stages.data.choose_splits import (
    check_counts,
    check_files,
    choose_holdout,
    choose_labelled,
    choose_others,
    scored_scenes,
)
from stages.data.class_figures import class_figures
from stages.data.config import check_kept
from stages.data.lists.splits import (
    describe_labelled,
)
from stages.data.photographs import look_at
from stages.data.pixels import remarks_in_words
from stages.data.prepared_images import Prepared, PreparedImages
from stages.data.readers.raw import RawDataset, TagSource, unreadable
from stages.parallel.each_image import for_each_image
from stages.parallel.share import alone, counted

if TYPE_CHECKING:
    from stages.data.preparation_config import PrepareDataConfig


# ------------------------------------------------------------------------------------------------- classes and labels


def class_map(class_names: Sequence[str], kept: Sequence[str], others: str) -> np.ndarray:
    """Look-up table, uint8 (256,): ids of the data set to those of the kept classes; all other classes become 255.

    kept: names in the order of their new ids, "background" first where the data set has it; those that are none of
    `class_names` get no value. others: "ignore", or "background" to turn other classes into background instead.
    """
    table = np.full(256, IGNORE, np.uint8)
    if others == "background":
        table[: len(class_names)] = 0
    for new_id, name in enumerate(kept):
        if name in class_names:
            table[class_names.index(name)] = new_id
    return table


def kept_classes(config: PrepareDataConfig, raw: RawDataset) -> list[str]:
    """The classes of the artifact, background first where there is one."""
    names = raw.class_names[1:] if raw.has_background else raw.class_names
    check_kept(config.classes, names, raw.name)
    if config.other_classes == "background" and not raw.has_background:
        raise DataError(f"{raw.name} has no class background that others could become", "use other_classes: ignore")
    return [*(["background"] if raw.has_background else []), *(config.classes or names)]


def choose_tag_source(
    config: PrepareDataConfig, raw: RawDataset, training: Sequence[str], note: Any
) -> tuple[str, TagSource | None]:
    """(source, where to read; None: the masks). `auto` takes the first source that covers the training images."""
    sources: dict[str, TagSource] = dict(raw.tag_sources)
    if config.tag_file:
        path = Path(config.tag_file).expanduser()
        known = raw.class_names if raw.has_background else ("background", *raw.class_names)
        sources["file"] = label_source(path, known, raw.names, note)
    wanted = "file" if config.tag_file else config.tag_source
    if wanted != "auto":
        if wanted != "masks" and wanted not in sources:
            raise DataError(
                f"{raw.root} has no image-level labels of the source {wanted!r}",
                f"there are: {', '.join([*sources, 'masks'])} (tag_source)",
            )
        return wanted, sources.get(wanted)
    masked = {image_id for image_id in training if image_id in raw.masks}
    also = masked if raw.tags_of_masks_too else set()
    covered = {name: len((source(training).keys() | also) & set(training)) for name, source in sources.items()}
    covered["masks"] = len(masked)
    for name, count in covered.items():
        if count == len(training):
            return name, sources.get(name)
    counts = ", ".join(f"{name} {count:,}" for name, count in covered.items())
    raise DataError(
        f"{raw.root} has image-level labels for only some of the {len(training):,} training images: {counts}",
        "complete one of these sources, or name a text file of labels (tag_file)",
    )


def read_tags(
    source: TagSource, ids: Sequence[str], kept: Sequence[str], known: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Ids of the kept classes by image id, for the images that the source covers."""
    number = {name: class_id for class_id, name in enumerate(kept) if name != "background"}
    names = source(ids)
    return {i: tuple(sorted(number[name] for name in names[i] if name in number)) for i in ids if i in names}


def check_tags(source: str, tagged: Collection[str], training: Sequence[str]) -> None:
    """DataError for training images without labels; an empty list of labels counts as labels."""
    if untagged := [image_id for image_id in training if image_id not in tagged]:
        raise DataError(
            f"{len(untagged)} training images have no labels in the source {source!r}: {named(untagged)}",
            "complete them, or take the labels from another source (tag_source)",
        )


# ------------------------------------------------------------------------------------------------- every file


@dataclass(frozen=True)
class Plan:
    """What `prepare_image` needs for every image; sent to each process once."""

    raw: RawDataset  # see `without_images`
    written: Path  # folder of the masks that an earlier, killed run has written
    table: np.ndarray  # `class_map`
    verify_images: bool


def prepare_image(plan: Plan, item: tuple[str, tuple[Path, Any]]) -> Prepared:
    """Check one image against its mask and map the mask's classes. item: (id, `files_of` it).

    Raises DataError if one of them has a mistake.
    """
    image_id, (path, entry) = item
    raw, mask, data = plan.raw, None, None
    if entry is not None:
        written = plan.written / f"{image_id}.png"
        if written.is_file():
            mask = read_mask(written)
        else:
            mask = plan.table[checked_mask(raw, entry)]
            data = encode_mask(mask)
    image = look_at(
        path,
        None if mask is None else mask.shape,
        raw.photographs,
        raw.exif,
        plan.verify_images,
        raw.white,
    )
    if mask is None:
        return Prepared(image, None, None)
    check_mask_size(entry, mask.shape, image.size)
    counts = np.bincount(mask.ravel(), minlength=256)
    pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return Prepared(image, pixels, data, raw.remarks(entry) if raw.remarks else ())


def files_of(raw: RawDataset, image_id: str) -> tuple[Path, Any]:
    """An image's file, and its entry of `RawDataset.masks`; None where it has none."""
    return raw.image(image_id), raw.masks.get(image_id)


def checked_mask(raw: RawDataset, entry: Any) -> np.ndarray:
    """The mask of an entry of `RawDataset.masks`, if all its values are class ids or 255; else DataError."""
    try:
        mask, num_classes = raw.read_mask(entry), len(raw.class_names)
    except OSError as error:
        raise unreadable(f"mask {entry}", error) from None
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    if wrong := [int(value) for value in values if num_classes <= value < IGNORE]:
        raise DataError(
            f"mask {entry} has values outside the classes: {wrong[:5]}; expected 0..{num_classes - 1} or {IGNORE}",
            "correct the mask, or the list of classes",
        )
    return mask


def check_mask_size(entry: Any, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """DataError if the mask's shape is not the (H, W) of its image."""
    if shape != size:
        raise DataError(
            f"mask {entry} is {shape[1]}x{shape[0]} (width x height), expected {size[1]}x{size[0]}, the size of its "
            "image",
            "a mask has the size of its image; resize masks with nearest neighbour only",
        )


def _prepare_images(
    raw: RawDataset, plan: Plan, writer: Writer, execution: Execution, ids: Sequence[str], copy_images: bool
) -> PreparedImages:
    """Check every image, write the masks (and images) that are missing. ids: sorted."""
    prepared = PreparedImages(ids, raw.has_background)
    with counted(writer, execution, "preparing", alone(ids)) as advance:
        for image_id, one in for_each_image(prepare_image, plan, ids, execution.workers, partial(files_of, raw)):
            image = one.image
            if image.copy is not None:
                _write(writer, f"images/{image_id}.png", image.copy)
            elif copy_images:
                _write(writer, f"images/{raw.image(image_id).name}", raw.image(image_id).read_bytes())
            if one.mask is not None:
                writer.write_bytes(_mask_item(image_id), one.mask)
            prepared.add(image_id, one)
            advance()
    return prepared


def _write(writer: Writer, item: str, data: bytes) -> None:
    if not writer.has(item):
        writer.write_bytes(item, data)


def _mask_item(image_id: str) -> str:
    return f"masks/{image_id}.png"


# ------------------------------------------------------------------------------------------------- all together

_EXIF = ("turned_by_exif", "left_as_stored_against_exif", "turned_by_exif_where_either_fits")  # facts


def prepare(raw: RawDataset, config: PrepareDataConfig, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Write the data set; returns the summary for people."""
    note = execution.progress.note
    check_counts(raw, config.allow_subset, note)
    for sentence in raw.left_out:
        note(sentence)
    kept = kept_classes(config, raw)
    labelled = [] if config.labelled_balanced else choose_labelled(config, raw, note)
    others = sorted(raw.pool) if config.labelled_balanced else choose_others(config, raw, labelled, note)
    lists = {"train": labelled, "others": others, "unlabelled": raw.unlabelled, "val": raw.val, "test": raw.test}
    check_files(raw, lists, ("train", "val"))
    training = sorted({*labelled, *others})
    source_name, source = choose_tag_source(config, raw, training, note)
    if config.tag_source == "auto" and not config.tag_file:
        note(f"image-level labels from {source_name} (chosen automatically; --set tag_source={source_name} pins it)")
    tags = read_tags(source, [*training, *raw.val], kept, raw.class_names) if source else {}
    known = raw.masks if source is None else tags.keys() | set(raw.masks if raw.tags_of_masks_too else ())
    check_tags(source_name, known, training)

    everything = sorted({image_id for ids in lists.values() for image_id in ids})
    plan = Plan(
        raw=without_images(raw),
        written=writer.path / "masks",
        table=class_map(raw.class_names, kept, config.other_classes),
        verify_images=config.verify_images,
    )
    prepared = _prepare_images(raw, plan, writer, execution, everything, config.copy_images)
    remarks = [sentence for image_id in sorted(prepared.remarks) for sentence in prepared.remarks[image_id]]
    for sentence in remarks[:SHOWN]:
        note(sentence)
    if len(remarks) > SHOWN:
        note(f"and {len(remarks) - SHOWN} more remarks of this kind (semiseg check-data lists them)")
    if source is None or raw.tags_of_masks_too:
        of_masks = ((i, prepared.classes(i)) for i in everything if i not in tags)
        tags |= {i: classes for i, classes in of_masks if classes is not None}
    if config.labelled_balanced:
        labelled = choose_labelled(config, raw, note, tags)
        others = choose_others(config, raw, labelled, note)
    without_kept = {image_id for image_id in [*labelled, *others] if not tags[image_id]}
    if config.without_kept_class == "drop":
        labelled, others = ([i for i in ids if i not in without_kept] for ids in (labelled, others))
    train, holdout = choose_holdout(config, labelled, raw.names, note, raw.scene_of)
    apart = scored_scenes(raw, train, [*holdout, *raw.val], note)
    splits = {
        "train": train,
        "holdout": holdout,
        "weak": sorted(set(others) - apart) if config.others == "weak" else [],
        "unlabelled": sorted({*(others if config.others == "unlabelled" else []), *raw.unlabelled} - apart),
        "val": list(raw.val),
        "test": sorted({*raw.test, *apart}),
    }
    ids = sorted(image_id for part in splits.values() for image_id in part)
    _forget(writer, raw, set(everything).difference(ids))
    masked = [image_id for image_id in ids if image_id in raw.masks]
    tagged = {i: tags[i] for split in (*MASKED, "weak") for i in splits[split] if i in tags}
    facts = {
        "expected": dict(raw.expected),
        "found": dict(raw.found),
        "deviations": list(raw.deviations),
        **raw.facts,
        "labelled": {
            **describe_labelled(labelled, raw.pool, raw.val, raw.official),
            "held_out": len(holdout),
            "classes_without_an_image": _absent(train, tags, kept),
        },
        "masks": _count_masks(ids, raw),
        "images_without_kept_class": len(without_kept),
        "masks_with_classes_that_are_no_label": sum(
            1 for i in masked if i in tagged and not set(prepared.classes(i) or ()) <= set(tagged[i])
        ),
        "images_with_labels_their_mask_does_not_show": sum(
            1 for i in masked if i in tagged and not set(tagged[i]) <= set(prepared.classes(i) or ())
        ),
        "images_sha256_of_id_and_bytes": digest_images((i, prepared.file_bytes(i)) for i in ids),
        **_conversions(prepared, ids),
        "classes": class_figures(kept, splits, prepared.pixels, tagged),
    }
    copied = {i: f"images/{i}.png" for i in ids if prepared.has("copied", i)}
    if config.copy_images:
        copied = {i: f"images/{raw.image(i).name}" for i in ids} | copied
    write_dataset(
        writer,
        name=raw.name,
        class_names=kept,
        splits=splits,
        tags=tagged,
        tag_source=source_name,
        mask_ids=masked,
        image_pattern="{id}.jpg",
        image_files=raw.images,
        image_root=raw.root,
        copied_images=copied,
        sizes={image_id: prepared.size(image_id) for image_id in ids},
        facts=facts,
    )
    note(in_words(facts["labelled"], raw.official is not None))
    if raw.exif == "auto" and (sentence := _exif_in_words(facts)):
        note(sentence)
    for sentence in remarks_in_words(
        {raw.images[i]: prepared.image_remarks[i] for i in prepared.image_remarks.keys() & ids}
    ):
        note(sentence)
    trained = [*labelled, *others]
    return {
        "class_names": kept,
        "images": {split: len(part) for split, part in splits.items() if part},
        "tag_source": source_name,
        "tags_per_image": round(sum(len(tags[i]) for i in trained) / max(1, len(trained)), 3),
        **facts,
    }


def in_words(labelled: Mapping[str, Any], several_kinds: bool) -> str:
    """One line on the labelled list, with the share of official masks, which decides whether figures are comparable."""
    text = f"labelled: {amount(labelled['count'], 'image')}"
    if labelled.get("held_out"):
        text += f", {labelled['held_out']:,} of them held out"
    if labelled["count"] and (absent := labelled.get("classes_without_an_image")):
        text += f", none of {named(absent)}"
    if several_kinds:
        text += f", {100 * labelled['official_share']:.1f} % of them with official masks"
    if labelled.get("family"):
        text += f"; this is {labelled['family']}"
    return f"{text} (sha256 of the sorted ids {labelled['sha256_of_sorted_ids'][:12]})"


def _exif_in_words(facts: Mapping[str, Any]) -> str:
    """How EXIF orientations were handled and how to pin that; empty if no image has one."""
    turned, stored, either = (facts.get(key, 0) for key in _EXIF)
    parts = [f"{amount(turned, 'image is', 'images are')} turned by EXIF orientation" if turned else ""]
    parts += [f"{either:,} of them with a mask that fits with and without it" if either else ""]
    one, many = (f"left as stored, because {whose} that way" for whose in ("its mask fits", "their masks fit"))
    parts += [amount(stored, f"image is {one}", f"images are {many}") if stored else ""]
    text = ", ".join(filter(None, parts))
    return f"{text} (--set dataset.exif=apply or ignore pins it for all)" if text else ""


def without_images(raw: RawDataset) -> RawDataset:
    """The part of the data set that all processes need: no image (see `files_of`), nothing that cannot be pickled."""
    return replace(
        raw,
        images={},
        masks={},
        train=(),
        pool=(),
        val=(),
        test=(),
        unlabelled=(),
        official=None,
        tag_sources={},
        scene_of={},
        left_out=(),
        facts={},
    )


def _forget(writer: Writer, raw: RawDataset, ids: Iterable[str]) -> None:
    """Deletes the files of images that are no longer in the data set."""
    for image_id in ids:
        for item in (_mask_item(image_id), f"images/{image_id}.png", f"images/{raw.image(image_id).name}"):
            (writer.path / item).unlink(missing_ok=True)


def _absent(labelled: Sequence[str], tags: Mapping[str, Collection[int]], kept: Sequence[str]) -> list[str]:
    present = {class_id for image_id in labelled for class_id in tags[image_id]}
    return [name for number, name in enumerate(kept) if number not in present and name != "background"]


def _count_masks(ids: Sequence[str], raw: RawDataset) -> dict[str, int]:
    some = sum(image_id in raw.masks for image_id in ids)
    if raw.official is None:
        return {"some": some, "none": len(ids) - some}
    official = sum(image_id in raw.official for image_id in ids)
    return {"official": official, "other": some - official, "none": len(ids) - some}


def digest_images(file_bytes: Iterable[tuple[str, int]]) -> str:
    """Detects exchanged images without reading them: SHA-256 of the lines "id bytes". file_bytes: sorted by id."""
    found, between = hashlib.sha256(), ""
    for image_id, count in file_bytes:
        found.update(f"{between}{image_id} {count}".encode())
        between = "\n"
    return found.hexdigest()


def _conversions(prepared: PreparedImages, ids: Sequence[str]) -> dict[str, int]:
    """How many images became RGB copies, and how many were turned; empty if none was."""
    flags = {"converted_images": "copied", _EXIF[0]: "turned", _EXIF[1]: "as_stored", _EXIF[2]: "ambiguous"}
    counts = {name: sum(prepared.has(flag, i) for i in ids) for name, flag in flags.items()}
    return {name: count for name, count in counts.items() if count}
