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


class Images(Protocol):
    """Images to predict: a `Dataset` or a `ImageFolder`."""

    def size(self, image_id: str, /) -> tuple[int, int]:
        """(H, W) in pixels, without decoding the image."""

    def image(self, image_id: str, /) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""


class ImagesConfig(Protocol):
    """The part of a stage's config that names a folder of images."""

    @property
    def images(self) -> str: ...


class ImageFolder:
    """The images directly inside a folder; the id of one is its file name without suffix.

    Attributes: path, files, ids (sorted), left_out (sentences on the other files), white (see
    `stages.data.pixels.read`).
    """

    def __init__(self, path: Path | str, used: Iterable[Path] = (), white: float = 0) -> None:
        """DataError: no such folder, no image in it, or two images of one name. used: see `list_files`."""
        self.path, self.white = Path(path).expanduser(), white
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder", "name a folder with images")
        listing = list_files(self.path, SUFFIXES, used=used)
        self.files, self.left_out = listing.files, listing.left_out
        if not self.files:
            found = "".join(f"\n  {sentence}" for sentence in self.left_out)
            raise DataError(
                f"{self.path} holds no image ({', '.join(SUFFIXES)}){found}", "name a folder with images directly in it"
            )
        self.ids = tuple(map(check_image_id, self.files))

    def file(self, image_id: str) -> Path:
        return self.files[image_id]

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) as `image` returns it, from the file's header."""
        path = self.files[image_id]
        try:
            return read_header(path).shown
        except Exception as error:  # Pillow's parsers raise anything on damaged files
            raise unreadable(path, error) from error

    def image(self, image_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3), turned as viewers show it, see `stages.data.pixels.read`."""
        return read(self.files[image_id], white=self.white).pixels


def notes_on(images: Images, workers: int) -> list[str]:
    """Sentences on a folder of images: which files are left out, and how unusual ones are read."""
    if not isinstance(images, ImageFolder):
        return []
    odd = [image_id for image_id in images.ids if _is_odd(images.file(image_id))]
    found = dict(map_in_processes(_remarks, images, odd, workers))
    by_name = {images.file(image_id).name: remarks for image_id, remarks in found.items()}
    return [*images.left_out, *remarks_in_words(by_name, "white")]


def _is_odd(path: Path) -> bool:
    """Whether there may be a remark on an image, by its header."""
    try:
        header = read_header(path, whole=False)
    except Exception:  # said when it is read
        return False
    return header.deep or header.transparent or bool(header.remarks)


def _remarks(images: ImageFolder, image_id: str) -> dict[str, str]:
    try:
        return dict(read(images.file(image_id), white=images.white).remarks)
    except DataError:  # said when it is read
        return {}


def unless_images(config: ImagesConfig, given: Collection[str]) -> bool:
    """`Input.needed` of the data set, for stages that take one or a folder of images."""
    return not config.images


def open_images(
    data: Artifact | None, images: str, splits: tuple[str, ...], white: float = 0
) -> tuple[Images, list[str]]:
    """(images, sorted ids): those of the splits of a data set, or of the folder `images` if it is given."""
    if images:
        folder = ImageFolder(images, white=white)
        return folder, list(folder.ids)
    if data is None:
        raise ConfigError("no images are given", "name a data set (--data NAME) or a folder (--set images=DIR)")
    return images_of_splits(data, splits)


def images_of_splits(data: Artifact, splits: tuple[str, ...]) -> tuple[Dataset, list[str]]:
    """(data set, sorted ids of its splits); DataError when there are none."""
    dataset = Dataset(data)
    return dataset, ids_of(dataset, splits)


def ids_of(dataset: Dataset, splits: Collection[str]) -> list[str]:
    """Sorted ids of the images of splits; DataError when there are none."""
    ids = sorted({image_id for split in splits for image_id in dataset.ids(split)})
    if not ids:
        raise DataError(f"the splits {', '.join(splits)} of {dataset.name!r} are empty", "name another split")
    return ids


def require_labels(dataset: Dataset, splits: Collection[str]) -> None:
    """DataError unless an image of the splits has an image-level label."""
    if not any(map(dataset.tags, ids_of(dataset, splits))):
        raise DataError(
            f"no image of the splits {', '.join(splits)} has an image-level label",
            "prepare the data with labels (--set tag_source=...)",
        )
