"""Which images are labelled: a list, a number or a fraction, drawn once and nested.

The order in which images are drawn is that of SHA-256("seed:id"). So for one seed 1/16 is a part of 1/8 and of 1/4,
and an image keeps its rank when others are missing. A balanced draw uses the same ranks, class by class.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import re
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError, DataError
from artifacts.text import named
from stages.data.lists.id_lists import Names, check_subset, list_digest, meant_ids, read_list
from stages.data.lists.published_lists import PUBLISHED
from stages.data.lists.scenes import whole_scenes


def parse_amount(text: str, what: str = "labelled") -> int | Fraction | Path:
    """`183` is a number, `1/8` or `0.125` a fraction, anything else the path of a list file.

    what: the setting, for messages. ConfigError for a number below 1 and a fraction outside (0, 1].
    """
    text = text.strip()
    if re.fullmatch(r"[-+]?\d+", text):
        number = int(text)
        if number < 1:
            raise ConfigError(f"{what} is {text}, expected at least 1 image", "give a number, a fraction or a list")
        return number
    if re.fullmatch(r"[-+]?\d+\s*/\s*\d+|[-+]?\d*\.\d+([eE][-+]?\d+)?|\d+\.\d*", text):
        try:
            fraction = Fraction(text.replace(" ", ""))
        except ZeroDivisionError:
            fraction = Fraction(0)
        if not 0 < fraction <= 1:
            raise ConfigError(f"{what} is {text}, expected a fraction above 0 and up to 1", "for example 1/8")
        return fraction
    return Path(text).expanduser()


def draw_labelled(
    pool: Sequence[str], amount: int | Fraction, seed: int, scene_of: Mapping[str, str] | None = None
) -> list[str]:
    """`amount` ids of the pool, sorted. A fraction is rounded up, as the published lists are (1/8 of 10,582: 1,323).

    scene_of: scenes of which all images of the pool are drawn or none; the draw may then be smaller than `amount`.
    """
    count = _count(pool, amount)
    return sorted(whole_scenes(sorted(pool, key=lambda image_id: _rank(seed, image_id)), count, scene_of or {}))


def draw_balanced(
    pool: Sequence[str], amount: int | Fraction, seed: int, tags: Mapping[str, Iterable[Hashable]]
) -> list[str]:
    """`amount` ids of the pool, sorted, so that the classes get images as evenly as the pool allows.

    tags: id -> the classes in the image. In turn, the class with the fewest images so far gets its next image by
    seeded rank; the image counts for all its classes. Images without classes come last. The order does not depend on
    the amount, so draws of one seed are nested, and every class has an image once there are as many as classes.
    """
    count = _count(pool, amount)
    return sorted(itertools.islice(_balanced_order(pool, seed, tags), count))


def _balanced_order(pool: Sequence[str], seed: int, tags: Mapping[str, Iterable[Hashable]]) -> Iterator[str]:
    ranked = sorted(pool, key=lambda image_id: _rank(seed, image_id))
    classes_of = {image_id: set(tags.get(image_id, ())) for image_id in ranked}
    waiting: dict[Hashable, deque[str]] = {}
    for image_id in ranked:
        for name in classes_of[image_id]:
            waiting.setdefault(name, deque()).append(image_id)
    images = dict.fromkeys(waiting, 0)  # drawn so far, by class
    drawn: set[str] = set()
    # One entry a class. Its number may be out of date, but only too low: then it goes back with the right one.
    behind = [(0, _rank(seed, f"class {name}"), name) for name in waiting]
    heapq.heapify(behind)
    while behind:
        number, tie, name = heapq.heappop(behind)
        if number == images[name]:
            while waiting[name] and waiting[name][0] in drawn:
                waiting[name].popleft()
            if not waiting[name]:
                continue  # all its images are drawn
            image_id = waiting[name].popleft()
            drawn.add(image_id)
            for other in classes_of[image_id]:
                images[other] += 1
            yield image_id
        heapq.heappush(behind, (images[name], tie, name))
    yield from (image_id for image_id in ranked if image_id not in drawn)


def set_aside(
    labelled: Sequence[str],
    wanted: int | Fraction | Path,
    seed: int = 0,
    names: Names | None = None,
    note: Callable[[str], None] = lambda _: None,
    scene_of: Mapping[str, str] | None = None,
) -> tuple[list[str], list[str]]:
    """(what is left to train on, what is held out) of the labelled ids, both sorted.

    wanted: how many, which fraction (rounded up) or a list file, which may name the ids `names`
    (None: the labelled ones). scene_of: see `draw_labelled`. Drawn by ranks different from those of the labelled ids:
    with the same ranks, the held-out images would be the first ones of every smaller draw. Raises ConfigError when
    nothing is left, DataError for listed ids that are not labelled.
    """
    if isinstance(wanted, Path):
        held_out = set(read_list(wanted, names or Names(labelled), note))
        check_subset(held_out, labelled, f"the holdout list {wanted}", "the labelled images")
    else:
        count = math.ceil(wanted * len(labelled)) if isinstance(wanted, Fraction) else wanted
        ranked = sorted(labelled, key=lambda image_id: _rank(seed, f"holdout:{image_id}"))
        held_out = set(whole_scenes(ranked, count, scene_of or {}))
        if count > len(labelled):
            raise ConfigError(f"holdout asks for {count} of {len(labelled)} labelled images", "ask for fewer")
    if len(held_out) == len(labelled):
        raise ConfigError(
            f"holdout takes all {len(labelled)} labelled images: none is left to train on",
            "ask for fewer, or label more",
        )
    return sorted(set(labelled) - held_out), sorted(held_out)


def _count(pool: Sequence[str], amount: int | Fraction) -> int:
    """The number of images to draw; ConfigError for more than there are."""
    count = math.ceil(amount * len(pool)) if isinstance(amount, Fraction) else amount
    if count > len(pool):
        raise ConfigError(
            f"labelled asks for {count} images, the list to draw from has {len(pool)}",
            "ask for fewer, or draw from all training images (labelled_from: all)",
        )
    return count


def _rank(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode()).digest()


def describe_labelled(
    ids: Collection[str], pool: Collection[str], val: Collection[str], official: Collection[str] | None
) -> dict[str, Any]:
    """What makes figures on this labelled list comparable with others, as JSON.

    pool: all training images. val: the images that are scored. official: the images with the data set's finest masks
    (VOC's own, not SBD's), or None where there is one kind: then `official` and `official_share` are None.
    `family` describes the published list with these ids, or is None; `published_as` all its names.
    """
    chosen = set(ids)
    digest = list_digest(chosen)
    published = PUBLISHED.get(digest)
    fine = None if official is None else len(chosen & set(official))
    return {
        "count": len(chosen),
        "share_of_pool": round(len(chosen) / max(1, len(pool)), 4),
        "in_val": len(chosen & set(val)),
        "sha256_of_sorted_ids": digest,
        "official": fine,
        "official_share": None if fine is None else round(fine / max(1, len(chosen)), 4),
        "family": str(published) if published else None,
        "published_as": list(published.names) if published else [],
    }


def check_unlabelled(unlabelled: Iterable[str], labelled: Iterable[str], pool: Iterable[str], what: str) -> None:
    """DataError for ids of the unlabelled list that are labelled, or that are not training images.

    A published list with this mistake: each of CPS's pseudoseg_unlabeled_1-{16,8,4,2} holds one labelled image.
    """
    ids, chosen, known = set(unlabelled), set(labelled), set(pool)
    unknown = sorted(ids - chosen - known)
    wrong = {
        "{} of its ids are labelled: {}": sorted(ids & chosen),
        "{} of its ids are not training images: {}": unknown,
    }
    if problems := [text.format(len(found), named(found)) for text, found in wrong.items() if found]:
        raise DataError(
            f"{what} is not a list of other training images: {'; '.join(problems)}",
            meant_ids(unknown, known) + "correct the list, or leave it out: then all other training images are used",
        )
