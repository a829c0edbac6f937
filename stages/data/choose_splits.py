"""Which images of a data set are trained on, held out, scored or only predicted, by the same rules for every reader."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import ConfigError, DataError
from artifacts.text import amount, named
from stages.contract import Execution
from stages.data.config import FolderConfig
from stages.data.listing import FilesBelow
from stages.data.lists.id_lists import Names, check_disjoint, check_subset, read_list
from stages.data.lists.scenes import find_scenes, read_scenes
from stages.data.lists.splits import check_unlabelled, draw_balanced, draw_labelled, parse_amount, set_aside
from stages.data.readers.raw import RawDataset

SIMILAR = "similar"  # of the setting scenes of a folder

if TYPE_CHECKING:
    from stages.data.preparation_config import PrepareDataConfig


def check_counts(raw: RawDataset, allow_subset: bool, note: Any) -> None:
    """DataError if counts differ from the published ones, unless a subset is allowed; then they are printed."""
    if raw.deviations and not allow_subset:
        raise DataError(
            f"{raw.root} is not all of {raw.name}: {'; '.join(raw.deviations)}",
            "complete it, or accept these counts with --allow-subset",
        )
    for sentence in raw.deviations:
        note(f"subset: {sentence}")


def choose_val(
    settings: FolderConfig,
    masked: Sequence[str],
    names: Names,
    note: Callable[[str], None],
    some_left: bool = False,
    scene_of: Mapping[str, str] | None = None,
) -> list[str]:
    """The ids of split val: a list, or a seeded draw from the images with masks. Some must be left for training.

    names: of all images, which a list may name. some_left: there are others with image-level labels. scene_of: scenes
    that a draw takes whole or not at all.
    """
    wanted = wanted_val(settings)
    if isinstance(wanted, Path):
        ids = read_list(wanted, names, note)
        check_subset(ids, masked, f"the list {wanted}", "the images with masks")
        count = len(ids)
    elif wanted is None or not masked:
        return []
    else:
        count = math.ceil(wanted * len(masked)) if isinstance(wanted, Fraction) else wanted
    if count >= len(masked) and not (some_left and count == len(masked)):
        raise DataError(
            f"val asks for {count} of the {len(masked)} images with masks: none is left to train on",
            "ask for fewer (--val), for none (--val ''), or draw more masks",
        )
    return sorted(ids) if isinstance(wanted, Path) else draw_labelled(masked, count, settings.val_seed, scene_of)


def scenes_of(settings: FolderConfig, files: FilesBelow, names: Names, execution: Execution) -> Mapping[str, str]:
    """The scene of each image, where the settings ask for scenes."""
    if settings.scenes != SIMILAR:
        return read_scenes(Path(settings.scenes).expanduser(), names) if settings.scenes else {}
    scene_of = find_scenes({i: files.root / files[i] for i in files}, execution.workers)
    several = {scene for scene, count in Counter(scene_of.values()).items() if count > 1}
    together = sum(scene in several for scene in scene_of.values())
    found = f"{together:,} images are near-duplicates or of series, {len(several):,} scenes"
    execution.progress.note(f"scenes: {found if several else 'no near-duplicates and no series among the images'}")
    return scene_of


def wanted_val(settings: FolderConfig) -> int | Fraction | Path | None:
    """What `val` asks for: a number, a fraction, a list file, nothing."""
    if not settings.val.strip():
        return None
    try:
        return parse_amount(settings.val, "val")
    except ConfigError as error:
        raise ConfigError(error.message, "give a number, a fraction (0.2), a list file, or '' for none") from None


def choose_labelled(
    config: PrepareDataConfig, raw: RawDataset, note: Any, tags: Mapping[str, Collection[int]] | None = None
) -> list[str]:
    """The ids of split `train`: the data set's list, a list file, or a seeded draw. Never an id of val."""
    if not config.labelled:
        return list(raw.train)
    wanted = parse_amount(config.labelled)
    if isinstance(wanted, Path):
        ids = read_list(wanted, raw.names, note)
        check_disjoint(ids, raw.val, f"the labelled list {wanted}", "val")
        check_subset(ids, raw.pool, f"the labelled list {wanted}", "the training images")
        return sorted(ids)
    drawn_from = raw.train if config.labelled_from == "train" else [i for i in raw.pool if i in raw.masks]
    if config.labelled_balanced:
        return draw_balanced(drawn_from, wanted, config.labelled_seed, {i: (tags or {}).get(i, ()) for i in drawn_from})
    return draw_labelled(drawn_from, wanted, config.labelled_seed)


def choose_holdout(
    config: PrepareDataConfig,
    labelled: Sequence[str],
    names: Names,
    note: Any,
    scene_of: Mapping[str, str] | None = None,
) -> tuple[list[str], list[str]]:
    """The labelled ids as (train, holdout). names: all ids, of which a list must name labelled ones."""
    if not config.holdout:
        return list(labelled), []
    return set_aside(labelled, parse_amount(config.holdout, "holdout"), config.holdout_seed, names, note, scene_of)


def choose_others(config: PrepareDataConfig, raw: RawDataset, labelled: Sequence[str], note: Any) -> list[str]:
    """The other training images: all, or those of the list in the config; the number of the rest is printed."""
    if config.others == "none":
        return []
    if not config.unlabelled:
        return sorted(set(raw.pool) - set(labelled))
    path = Path(config.unlabelled).expanduser()
    ids = read_list(path, raw.names, note)
    check_disjoint(ids, raw.val, f"the unlabelled list {path}", "val")
    check_unlabelled(ids, labelled, raw.pool, f"the unlabelled list {path}")
    if left := len(set(raw.pool) - set(ids) - set(labelled)):
        note(f"left out: {amount(left, 'training image')}, neither labelled nor in {path}")
    return sorted(ids)


def check_files(raw: RawDataset, lists: Mapping[str, Sequence[str]], need_masks: Collection[str]) -> None:
    """One DataError for all listed ids without an image, and all ids of the lists `need_masks` without a mask."""
    problems = []
    for name, ids in lists.items():
        if missing := [image_id for image_id in ids if image_id not in raw.images]:
            some = amount(len(missing), f"id of {name} has", f"ids of {name} have")
            problems.append(f"{some} no image below {raw.root}: {named(missing)}")
        if name in need_masks and (missing := [image_id for image_id in ids if image_id not in raw.masks]):
            some = amount(len(missing), f"id of {name} has", f"ids of {name} have")
            problems.append(f"{some} no mask: {named(missing)}")
    if problems:
        raise DataError("\n".join(problems), "add the files, or remove the ids from the lists")


def scored_scenes(raw: RawDataset, train: Collection[str], scored: Collection[str], note: Any) -> set[str]:
    """The images without masks of the scenes of `scored`: they are predicted, and not trained on."""
    scenes = {raw.scene_of[image_id] for image_id in scored if image_id in raw.scene_of}
    alike = {image_id for image_id, scene in raw.scene_of.items() if scene in scenes} - set(scored)
    if trained := sorted(alike & set(train)):  # val or holdout is a list
        note(f"of a scene of val or holdout: {amount(len(trained), 'image')} of train: {named(trained)}")
    if apart := alike - raw.masks.keys():
        note(f"split test, not trained on: {amount(len(apart), 'image')} without masks, of a scene of val or holdout")
    return apart
