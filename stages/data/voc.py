"""PASCAL VOC 2012 with SBD: the 10,582 / 1,449 split, from a devkit and SBD or a SegmentationClassAug folder.

Rules, each against a trap that published code fell into:

- trainaug = VOC train + SBD train + SBD val (or the list train_aug.txt) minus VOC val, sorted. SBD's own train list
  holds 545 VOC val images: taken as it is, it would train on what is scored.
- where VOC and SBD both annotate an image, VOC's mask wins: it is finer, and has the 255 border that SBD's lack.
- masks are read as indices, never as colours.
- train 1,464, trainaug 10,582, val 1,449: another count is named, and refused unless a subset is allowed.

    devkit = find_devkit(Path("VOCdevkit"))           # JPEGImages, SegmentationClass, ImageSets, Annotations
    summary = write_voc(PrepareDataConfig(dataset="voc-aug", source="VOCdevkit"), writer, Execution())
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from artifacts.dataset import read_image, write_dataset
from artifacts.errors import DataError
from artifacts.masks import IGNORE, encode_mask, read_mask
from artifacts.store import Writer
from stages.contract import Execution
from stages.data.config import VOC_CLASS_NAMES
from stages.data.each_image import for_each_image
from stages.data.labels import read_label_file, read_xml, tags_of_mask
from stages.data.lists import check_disjoint, check_subset, list_digest, named, read_list
from stages.data.splits import draw_labelled, parse_labelled

if TYPE_CHECKING:
    from stages.prepare_data import PrepareDataConfig

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
            f"{source} is no VOC devkit: it has no folder JPEGImages, nor has VOC2012 or VOCdevkit/VOC2012 below it",
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


def text_files(source: Path, sbd: Path | None) -> dict[str, Path]:
    """The lists and labels that decide what the data set holds, as far as they exist, by a name for each."""
    files = {}
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
    train, val = (read_list(devkit.lists / f"{name}.txt") for name in ("train", "val"))
    check_disjoint(train, val, f"{devkit.lists / 'train.txt'}", "val.txt")
    union = set(train)
    if extra is not None:
        union.update(*(read_list(path) for path in extra.lists) if extra.lists else [extra.files])
    trainaug = union - set(val)
    return Lists(tuple(sorted(train)), tuple(sorted(trainaug)), tuple(sorted(val)), len(union & set(val)))


def count_deviations(lists: Lists) -> list[str]:
    """One sentence for every list whose length is not VOC's; empty for the full data set."""
    found = {"train": len(lists.train), "trainaug": len(lists.trainaug), "val": len(lists.val)}
    return [
        f"{name} has {found[name]:,} ids, expected {EXPECTED[name]:,}"
        + (f" ({COUNT_HINTS[found[name]]})" if found[name] in COUNT_HINTS else "")
        for name in EXPECTED
        if found[name] != EXPECTED[name]
    ]


def choose_labelled(config: PrepareDataConfig, lists: Lists) -> list[str]:
    """The ids of split `train`: VOC's train list, a list file, or a seeded draw. Never an id of val."""
    if not config.labelled:
        return list(lists.train)
    wanted = parse_labelled(config.labelled)
    if not isinstance(wanted, Path):
        return draw_labelled(getattr(lists, config.labelled_from), wanted, config.labelled_seed)
    ids = read_list(wanted)
    check_disjoint(ids, lists.val, f"the labelled list {wanted}", "val")
    check_subset(ids, lists.trainaug, f"the labelled list {wanted}", "the training images (trainaug)")
    return sorted(ids)


def check_files(devkit: Devkit, extra: ExtraMasks | None, lists: Lists, labelled: Sequence[str]) -> None:
    """Every listed id has an image, every id of train and val a mask. One DataError tells all that is missing."""
    extra_files = extra.files if extra else {}
    problems = []
    for name, ids in (("trainaug", lists.trainaug), ("val", lists.val)):
        if missing := [image_id for image_id in ids if image_id not in devkit.images]:
            problems.append(
                f"{len(missing)} ids of {name} have no image in {devkit.root / 'JPEGImages'}: {named(missing)}"
            )
    for name, ids in (("train", tuple(labelled)), ("val", lists.val)):
        if missing := [image_id for image_id in ids if image_id not in devkit.masks and image_id not in extra_files]:
            problems.append(f"{len(missing)} ids of {name} have no mask: {named(missing)}")
    if problems:
        raise DataError("\n".join(problems), "add the files, or take the ids from the lists")


# ------------------------------------------------------------------------------------------------- masks


def class_map(kept: Sequence[str]) -> np.ndarray:
    """Look-up table, uint8 (256,): VOC ids to the ids of the kept classes in the order given, other classes to 255."""
    table = np.full(256, IGNORE, np.uint8)
    table[0] = 0
    for new_id, name in enumerate(kept, start=1):
        table[VOC_CLASS_NAMES.index(name)] = new_id
    return table


def read_sbd_mask(path: Path) -> np.ndarray:
    """`GTcls.Segmentation` of an SBD .mat file, uint8 (H, W), VOC class ids. DataError for a damaged or other file."""
    import scipy.io

    try:
        content = scipy.io.loadmat(path)
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


@dataclass(frozen=True)
class Plan:
    """Where everything is and what becomes of the masks; sent to each process once."""

    images: Mapping[str, Path]  # id -> image
    masks: Mapping[str, Path]  # id -> original mask, for the images that have one
    done: Mapping[str, Path]  # id -> mask that an earlier, killed run has written
    table: np.ndarray  # `class_map`
    verify_images: bool


@dataclass(frozen=True)
class Prepared:
    """What is known of an image, and the bytes of its mask unless it was written before."""

    size: tuple[int, int]  # (H, W)
    image_bytes: int
    classes: tuple[int, ...] | None  # foreground ids in the mask, after the class map; None without a mask
    mask: bytes | None


def prepare_image(plan: Plan, image_id: str) -> Prepared:
    """Check one image against its mask and map the mask's classes."""
    image = plan.images[image_id]
    width, height = image_size(image, plan.verify_images)
    image_bytes = image.stat().st_size
    if image_id not in plan.masks:
        return Prepared((height, width), image_bytes, None, None)
    if image_id in plan.done:
        mask, data = read_mask(plan.done[image_id], size=(width, height)), None
    else:
        mask = plan.table[_read_original(plan.masks[image_id], (width, height))]
        data = encode_mask(mask)
    return Prepared((height, width), image_bytes, tags_of_mask(mask), data)


def _read_original(path: Path, size: tuple[int, int]) -> np.ndarray:
    if path.suffix != ".mat":
        return read_mask(path, num_classes=len(VOC_CLASS_NAMES), size=size)
    mask = read_sbd_mask(path)
    if mask.shape != size[::-1]:
        raise DataError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} (width x height), expected {size[0]}x{size[1]}, "
            "the size of its image",
            "use the images that SBD was drawn on",
        )
    return mask


def image_size(path: Path, verify: bool) -> tuple[int, int]:
    """(W, H) from the header; with `verify` every pixel is decoded too."""
    if verify:
        height, width, _ = read_image(path).shape
        return width, height
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read: {error}", "copy or extract the file again") from None


# ------------------------------------------------------------------------------------------------- labels


def choose_tag_source(config: PrepareDataConfig, devkit: Devkit, plan: Plan, ids: Sequence[str]) -> tuple[str, Path]:
    """("xml" | "file" | "masks", label file). `auto` takes the first of them that covers the training images."""
    label_file = Path(config.tag_file).expanduser() if config.tag_file else devkit.root / LABEL_FILE
    if config.tag_source != "auto":
        return config.tag_source, label_file
    if config.tag_file:
        return "file", label_file
    if all(image_id in devkit.annotations for image_id in ids):
        return "xml", label_file
    if label_file.is_file():
        return "file", label_file
    if all(image_id in plan.masks for image_id in ids):
        return "masks", label_file
    raise DataError(
        f"{devkit.root} has image-level labels for only some training images: its Annotations are not complete, "
        f"it has no {LABEL_FILE}, and some images have no mask",
        "add them, or name a source (tag_source: xml, file or masks)",
    )


def read_tags(
    source: str, label_file: Path, devkit: Devkit, ids: Sequence[str], kept: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Foreground ids of the kept classes by image id, for the images that the source (xml or file) covers."""
    if source == "file":
        names = read_label_file(label_file, VOC_CLASS_NAMES)
    else:
        folder = devkit.root / "Annotations"
        covered = [image_id for image_id in ids if image_id in devkit.annotations]
        names = {image_id: read_xml(folder / devkit.annotations[image_id], VOC_CLASS_NAMES) for image_id in covered}
    number = {name: class_id for class_id, name in enumerate(kept, start=1)}
    return {
        image_id: tuple(sorted(number[name] for name in names[image_id] if name in number))
        for image_id in ids
        if image_id in names
    }


def check_tags(source: str, tagged: Container[str], training: Sequence[str]) -> None:
    """Every training image has labels, if only an empty list of them; DataError names those without."""
    if untagged := [image_id for image_id in training if image_id not in tagged]:
        raise DataError(
            f"{len(untagged)} training images have no labels in the source {source!r}: {named(untagged)}",
            "complete them, or take the labels from another source (tag_source)",
        )


# ------------------------------------------------------------------------------------------------- all together


def write_voc(config: PrepareDataConfig, writer: Writer, execution: Execution) -> dict[str, Any]:
    """Write the data set; returns the summary for people."""
    note = execution.progress.note
    devkit = find_devkit(Path(config.source).expanduser())
    extra = find_extra_masks(devkit, Path(config.sbd).expanduser() if config.sbd else None)
    lists = assemble_lists(devkit, extra)
    deviations = count_deviations(lists)
    if deviations and not config.allow_subset:
        raise DataError(
            f"{devkit.root} is not the full VOC 2012 with SBD: {'; '.join(deviations)}",
            "complete it (--sbd names SBD's folder), or accept these counts with --allow-subset",
        )
    for sentence in deviations:
        note(f"subset: {sentence}")

    labelled = choose_labelled(config, lists)
    rest = sorted(set(lists.trainaug) - set(labelled)) if config.weak else []
    training, everything = sorted([*labelled, *rest]), sorted([*labelled, *rest, *lists.val])
    check_files(devkit, extra, lists, labelled)
    kept = list(config.classes) or list(VOC_CLASS_NAMES[1:])
    plan = make_plan(config, devkit, extra, writer, everything, kept)
    tag_source, label_file = choose_tag_source(config, devkit, plan, training)
    if config.tag_source == "auto":
        note(f"image-level labels from {tag_source} (found by itself; tag_source: {tag_source} pins it)")

    tags = {} if tag_source == "masks" else read_tags(tag_source, label_file, devkit, everything, kept)
    check_tags(tag_source, plan.masks if tag_source == "masks" else tags, training)

    prepared = _prepare_images(plan, writer, execution, everything, config.copy_images)
    if tag_source == "masks":
        tags = {image_id: one.classes for image_id, one in prepared.items() if one.classes is not None}
    without_kept = {image_id for image_id in training if not tags[image_id]}
    if config.without_kept_class == "drop":
        labelled, rest = ([i for i in ids if i not in without_kept] for ids in (labelled, rest))
    splits = {"train": labelled, "weak": rest, "val": list(lists.val)}
    ids = sorted(image_id for part in splits.values() for image_id in part)
    masked = [image_id for image_id in ids if image_id in plan.masks]
    _forget_dropped(writer, plan, prepared.keys() - set(ids))

    facts = {
        "expected": EXPECTED,
        "found": {name: len(getattr(lists, name)) for name in EXPECTED},
        "deviations": deviations,
        "val_ids_removed_from_training_lists": lists.val_ids_removed,
        "labelled": _labelled_facts(labelled, lists, devkit, tags, kept),
        "masks": _count_masks(ids, plan, devkit),
        "images_without_kept_class": len(without_kept),
        "masks_with_classes_that_are_no_label": sum(
            1 for i in masked if i in tags and not set(prepared[i].classes or ()) <= set(tags[i])
        ),
        "images_sha256_of_id_and_bytes": _digest_images(ids, prepared),
    }
    write_dataset(
        writer,
        name="voc-aug",
        class_names=["background", *kept],
        splits=splits,
        tags={image_id: tags[image_id] for image_id in ids if image_id in tags},
        tag_source=tag_source,
        mask_ids=masked,
        image_pattern="images/{id}.jpg" if config.copy_images else "{id}.jpg",
        image_files=_exceptions(devkit, ids, "images/" if config.copy_images else ""),
        image_root=None if config.copy_images else devkit.root / "JPEGImages",
        sizes={image_id: prepared[image_id].size for image_id in ids},
        facts=facts,
    )
    return {
        "classes": ["background", *kept],
        "images": {split: len(part) for split, part in splits.items()},
        "tag_source": tag_source,
        "tags_per_image": round(sum(len(tags[i]) for i in [*labelled, *rest]) / max(1, len(labelled) + len(rest)), 3),
        **facts,
    }


def make_plan(
    config: PrepareDataConfig,
    devkit: Devkit,
    extra: ExtraMasks | None,
    writer: Writer,
    ids: Sequence[str],
    kept: Sequence[str],
) -> Plan:
    """Which file serves each image: VOC's mask where there is one, else the extra mask, else none."""
    masks: dict[str, Path] = {}
    for image_id in ids:
        if image_id in devkit.masks:
            masks[image_id] = devkit.root / "SegmentationClass" / devkit.masks[image_id]
        elif extra is not None and image_id in extra.files:
            masks[image_id] = extra.folder / extra.files[image_id]
    return Plan(
        images={image_id: devkit.root / "JPEGImages" / devkit.images[image_id] for image_id in ids},
        masks=masks,
        done={i: writer.path / _mask_item(i) for i in masks if writer.has(_mask_item(i))},
        table=class_map(kept),
        verify_images=config.verify_images,
    )


def _prepare_images(
    plan: Plan, writer: Writer, execution: Execution, ids: Sequence[str], copy_images: bool
) -> dict[str, Prepared]:
    """Check every image, write the masks (and images) that are missing. By id, in the order of `ids`."""
    prepared: dict[str, Prepared] = {}
    writer.expect(len(ids))
    with execution.progress.track(len(ids), "preparing") as task:
        for image_id, one in for_each_image(prepare_image, plan, ids, execution.workers):
            if copy_images and not writer.has(_image_item(plan, image_id)):
                writer.write_bytes(_image_item(plan, image_id), plan.images[image_id].read_bytes())
            if one.mask is not None:
                writer.write_bytes(_mask_item(image_id), one.mask)
            prepared[image_id] = replace(one, mask=None)
            writer.advance()
            task.advance()
    return {image_id: prepared[image_id] for image_id in ids}


def _mask_item(image_id: str) -> str:
    return f"masks/{image_id}.png"


def _image_item(plan: Plan, image_id: str) -> str:
    return f"images/{plan.images[image_id].name}"


def _forget_dropped(writer: Writer, plan: Plan, ids: Iterable[str]) -> None:
    """Images that left the data set leave no files in it."""
    for image_id in ids:
        for item in (_mask_item(image_id), _image_item(plan, image_id)):
            (writer.path / item).unlink(missing_ok=True)


def _exceptions(devkit: Devkit, ids: Sequence[str], folder: str) -> dict[str, str]:
    """The image files that are no <id>.jpg."""
    return {i: folder + devkit.images[i] for i in ids if devkit.images[i] != f"{i}.jpg"}


def _labelled_facts(
    labelled: Sequence[str],
    lists: Lists,
    devkit: Devkit,
    tags: Mapping[str, tuple[int, ...]],
    kept: Sequence[str],
) -> dict[str, Any]:
    """What makes figures on this labelled list comparable with others: its name, and how many masks are VOC's own."""
    official = sum(image_id in set(lists.train) for image_id in labelled)
    present = {class_id for image_id in labelled for class_id in tags[image_id]}
    return {
        "count": len(labelled),
        "sha256_of_sorted_ids": list_digest(labelled),
        "in_voc_train": official,
        "official_mask_share": round(sum(i in devkit.masks for i in labelled) / max(1, len(labelled)), 4),
        "classes_without_an_image": [name for number, name in enumerate(kept, start=1) if number not in present],
    }


def _count_masks(ids: Sequence[str], plan: Plan, devkit: Devkit) -> dict[str, int]:
    official = sum(image_id in devkit.masks for image_id in ids)
    some = sum(image_id in plan.masks for image_id in ids)
    return {"voc": official, "sbd": some - official, "none": len(ids) - some}


def _digest_images(ids: Sequence[str], prepared: Mapping[str, Prepared]) -> str:
    """Notices exchanged pictures without reading them: SHA-256 of the lines "id bytes"."""
    lines = "\n".join(f"{image_id} {prepared[image_id].image_bytes}" for image_id in ids)
    return hashlib.sha256(lines.encode()).hexdigest()
