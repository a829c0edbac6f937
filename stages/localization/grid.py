"""Bilinear resampling of maps to the pixels of their images, and of images to fewer pixels.

For the position of the cells see `stages.engine.interpolation`. Resampling is separable: rows @ map @ columns.T.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.cells import cells, on_copy
from stages.engine.interpolation import interpolation_matrix

MATRICES = 32  # kept for recent sizes: one has up to 1 MB for 500 pixels, and a data set may have hundreds of sizes


@lru_cache(maxsize=MATRICES)
def to_every_pixel(length: int, stride: float, count: int) -> NDArray[np.float32]:
    """The matrix (length, count) that resamples a map of `count` cells to every pixel."""
    return interpolation_matrix(np.arange(length), stride, count)


def resize_maps(
    maps: NDArray, size: tuple[int, int], stride: int, seen: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Maps (..., h, w) of a stride to float32 (..., H, W), size = (H, W) of the image in pixels.

    `seen`: if given, the size of a reduced copy of the image, to which they are resampled instead.
    """
    if seen is None or seen == size:
        rows = to_every_pixel(size[0], stride, maps.shape[-2])
        columns = to_every_pixel(size[1], stride, maps.shape[-1])
    else:
        places = [on_copy(np.arange(small), small, whole) for small, whole in zip(seen, size, strict=True)]
        rows = interpolation_matrix(places[0], stride, maps.shape[-2])
        columns = interpolation_matrix(places[1], stride, maps.shape[-1])
    grown: NDArray[np.float32] = rows @ maps.astype(np.float32) @ columns.T
    return grown


@lru_cache(maxsize=MATRICES)
def from_every_pixel(length: int, stride: int) -> NDArray[np.float32]:
    """The matrix (cells, length) of means over the pixels nearest to each cell."""
    count = cells(length, stride)
    nearest = np.minimum((np.arange(length) + stride // 2) // stride, count - 1)
    inside = nearest == np.arange(count)[:, None]
    matrix: NDArray[np.float32] = (inside / inside.sum(1, keepdims=True)).astype(np.float32)
    return matrix


def cell_means(maps: NDArray, stride: int) -> NDArray[np.float32]:
    """Maps of pixels (..., H, W) to cells of a stride: float32 (..., h, w), means over the pixels nearest to each."""
    rows, columns = (from_every_pixel(length, stride) for length in maps.shape[-2:])
    means: NDArray[np.float32] = rows @ maps.astype(np.float32) @ columns.T
    return means


def reduced(image: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) of at most `max_pixels` pixels: itself, or a reduced copy."""
    size = reduced_size(image.shape[:2], max_pixels)
    if size == image.shape[:2]:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) resized to a square, whatever its proportions."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def reduced_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """(H, W), or a size of the same proportions with at most `max_pixels` pixels."""
    factor = (max_pixels / (size[0] * size[1])) ** 0.5
    if factor >= 1:
        return size
    shorter, longer = max(int(min(size) * factor), 1), int(max(size) * factor)
    longer = min(longer, max_pixels // shorter)
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


def resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) resized to (H, W): bilinear, with means if it becomes smaller; a map of that size is unchanged."""
    if values.shape == tuple(size):
        return values
    return np.array(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))
