"""The masks of a folder of images, drawn from annotation files: LabelMe, COCO, CVAT, Supervisely, Label Studio, YOLO.

All mistakes of all files are reported at once; shapes without area are left out, counted and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.dataset import check_class_names
from artifacts.errors import DataError
from artifacts.masks import IGNORE
from artifacts.text import SHOWN, amount, named
from stages.data.annotations.class_table import ClassTable
from stages.data.annotations.coco_outlines import CocoMasks, read_coco
from stages.data.annotations.cvat import read_cvat
from stages.data.annotations.drawing import (
    BACKGROUND_LABELS,
    IGNORE_LABELS,
    Drawing,
    Size,
    check_labels,
    draw,
    refuse_problems,
)
from stages.data.annotations.label_studio import read_label_studio, uploaded_name
from stages.data.annotations.labelme import read_labelme
from stages.data.annotations.supervisely import is_undrawn, read_classes, read_supervisely
from stages.data.annotations.yolo import read_yolo, read_yolo_names
from stages.data.images import ImageFolder
from stages.data.lists.id_lists import meant_ids

MOST_NAMED = 50  # images that one message lists
Reader = Callable[[Path, Size | None], Drawing]


@dataclass(frozen=True)
class Given:
    """What there is: the annotations' place, their files by image (empty where one file is about all), the images,
    the id of the image of a name (None without one), the class table, and where remarks go.
    """

    place: Path
    files: Mapping[str, Path]
    folder: ImageFolder
    id_of: Callable[[str], str | None]
    table: ClassTable | None
    note: Callable[[str], None]

    def size(self, name: str) -> Size | None:
        """Size of an image; None if it is missing or cannot be read, which is reported when it is read."""
        image_id = self.id_of(name)
        try:
            return None if image_id is None else self.folder.size(image_id)
        except DataError:
            return None


@dataclass(frozen=True)
class Outlines:
    """Draws masks from annotation files."""

    class_ids: Mapping[str, int]

    def __call__(self, drawing: Drawing | AnnotationFile) -> np.ndarray:
        # without background, pixels outside all shapes are unknown
        ground = self.class_ids.get("background", IGNORE)
        return draw(drawing if isinstance(drawing, Drawing) else drawing.read(), self.class_ids, ground=ground)


@dataclass(frozen=True)
class AnnotationFile:
    """A file for one image, read again when it is drawn: the drawings of all would need gigabytes."""

    path: Path
    size: Size | None
    reader: Reader

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Drawing:
        return self.reader(self.path, self.size)


@dataclass(frozen=True)
class Annotated:
    """The masks by image, how to draw them, and their classes."""

    entries: Mapping[str, Any]
    read: Outlines
    class_names: tuple[str, ...]


def read_annotations(kind: str, given: Given) -> Annotated:
    """The masks from files of this kind. One DataError lists all mistakes."""
    for_all = {"coco": _coco, "cvat": _cvat, "label-studio": _label_studio}
    return for_all[kind](given) if kind in for_all else _one_each(kind, given)


def _one_each(kind: str, given: Given) -> Annotated:
    order: Sequence[str] = ()
    reader: Reader = read_labelme
    if kind == "supervisely":
        order, reader = read_classes(given.place), read_supervisely
    elif kind == "yolo":
        order = read_yolo_names(given.place)
        reader = partial(read_yolo, names=order)
    entries = {image_id: AnnotationFile(path, given.size(image_id), reader) for image_id, path in given.files.items()}
    drawings, errors = {}, []
    for image_id, entry in entries.items():
        try:
            drawings[image_id] = _of_its_size(entry.read(), entry.size)
        except DataError as error:
            errors.append(error)
    _raise_all(errors)
    if kind == "supervisely":
        undrawn = [i for i, drawing in drawings.items() if _is_empty(drawing) and is_undrawn(drawing.path)]
        for image_id in undrawn:
            del drawings[image_id]
        _tell_undrawn(given, undrawn, drawings)
    names, ids = _checked(given, order, drawings)
    if kind == "yolo":
        _tell_empty(given, [image_id for image_id, drawing in drawings.items() if _is_empty(drawing)], ids)
    return Annotated({image_id: entries[image_id] for image_id in drawings}, Outlines(ids), names)


def _cvat(given: Given) -> Annotated:
    file = read_cvat(given.place, given.size)
    drawings = {given.id_of(stem) or stem: drawing for stem, drawing in file.drawings.items()}
    _check_all(given, drawings)
    _tell_undrawn(given, file.undrawn, drawings)
    names, ids = _checked(given, file.labels, drawings)
    return Annotated(drawings, Outlines(ids), names)


def _label_studio(given: Given) -> Annotated:
    stored: dict[str, list[str]] = {}
    for image_id in given.folder.ids:
        stored.setdefault(uploaded_name(image_id), []).append(image_id)

    def find(names: Sequence[str]) -> str:
        found = [image_id for name in names if (image_id := given.id_of(name))]
        alike = [ids[0] for name in names if len(ids := stored.get(name, [])) == 1]
        return [*found, *alike, names[-1]][0]

    file = read_label_studio(given.place, find, given.size)
    _check_images(given, [*file.drawings, *file.undrawn])
    _check_all(given, file.drawings)
    for sentence in file.notes:
        given.note(sentence)
    _tell_undrawn(given, file.undrawn, file.drawings, "submit those that show nothing without a region")
    names, ids = _checked(given, (), file.drawings)
    _tell_empty(given, [i for i, drawing in file.drawings.items() if _is_empty(drawing)], ids)
    return Annotated(file.drawings, Outlines(ids), names)


def _check_all(given: Given, drawings: Mapping[str, Drawing]) -> None:
    """DataError for drawings without an image, and for those of images of a different size."""
    _check_images(given, drawings)
    errors = []
    for image_id, drawing in drawings.items():
        try:
            _of_its_size(drawing, given.size(image_id))
        except DataError as error:
            errors.append(error)
    _raise_all(errors)


def _checked(
    given: Given, order: Sequence[str], drawings: Mapping[str, Drawing]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """(class names, their ids); DataError for unknown labels and wrong shapes, and a remark on what is left out."""
    names = _class_names(given, order, drawings.values())
    ids = _class_ids(given.table, names)
    check_labels(drawings.values(), ids)
    say_what_is_left_out(given.place, drawings.values(), given.note)
    return names, ids


def _coco(given: Given) -> Annotated:
    file = read_coco(given.place)
    refuse_problems(str(file.path), file.problems)
    file = replace(file, image_ids={given.id_of(stem) or stem: key for stem, key in file.image_ids.items()})
    _check_images(given, file.image_ids)
    order = [file.categories[key] for key in sorted(file.categories, key=lambda key: (isinstance(key, str), key))]
    sizes = {image_id: size for image_id in file.image_ids if (size := given.size(image_id)) is not None}
    drawings, errors = [], []
    for image_id in file.image_ids:
        try:
            drawing = _of_its_size(file.annotations_of(image_id, sizes.get(image_id)), sizes.get(image_id))
            drawings.append(replace(drawing, regions=drawing.regions[:1]))  # all of them would need gigabytes
        except DataError as error:
            errors.append(error)
    _raise_all(errors)
    names = _class_names(given, order, (), {name for image_id in file.image_ids for name in file.labels_of(image_id)})
    ids = _class_ids(given.table, names)
    if unknown := sorted(set(order) - {*ids, *BACKGROUND_LABELS, *IGNORE_LABELS}):
        raise DataError(
            f"{file.path} has categories that are not a class: {', '.join(unknown)}", "add them to the class table"
        )
    say_what_is_left_out(given.place, drawings, given.note)
    _tell_empty(given, [image_id for image_id in file.image_ids if not file.labels_of(image_id)], ids)
    return Annotated(CocoMasks((file,), sizes), Outlines(ids), names)


# ------------------------------------------------------------------------------------------------- what is said


def _of_its_size(drawing: Drawing, own: Size | None) -> Drawing:
    """The drawing; DataError if it is for an image of a different size (EXIF orientation is handled later)."""
    if own is not None and drawing.size not in (own, own[::-1]):
        (height, width), (rows, columns) = drawing.size, own
        raise DataError(
            f"{drawing} is for an image of {width}x{height}, the image has {columns}x{rows} (width x height)",
            "give the images that were annotated, in their size",
        )
    return drawing


def _check_images(given: Given, image_ids: Iterable[str]) -> None:
    if lonely := sorted(set(image_ids) - set(given.folder.ids)):
        more = f" and {len(lonely) - MOST_NAMED} more" if len(lonely) > MOST_NAMED else ""
        raise DataError(
            f"not in {given.folder.path}: {amount(len(lonely), 'image')} of {given.place}: "
            f"{', '.join(lonely[:MOST_NAMED])}{more}",
            meant_ids(lonely, given.folder.ids) + "add the images, or remove them from the file",
        )


def _raise_all(errors: Sequence[DataError]) -> None:
    """One error for all files that cannot be used."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "".join(f"\n  {error.message}" for error in errors[:SHOWN])
        more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise DataError(f"{len(errors)} annotation files or images cannot be used:{shown}{more}", errors[0].hint)


def say_what_is_left_out(place: Path, drawings: Iterable[Drawing], note: Callable[[str], None]) -> None:
    """DataError for wrong shapes, and where no shape covers anything; a remark on the shapes that cover nothing."""
    problems, passed, covered = [], [], False
    for drawing in drawings:
        name = drawing.path.name if place.is_dir() else drawing.image
        problems += [f"{name}: {problem}" for problem in drawing.problems]
        passed += [f"{name}: {sentence}" for sentence in drawing.not_drawn]
        covered = covered or bool(drawing.regions)
    refuse_problems(str(place), problems)
    if passed and not covered:
        raise DataError(
            f"no shape of {place} covers anything: {len(passed)} are left out, e.g. {passed[0]}",
            "draw outlines or masks: points, lines and boxes of two corners are neither",
        )
    if passed:
        note(f"left out: {amount(len(passed), 'shape')} without area, e.g. {passed[0]}")


def _tell_undrawn(
    given: Given,
    image_ids: Sequence[str],
    drawn: Collection[str],
    cure: str = "tag those that show nothing with background",
) -> None:
    if not drawn:
        raise DataError(f"no image of {given.place} has a shape", f"annotate some, or {cure}")
    if image_ids:
        given.note(
            f"without a shape, which counts as not annotated: {amount(len(image_ids), 'image')} of {given.place}: "
            f"{named(sorted(image_ids))} ({cure})"
        )


def _tell_empty(given: Given, image_ids: Sequence[str], ids: Mapping[str, int]) -> None:
    """A remark on images that the annotations have, without a shape."""
    if image_ids:
        ground = "background" if "background" in ids else "unknown (255)"
        given.note(
            f"without an annotation, so all {ground}: {amount(len(image_ids), 'image')} of {given.place}: "
            f"{named(sorted(image_ids))} (images that are not in it have no mask)"
        )


def _is_empty(drawing: Drawing) -> bool:
    return not (drawing.regions or drawing.not_drawn or drawing.problems)


# ------------------------------------------------------------------------------------------------- classes


def _class_names(
    given: Given, order: Sequence[str], drawings: Iterable[Drawing], used: Iterable[str] = ()
) -> tuple[str, ...]:
    """The class names: those of the table, else those that the file declares, in its order, and labels that occur."""
    if given.table is not None:
        return given.table.names
    labels = {*used, *(region.label for drawing in drawings for region in drawing.regions)}
    found = dict.fromkeys([*order, *sorted(labels)])
    names = ("background", *(label for label in found if label not in (*BACKGROUND_LABELS, *IGNORE_LABELS)))
    check_class_names(names, str(given.place))
    given.note(f"classes: {', '.join(names)} (pinned by a text file with a name a line: --classes FILE)")
    if unused := [name for name in names[1:] if name not in labels]:
        given.note(f"{amount(len(unused), 'class has', 'classes have')} no shape: {named(unused)}")
    return names


def _class_ids(table: ClassTable | None, names: Sequence[str]) -> dict[str, int]:
    return table.ids if table is not None else {name: class_id for class_id, name in enumerate(names)}
