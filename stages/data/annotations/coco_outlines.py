"""COCO's JSON files, one for many images: instances, or stuff as polygons or run lengths.

file = read_coco(Path("instances_val2017.json"))
mask = draw(file.annotations_of("000000000139"), {name: ... for name in file.categories.values()})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from artifacts.errors import DataError
from artifacts.text import named
from stages.data.annotations.drawing import Drawing, Region, Runs, Size
from stages.data.annotations.reading import NoAreaError, RegionError, polygon, read_json, size_of, wrong_json
from stages.data.images import SUFFIXES

Key = int | str  # an id of a COCO file
_MOST_DIGITS = 7  # characters of one run length as text: 35 bits, more than an image has pixels


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file, indexed by image.

    Attributes: path, image_ids (stem of the file name -> id in the file), categories (id -> name), problems (a sentence
    for every annotation of an unknown image or category).
    """

    path: Path
    image_ids: Mapping[str, Key]
    categories: Mapping[Key, str]
    problems: tuple[str, ...]
    _images: Mapping[Key, Mapping[str, Any]] = field(repr=False)
    _annotations: Mapping[Key, Sequence[Mapping[str, Any]]] = field(repr=False)

    def file_name(self, stem: str) -> str:
        """The image's file name in the JSON file, which may contain a sub-folder."""
        return str(self._image(stem)["file_name"])

    def annotations_of(self, stem: str, size: Size | None = None) -> Drawing:
        """The drawing of an image: larger objects first, so that small ones stay visible; labels are category names.

        Objects of equal area keep their order. The area is that of the outline: some programs write that of the box
        into the file. size: of the image, (H, W), for files without it. DataError for an unknown image.
        """
        image = self._image(stem)
        size = size_of(image, "height", "width", f"{self.path} ({image['file_name']})") or size
        if size is None:
            raise DataError(f"{self.path} has no height and width of {stem}", "add them to its entry in images")
        regions: list[Region] = []
        not_drawn: list[str] = []
        problems: list[str] = []
        for annotation in self._annotations.get(self.image_ids[stem], ()):
            label, where = self.categories[annotation["category_id"]], f"annotation {annotation.get('id')}"
            outlines, runs = _shape(annotation, where, size, not_drawn, problems)
            if outlines or runs:
                regions.append(Region(label, where, outlines, runs, annotation.get("iscrowd") in (1, "1")))
        regions.sort(key=lambda region: -region.area())
        return Drawing(self.path, str(image["file_name"]), size, tuple(regions), tuple(not_drawn), tuple(problems))

    def labels_of(self, stem: str) -> frozenset[str]:
        """Names of the categories that have an annotation in the image, crowd regions too."""
        self._image(stem)
        annotations = self._annotations.get(self.image_ids[stem], ())
        return frozenset(self.categories[annotation["category_id"]] for annotation in annotations)

    def _image(self, stem: str) -> Mapping[str, Any]:
        if stem not in self.image_ids:
            raise DataError(f"{self.path} has no image {stem!r}", "remove it from the list, or add it to the file")
        return self._images[self.image_ids[stem]]


@dataclass(frozen=True)
class CocoMasks(Mapping[str, Drawing]):
    """The drawings of all images of some COCO files by id, made on demand: together they need gigabytes.

    sizes: of the images, (H, W), for files without them.
    """

    files: tuple[CocoFile, ...]
    sizes: Mapping[str, Size] = field(default_factory=dict)

    def __getitem__(self, image_id: str) -> Drawing:
        for file in self.files:
            if image_id in file.image_ids:
                return replace(file.annotations_of(image_id, self.sizes.get(image_id)), problems=())
        raise KeyError(image_id)

    def __contains__(self, image_id: object) -> bool:
        return any(image_id in file.image_ids for file in self.files)

    def __iter__(self) -> Iterator[str]:
        return (image_id for file in self.files for image_id in file.image_ids)

    def __len__(self) -> int:
        return sum(len(file.image_ids) for file in self.files)


def read_coco(path: Path) -> CocoFile:
    """Read the annotations of a COCO JSON file (instances, or stuff as polygons or runs).

    One pass indexes them by image, nothing is copied: 860,000 annotations (as many as COCO's train2017 has) took
    15 s and 1.6 GB.
    Raises DataError for a file of another kind, entries without id or name, and two images of one stem.
    Annotations of unknown images or categories are in `CocoFile.problems`, wrong outlines in `Drawing.problems`.
    """
    content = read_json(path, _pack)
    parts = {
        name: content.get(name) if isinstance(content, dict) else None
        for name in ("images", "categories", "annotations")
    }
    if missing := [name for name, part in parts.items() if not isinstance(part, list)]:
        raise wrong_json(path, content, "COCO file with masks", f"it has no list {named(missing)}")
    images = _by_id(path, "images", parts["images"], "file_name")
    categories = {
        key: str(entry["name"]).strip()
        for key, entry in _by_id(path, "categories", parts["categories"], "name").items()
    }
    annotations, problems = _index_annotations(path, content, images, categories)
    return CocoFile(path, _stems(path, images), categories, tuple(problems), images, annotations)


def _key(value: Any) -> Key | None:
    """An id, which programs write as 0, "0" or 0.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 and str(int(value)) == value:
        return int(value)
    return value


def _by_id(path: Path, name: str, entries: Any, needed: str) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        value = entry.get(needed) if isinstance(entry, dict) else None
        if key is None or isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            shown = repr(entry)[:80]
            raise DataError(f"{path}: entry {number} of {name} lacks id or {needed}: {shown}", "complete the entry")
        if found.setdefault(key, entry) != entry:
            raise DataError(f"{path}: id {key} occurs twice in {name}", "give each entry its own id")
    return found


def _stems(path: Path, images: Mapping[Key, Mapping[str, Any]]) -> dict[str, Key]:
    stems: dict[str, Key] = {}
    for image_id, entry in images.items():
        stem = stem_of(str(entry["file_name"]))
        if stem in stems:
            both = f"{images[stems[stem]]['file_name']} and {entry['file_name']}"
            raise DataError(f"{path} has two images named {stem!r}: {both}", "rename one of them, or split the file")
        stems[stem] = image_id
    return stems


def stem_of(file_name: str) -> str:
    """The id of an image with this file name, which may contain folders."""
    name = PurePosixPath(file_name.replace("\\", "/"))
    return name.stem if name.suffix.lower() in SUFFIXES else name.name


def _index_annotations(
    path: Path, content: Mapping[str, Any], images: Mapping[Key, Any], categories: Mapping[Key, str]
) -> tuple[dict[Key, list[dict[str, Any]]], list[str]]:
    """Annotations by image id, and a sentence for each of an unknown image or category."""
    index: dict[Key, list[dict[str, Any]]] = {}
    problems = []
    known: Mapping[str, Mapping[Any, Any]] = {"image": images, "category": categories}
    there = {"image": [str(key) for key in images], "category": [f"{key} {name}" for key, name in categories.items()]}
    for number, annotation in enumerate(content["annotations"], start=1):
        if not isinstance(annotation, dict) or "segments_info" in annotation:
            lacking = f"entry {number} of annotations is not an object with an outline: {repr(annotation)[:80]}"
            raise wrong_json(path, content, "COCO file with masks", lacking)
        image_id, category_id = _key(annotation.get("image_id")), _key(annotation.get("category_id"))
        unknown = [name for name, key in (("image", image_id), ("category", category_id)) if key not in known[name]]
        for name in unknown[:1]:
            given, ids = repr(annotation.get(f"{name}_id"))[:40], named(there[name]) or "none"
            problems.append(f"annotation {annotation.get('id')}: its {name} {given} is not in the file (there: {ids})")
        if not unknown and image_id is not None:
            index.setdefault(image_id, []).append(annotation)
            annotation["category_id"] = category_id
    return index, problems


# ------------------------------------------------------------------------------------------------- outlines


def _shape(
    annotation: Mapping[str, Any], where: str, size: Size, not_drawn: list[str], problems: list[str]
) -> tuple[tuple[np.ndarray, ...], tuple[Runs, ...]]:
    """(outlines, runs) of an annotation; shapes left out are added to `not_drawn`, mistakes to `problems`."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict | np.ndarray):  # one polygon without the list around it
        segmentation = [segmentation]
    if not isinstance(segmentation, list) or all(_is_empty(part) for part in segmentation):
        box = ", only a box (bbox)" if annotation.get("bbox") else ""
        problems.append(f"{where}: it has no outline{box}; its segmentation is {_shown(annotation)}")
        return (), ()
    outlines, runs = [], []
    for number, part in enumerate(segmentation, start=1):
        at = f"{where}, part {number}" if len(segmentation) > 1 else where
        try:
            if isinstance(part, dict):
                runs.append(_runs(part, size))
            else:
                outlines.append(polygon(part, size))
        except NoAreaError as reason:
            not_drawn.append(f"{at}: {reason}")
        except RegionError as wrong:
            problems.append(f"{at}: {wrong}")
    return tuple(outlines), tuple(runs)


def _is_empty(part: Any) -> bool:
    return part is None or (part.size == 0 if isinstance(part, np.ndarray) else part in ({}, [], ""))


def _shown(annotation: Mapping[str, Any]) -> str:
    return repr(annotation["segmentation"])[:40] if "segmentation" in annotation else "missing"


def _runs(segmentation: Mapping[str, Any], size: Size) -> Runs:
    counts, given = segmentation.get("counts"), segmentation.get("size")
    if given != list(size):
        raise RegionError(
            f"its run lengths are for the size {repr(given)[:40]}, the image has {list(size)} (height, width)"
        )
    try:
        lengths = run_lengths(counts) if isinstance(counts, str) else np.asarray(counts)
        with np.errstate(invalid="ignore"):  # of NaN, which is not a whole number either
            whole = lengths.astype(np.int64, casting="unsafe")
        good = lengths.ndim == 1 and lengths.dtype.kind in "iuf" and bool((whole == lengths).all())
    except RegionError:
        raise
    except (TypeError, ValueError, OverflowError):  # ragged, of text, or larger than 64 bits
        good = False
    if not good or not len(whole):
        raise RegionError("its run lengths are not whole numbers")
    if (whole < 0).any():
        raise RegionError(f"its run lengths hold {whole.min()}, which is negative")
    total = whole.sum(dtype=np.float64)
    if total != size[0] * size[1]:
        raise RegionError(f"its run lengths cover {total:.0f} pixels, the image has {size[0] * size[1]}")
    return Runs(0, 0, size, whole)


def mask_of_runs(segmentation: Mapping[str, Any], size: Size) -> np.ndarray:
    """bool (H, W): the pixels of run lengths, COCO's {"size", "counts"}. RegionError where they are damaged."""
    return _runs(segmentation, size).pixels()


def run_lengths(text: str) -> np.ndarray:
    """The run lengths in COCO's text form (maskApi.c, rleFrString), int64 (n,).

    A character minus 48 holds five bits, lowest first, and 32 if more follow; the number is signed, and from the fourth
    on it is the difference to the length two places before.
    """
    if not text:
        return np.zeros(0, np.int64)
    digits = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64) - 48
    if (wrong := np.flatnonzero((digits < 0) | (digits >= 64))).size:
        raise RegionError(f"its run lengths hold the character {text[wrong[0]]!r}")
    ends = np.flatnonzero(digits < 32)  # the last character of each number
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise RegionError("its run lengths end in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MOST_DIGITS:
        raise RegionError(f"one of its run lengths has more than {_MOST_DIGITS} characters")
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    values -= (digits[ends] & 16) << (5 * place[ends] + 1)  # the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """A parsed object with coordinates and run lengths as arrays: as lists, train2017 took 1.2 GB more."""
    for key in ("segmentation", "counts"):
        values = entry.get(key)
        if isinstance(values, list) and values:
            try:
                if isinstance(values[0], list):
                    entry[key] = [np.array(part, float) for part in values]
                elif not isinstance(values[0], dict):
                    entry[key] = np.array(values)
            except (TypeError, ValueError, OverflowError, RecursionError):
                continue  # its annotation is named when it is used
    return entry
