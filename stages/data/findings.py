"""Findings on a data set: their kinds, how they are gathered, and those that show only when images are compared.

checking.py makes them, one image after the other; `semiseg check-data` shows them in the order of KINDS.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.dataset import SCORED, TRAINING, first_label
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.text import named
from stages.data.pixels import REMARKS

# Kinds of findings, in the order in which they are shown, and their headings.
KINDS = {
    "layout": "layout of the folders",
    "counts": "other counts than the published ones",
    "settings": "settings",
    "lists": "lists",
    "missing-image": "missing images",
    "missing-mask": "missing masks",
    "image": "images that cannot be used",
    "mask": "masks that cannot be used",
    "labels": "image-level labels",
    "leak": "leaks: the same image is trained on and scored",
    "exchanged": "exchanged images",
    "same-image": "images that occur several times",
    "case": "ids that differ only in case, or in how accents are written",
    "left-out": "files that are not used",
    **{f"read-{kind}": f"images: {words}" for kind, words in REMARKS.items()},
    "suffix": "images whose content is not what their name says",
    "cmyk": "CMYK images",
    "turned": "images turned by EXIF, whose mask fits either way",
    "blank-mask": "masks that show nothing",
    "mask-colours": "masks whose colours may not be meant so",
    "class-without-label": "masks with classes that are no label of their image",
    "label-without-class": "labels whose class the mask does not show",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: what it is and how to mend it; `file` and `image_id` where it is about one."""

    kind: str  # a key of KINDS
    what: str
    hint: str = ""
    file: str = ""
    image_id: str = ""
    is_problem: bool = True


@dataclass(frozen=True)
class Report:
    """All findings on a data set, in the order of KINDS and of the ids, and how much was read."""

    name: str
    findings: tuple[Finding, ...]
    images: int
    masks: int
    seconds: float

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_problem)

    @property
    def remarks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.is_problem)


@dataclass(frozen=True)
class Looked:
    """What one image told, seen by itself."""

    findings: tuple[Finding, ...]
    file: str = ""
    file_bytes: int = 0
    digest: str = ""  # SHA-256 of the image's bytes; empty where there are none
    values: frozenset[int] | None = None  # in the mask; None without one that can be used


@contextlib.contextmanager
def gather(findings: list[Finding], kind: str, file: Path | str = "", image_id: str = "") -> Iterator[None]:
    """An error of the block becomes a finding, and the block ends."""
    try:
        yield
    except (DataError, ConfigError, ArtifactError) as error:
        # Pillow names the buffer it was given, by its address in memory.
        what = re.sub(
            r"cannot identify image file <[^>]*>",
            "cannot identify it: no image, or of an unknown format",
            error.message,
        )
        findings.append(Finding(kind, what, error.hint or "", str(file), image_id))
    except OSError as error:  # a mask that may not be read
        findings.append(Finding(kind, f"{file} cannot be read: {error.strerror or error}", "", str(file), image_id))


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by kind and id; what was found for many images in the same words is there once."""
    once = dict.fromkeys(findings)
    order = {kind: number for number, kind in enumerate(KINDS)}
    return tuple(sorted(once, key=lambda finding: (order[finding.kind], finding.image_id, finding.what)))


# ---------------------------------------------------------------------------------------- images compared


def of_all(
    looked: Mapping[str, Looked],
    splits: Mapping[str, Sequence[str]],
    tags: Mapping[str, Collection[int]],
    class_names: Sequence[str],
    kept: Collection[int],
) -> Iterator[Finding]:
    """The findings on single images, and what shows only when they are held against each other or their labels."""
    yield from (finding for one in looked.values() for finding in one.findings)
    yield from _same_images(looked, splits)
    yield from _same_names(looked)
    first = first_label(class_names)
    for image_id, one in looked.items():
        if one.values is not None and image_id in tags:
            shown = {class_id for class_id in one.values if class_id in kept and class_id >= first}
            yield from _disagreements(image_id, shown, set(tags[image_id]) & set(kept), class_names)


def _disagreements(image_id: str, shown: set[int], labels: set[int], class_names: Sequence[str]) -> Iterator[Finding]:
    words = {
        "class-without-label": ("the mask of {} shows {}, which is not among its labels", shown - labels),
        "label-without-class": ("{} has the label {}, which its mask does not show", labels - shown),
    }
    for kind, (text, classes) in words.items():
        if classes:
            names = ", ".join(class_names[class_id] for class_id in sorted(classes))
            hint = "look at the image, and correct the one that is wrong"
            yield Finding(kind, text.format(image_id, names), hint, image_id=image_id, is_problem=False)


def _same_images(looked: Mapping[str, Looked], splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Images with the same bytes. Trained on and scored: a leak; else a remark."""
    split_of = {image_id: split for split, ids in splits.items() for image_id in ids}
    groups: dict[str, list[str]] = {}
    for image_id in sorted(looked):
        if looked[image_id].digest:
            groups.setdefault(looked[image_id].digest, []).append(image_id)
    for same in groups.values():
        scored = [image_id for image_id in same if split_of[image_id] in SCORED]
        trained = [image_id for image_id in same if split_of[image_id] in TRAINING]
        first = [*trained[:1], *scored[:1]] if trained and scored else []  # of a leak, one of each is named
        where = named([f"{looked[i].file} ({split_of[i]})" for i in dict.fromkeys([*first, *same])])
        if first:
            what = f"the same image, byte by byte, is trained on and scored: {where}"
            hint = "remove it from one of them: a score on images that were trained on says nothing"
            yield Finding("leak", what, hint, looked[trained[0]].file, trained[0])
        elif len(same) > 1:
            what = f"the same image, byte by byte, occurs {len(same)} times: {where}"
            yield Finding("same-image", what, "", looked[same[0]].file, same[0], is_problem=False)


def _same_names(ids: Iterable[str]) -> Iterator[Finding]:
    """Ids that are one on file systems that ignore case (macOS, Windows) or that spell accents their own way."""
    groups: dict[str, list[str]] = {}
    for image_id in ids:
        groups.setdefault(unicodedata.normalize("NFC", image_id).casefold(), []).append(image_id)
    for same in groups.values():
        if len(same) > 1:
            what = f"{', '.join(sorted(same))}: their files overwrite each other on macOS and Windows"
            yield Finding("case", what, "rename one of them", image_id=sorted(same)[0], is_problem=False)
