"""The images to predict: those of a data set, or those of a folder, read as 8-bit RGB."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from artifacts.dataset import Dataset, check_image_id
from artifacts.errors import ConfigError, DataError
from artifacts.image_files import SUFFIXES
from artifacts.store import Artifact
from stages.data.listing import list_files
from stages.data.pixels import read, read_header, remarks_in_words, unreadable
from stages.parallel.processes import map_in_processes


class Pictures(Protocol):
    """Images to predict: a `Dataset` or a `PictureFolder`."""

    def size(self, image_id: str, /) -> tuple[int, int]:
        """(H, W) in pixels, without decoding the picture."""

    def image(self, image_id: str, /) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""


class PicturesConfig(Protocol):
    """The part of a stage's config that names a folder of pictures."""

    @property
    def images(self) -> str: ...


class PictureFolder:
    """The pictures directly inside a folder; the id of one is its file name without suffix.

    Attributes: path, ids (sorted), left_out (sentences on the other files), white (see `stages.data.pixels.read`).
    """

    def __init__(self, path: Path | str, used: Iterable[Path] = (), white: float = 0) -> None:
        """DataError: no such folder, no picture in it, or two pictures of one name. used: see `list_files`."""
        self.path, self.white = Path(path).expanduser(), white
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder", "name a folder with pictures")
        listing = list_files(self.path, SUFFIXES, used=used)
        self._files, self.left_out = listing.files, listing.left_out
        if not self._files:
            found = "".join(f"\n  {sentence}" for sentence in self.left_out)
            raise DataError(
                f"{self.path} holds no picture ({', '.join(SUFFIXES)}){found}", "name a folder with pictures"
            )
        self.ids = tuple(sorted(map(check_image_id, self._files)))

    def file(self, image_id: str) -> Path:
        return self._files[image_id]

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) as `image` returns it, from the file's header."""
        path = self._files[image_id]
        try:
            return read_header(path).shown
        except Exception as error:  # Pillow's parsers raise anything on damaged files
            raise unreadable(path, error) from error

    def image(self, image_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3), turned as viewers show it, see `stages.data.pixels.read`."""
        return read(self._files[image_id], white=self.white).pixels


def notes_on(pictures: Pictures, workers: int) -> list[str]:
    """Sentences on a folder of pictures: which files are left out, and how unusual ones are read."""
    if not isinstance(pictures, PictureFolder):
        return []
    odd = [image_id for image_id in pictures.ids if _is_odd(pictures.file(image_id))]
    found = dict(map_in_processes(_remarks, pictures, odd, workers))
    by_name = {pictures.file(image_id).name: remarks for image_id, remarks in found.items()}
    return [*pictures.left_out, *remarks_in_words(by_name, "white")]


def _is_odd(path: Path) -> bool:
    """Whether there may be a remark on a picture, by its header."""
    try:
        header = read_header(path, whole=False)
    except Exception:  # said when it is read
        return False
    return header.deep or header.transparent or bool(header.remarks)


def _remarks(pictures: PictureFolder, image_id: str) -> dict[str, str]:
    try:
        return dict(read(pictures.file(image_id), white=pictures.white).remarks)
    except DataError:  # said when it is read
        return {}


def unless_images(config: PicturesConfig, given: Collection[str]) -> bool:
    """`Input.needed` of the data set, for stages that take one or a folder of pictures."""
    return not config.images


def open_pictures(
    data: Artifact | None, images: str, splits: tuple[str, ...], white: float = 0
) -> tuple[Pictures, list[str]]:
    """(pictures, sorted ids): those of the splits of a data set, or of the folder `images` if it is given."""
    if images:
        folder = PictureFolder(images, white=white)
        return folder, list(folder.ids)
    if data is None:
        raise ConfigError("no pictures are given", "name a data set (--data NAME) or a folder (--set images=DIR)")
    return pictures_of_splits(data, splits)


def pictures_of_splits(data: Artifact, splits: tuple[str, ...]) -> tuple[Dataset, list[str]]:
    """(data set, sorted ids of its splits); DataError when there are none."""
    dataset = Dataset(data)
    ids = sorted({image_id for split in splits for image_id in dataset.ids(split)})
    if not ids:
        raise DataError(f"the splits {', '.join(splits)} of {dataset.name!r} are empty", "name another split")
    return dataset, ids
