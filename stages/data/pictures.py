"""What can be predicted: the pictures of a data set, or a folder of one's own, read as 8-bit RGB."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from artifacts.dataset import Dataset, check_image_id
from artifacts.errors import ConfigError, DataError
from artifacts.store import Artifact

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ORIENTATION = 0x0112  # EXIF tag; values 5..8 exchange width and height


class Pictures(Protocol):
    """What can be predicted. A `Dataset` is one, and a `PictureFolder`."""

    def size(self, image_id: str, /) -> tuple[int, int]:
        """(H, W) in pixels, without decoding the picture."""

    def image(self, image_id: str, /) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""


class PicturesConfig(Protocol):
    """The part of a stage's config that names a folder of one's own pictures."""

    @property
    def images(self) -> str: ...


class PictureFolder:
    """The pictures directly inside a folder; the id of one is its file name without suffix.

    Attributes: path, ids (sorted).
    """

    def __init__(self, path: Path | str) -> None:
        """DataError: no such folder, no picture in it, or two pictures of one name."""
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(f"{self.path} is no folder", "name a folder with pictures")
        self._files: dict[str, Path] = {}
        for file in sorted(self.path.iterdir()):
            if file.suffix.lower() not in SUFFIXES or file.name.startswith(".") or not file.is_file():
                continue
            image_id = check_image_id(file.stem)
            if image_id in self._files:
                raise DataError(
                    f"{self.path} has two pictures named {image_id!r}: {self._files[image_id].name} and {file.name}",
                    "rename one of them: a result is named after its picture",
                )
            self._files[image_id] = file
        if not self._files:
            raise DataError(f"{self.path} holds no picture ({', '.join(SUFFIXES)})", "name a folder with pictures")
        self.ids = tuple(sorted(self._files))

    def file(self, image_id: str) -> Path:
        return self._files[image_id]

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) as `image` will give it, from the file's header."""
        path = self._files[image_id]
        try:
            with Image.open(path) as picture:
                turned = picture.getexif().get(ORIENTATION, 1) >= 5
                return (picture.width, picture.height) if turned else (picture.height, picture.width)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error

    def image(self, image_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3), see `read_picture`."""
        return read_picture(self._files[image_id])


def read_picture(path: Path | str, turn: bool = True) -> np.ndarray:
    """Any picture as RGB uint8 (H, W, 3).

    Grey and palette pictures become RGB, 16 bits a channel become 8 (the upper ones), transparent parts lie on white,
    and with `turn` the EXIF orientation is applied, so that a result lies on the picture as viewers show it. DataError,
    with the file's name, when it is missing, truncated or no picture.
    """
    path = Path(path)
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            picture = ImageOps.exif_transpose(opened) if turn else opened
            if picture.mode.startswith("I;16"):
                return _grey(np.asarray(picture).astype(np.uint16) >> 8)
            if picture.mode in ("I", "F"):
                values = np.asarray(picture, np.float64)
                if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
                    raise ValueError(f"mode {picture.mode} with values outside 0..65535")
                return _grey(values.astype(np.uint16) >> 8 if values.max() > 255 else values)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA"))
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.is_file():
        return DataError(f"there is no picture {path}", "put it there, or take it from the list")
    cure = "correct its permissions" if isinstance(error, PermissionError) else "open it in a viewer; save it again"
    return DataError(f"picture {path} cannot be read: {reason(path, error)}", cure)


def reason(path: Path, error: Exception) -> str:
    """Why a file that is there cannot be opened as a picture, without Pillow's words for it: an address in memory."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not path.stat().st_size:
        return "it is empty (0 bytes)"
    unknown = isinstance(error, UnidentifiedImageError)
    return "cannot identify it: no picture, or of an unknown format" if unknown else str(error)


def data_unless_images(config: PicturesConfig, given: Collection[str]) -> tuple[str, ...]:
    """`Stage.needs` of the stages that take a data set or a folder of one's own pictures."""
    return () if config.images else ("data",)


def open_pictures(data: Artifact | None, images: str, splits: tuple[str, ...]) -> tuple[Pictures, list[str]]:
    """(pictures, sorted ids): those of the splits of a data set, or of the folder `images` where that is given."""
    if images:
        folder = PictureFolder(images)
        return folder, list(folder.ids)
    if data is None:
        raise ConfigError("no pictures are given", "name a data set (--data NAME) or a folder (--set images=DIR)")
    dataset = Dataset(data)
    ids = sorted({image_id for split in splits for image_id in dataset.ids(split)})
    if not ids:
        raise DataError(f"the splits {', '.join(splits)} of {dataset.name!r} are empty", "name another split")
    return dataset, ids


def pictures_of_splits(data: Artifact | None, splits: tuple[str, ...]) -> tuple[Dataset, list[str]]:
    """(data set, sorted ids of its splits); DataError when there are none."""
    dataset, ids = open_pictures(data, "", splits)
    assert isinstance(dataset, Dataset)
    return dataset, ids
