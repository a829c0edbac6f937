"""The result of a data set's reader: the files of each image, as they are on disk, before anything is converted.

A reader is a module with two functions. `find(settings, execution) -> RawDataset` lists folders and reads lists and
nothing else; `text_files(settings)` gives the files and folders whose content counts, by names of the reader's own.
Everything after that is the same for every data set (stages/data/preparation.py): which images are labelled, which
classes are kept, reading and checking every file in a pool, writing the artifact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from artifacts.dataset import check_class_names
from artifacts.errors import DataError
from stages.data.lists.id_lists import Names

P = ParamSpec("P")
R = TypeVar("R")

TagSource = Callable[[Sequence[str]], Mapping[str, frozenset[str]]]
"""Names of the classes of the images asked for, by id; images it does not cover are left out."""


@dataclass(frozen=True)
class RawDataset:
    """A data set on disk. Every list is sorted and free of ids that a reader must not use (of val, in training).

    Attributes:
        name: of the data set, for people.
        class_names: of the values that `read_mask` gives, except 255. The first is "background", or else there is none
            and every class may be an image-level label.
        root: folder that `images` are relative to.
        images: id -> file below `root`.
        masks: id -> whatever `read_mask` takes for this image: a path, or a small record with a readable `str`.
        read_mask: an entry of `masks` -> uint8 (H, W), class ids and 255; a module's own function, or a picklable
            object. Raises DataError. That masks have the size of their images is checked later.
        remarks: an entry of `masks` -> sentences on a mask that can be read, but perhaps not as it was meant; None: no
            remarks. Must be picklable.
        train: the images whose masks are used unless `labelled` selects different ones.
        pool: all training images with a mask or image-level labels: those labelled, and the rest. Holds `train`.
        val: scored, with masks. test: predicted only. unlabelled: training images without any label.
        official: ids whose masks are the data set's finest (VOC's own, not SBD's), where there are several kinds.
        tag_sources: sources of image-level labels in addition to masks, the preferred one first.
        tags_of_masks_too: an image that a tag source does not cover has the labels of its mask, where it has one.
        expected: list -> the count that the published data set has; found: the counts here.
        deviations: a sentence for each difference; refused unless a subset is allowed.
        photographs: images of any kind: those that cannot be used as they are (16 bits, transparent parts, turned by
            EXIF) become RGB copies in the artifact. exif: "apply", "ignore", or "auto": what gives the mask's size.
        white: the value that is white in images of more than 8 bits; 0: see `stages.data.pixels.read`.
        scene_of: id -> scene, for draws that must not split a scene; images that it lacks are scenes of their own.
        left_out: sentences on files of its folders that are not used.
        facts: further facts for the artifact to record.
    """

    name: str
    class_names: tuple[str, ...]
    root: Path
    images: Mapping[str, str]
    masks: Mapping[str, Any]
    read_mask: Callable[[Any], np.ndarray]
    train: tuple[str, ...]
    pool: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    official: frozenset[str] | None = None
    tag_sources: Mapping[str, TagSource] = field(default_factory=dict)
    tags_of_masks_too: bool = False
    expected: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    photographs: bool = False
    exif: str = "ignore"
    remarks: Callable[[Any], Sequence[str]] | None = None
    white: float = 0
    scene_of: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_class_names(self.class_names, self.name)

    @property
    def has_background(self) -> bool:
        return self.class_names[0] == "background"

    @property
    def names(self) -> Names:
        """The ids that a list may name."""
        lists = (self.train, self.pool, self.val, self.test, self.unlabelled)
        return Names(itertools.chain(self.images, self.masks, *lists))

    def image(self, image_id: str) -> Path:
        return self.root / self.images[image_id]


def says_what_cannot_be_read(function: Callable[P, R]) -> Callable[P, R]:
    """For `find` and `text_files` of a reader: a folder that cannot be listed raises a DataError with its name."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            if error.filename is None:
                raise
            raise unreadable(error.filename, error) from None

    return told


def unreadable(what: str, error: OSError) -> DataError:
    """The DataError for a file or folder that is not there or cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{what} is not there", "put the file there, or take it out of what names it")
    cure = "correct its permissions" if isinstance(error, PermissionError) else "check the disk"
    return DataError(f"{what} cannot be read: {error.strerror or error}", cure)
