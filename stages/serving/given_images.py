"""Images as a program holds them: numpy arrays, Pillow images and paths, as 8-bit RGB."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artifacts.errors import DataError
from artifacts.image_files import orientation, turned
from stages.data.pixels import on_white, read, read_header, unreadable

Given = np.ndarray | Image.Image | str | os.PathLike[str]


class GivenImages:
    """What a program gives, as `Images`; arrays and Pillow images are checked at once, files when they are read.

    Attributes:
        ids: "image", or "images[0]", "images[1]", ...: the names of the images in messages.
        read: id -> RGB uint8 (H, W, 3) of the images that were asked for.
        remarks: id -> how it was read, where that is unusual (see `stages.data.pixels.Reading`).
    """

    def __init__(self, given: Mapping[str, Given], white: float = 0) -> None:
        """given: by id. white: see `stages.data.pixels.read`. DataError names what is no image."""
        self.ids, self.white = list(given), white
        self.remarks: dict[str, Mapping[str, str]] = {}
        self.read: dict[str, np.ndarray] = {}
        self._given: dict[str, np.ndarray | Path] = {}
        for image_id, image in given.items():
            self._given[image_id] = self._opened(image_id, image)

    def _opened(self, image_id: str, image: Given) -> np.ndarray | Path:
        if isinstance(image, np.ndarray):
            return _checked(image_id, image)
        if isinstance(image, Image.Image):
            return self._of_pillow(image_id, image)
        if isinstance(image, str | os.PathLike):
            return Path(image).expanduser()
        cure = "a torch tensor (3, H, W): tensor.permute(1, 2, 0).cpu().numpy()"
        raise DataError(
            f"{image_id} is a {type(image).__module__}.{type(image).__name__}, expected a numpy array, a Pillow image "
            "or the path of a file",
            "OpenCV gives None for a file that it cannot read: give the path" if image is None else cure,
        )

    def _of_pillow(self, image_id: str, image: Image.Image) -> np.ndarray:
        if image.mode.startswith("I") or image.mode == "F":
            raise DataError(
                f"{image_id} is a Pillow image of mode {image.mode}, which does not say what is white",
                "give the path of its file, or an 8-bit image",
            )
        try:
            image = turned(image, orientation(image))
        except Exception as error:  # Pillow decodes a file that was opened only now, and raises anything
            raise DataError(f"{image_id} cannot be read: {error}", "open it in a viewer; save it again") from error
        if not image.has_transparency_data:
            return np.array(image.convert("RGB"))
        remarks: dict[str, str] = {}
        self.remarks[image_id] = remarks
        return on_white(image, remarks)

    def size(self, image_id: str) -> tuple[int, int]:
        """(H, W) as `image` returns it; of a file, from its header."""
        image = self._given[image_id]
        if isinstance(image, np.ndarray):
            return image.shape[0], image.shape[1]
        try:
            return read_header(image).shown
        except Exception as error:  # Pillow's parsers raise anything on damaged files
            raise unreadable(image, error) from error

    def image(self, image_id: str) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""
        image = self._given[image_id]
        if isinstance(image, Path):
            reading = read(image, white=self.white)
            image, self.remarks[image_id] = reading.pixels, reading.remarks
        self.read[image_id] = image
        return image


def by_id(images: Any) -> dict[str, Given]:
    """Images, or one, under the ids that `GivenImages` describes; an array of four dimensions is a list of images."""
    several = images.ndim == 4 if isinstance(images, np.ndarray) else isinstance(images, Iterable)
    if isinstance(images, str) or not several:
        return {"image": images}
    return {f"images[{number}]": image for number, image in enumerate(images)}


def _checked(image_id: str, image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    raise DataError(
        f"{image_id} is {image.dtype} {image.shape}, expected uint8 (height, width, 3): RGB, 0..255",
        _cure(image),
    )


def _cure(image: np.ndarray) -> str:
    """How the most likely mistake of an array is mended."""
    if not image.size:
        return "it has no pixel"
    if image.dtype.kind == "f":
        return "numbers of 0..1: (255 * image).round().astype(np.uint8)"
    if image.dtype != np.uint8:
        return "16 bits: (image >> 8).astype(np.uint8)"
    if image.ndim == 2:
        return "a grey image: np.stack([image] * 3, axis=-1)"
    if image.ndim == 3 and image.shape[0] == 3:
        return "channels first: image.transpose(1, 2, 0)"
    if image.ndim == 3 and image.shape[2] == 4:
        return "with alpha: image[..., :3]"
    return "Pillow reads most files: Image.open(file)"
