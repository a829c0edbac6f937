"""Images in batches of one size, which threads decode while what needs them works on the batch before.

batches = size_batches({image_id: dataset.size(image_id) for image_id in ids}, lambda height, width: 16)
for members, pixels in decoded_ahead(dataset, batches, threads=4):
    ...  # uint8 (B, H, W, 3) of the images `members`
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from artifacts.errors import DataError, SemisegError, about
from stages.data.images import Images

BATCHES = 3  # in memory at a time: the one that is worked on, and what is decoded meanwhile


def size_batches(sizes: Mapping[str, tuple[int, int]], batch_size: Callable[[int, int], int]) -> list[list[str]]:
    """Ids grouped by size (H, W), the largest images first, in batches of batch_size(H, W).

    The largest come first so that what is too much for the memory is known at once.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for image_id in sorted(sizes):
        groups.setdefault(sizes[image_id], []).append(image_id)
    batches = []
    for size in sorted(groups, key=lambda size: (-size[0] * size[1], size)):
        step = batch_size(*size)
        batches += [groups[size][start : start + step] for start in range(0, len(groups[size]), step)]
    return batches


def decoded_ahead(
    images: Images,
    batches: Iterable[list[str]],
    threads: int,
    change: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Generator[tuple[list[str], np.ndarray], None, None]:
    """(ids, uint8 (B, H, W, 3)) of every batch, in the order of the batches.

    change: done to each image in the threads, so that those of a batch have one size. DataError: an image has not the
    size that its header or list says. The first error ends the work, and names its image.
    """
    waiting: deque[tuple[list[str], list[Future[np.ndarray]]]] = deque()
    pool = ThreadPoolExecutor(max(threads, 1))

    def next_batch() -> tuple[list[str], np.ndarray]:
        members, decoding = waiting.popleft()
        return members, np.stack([image.result() for image in decoding])

    try:
        for members in batches:
            waiting.append((members, [pool.submit(_decoded, images, image_id, change) for image_id in members]))
            if len(waiting) == BATCHES:
                yield next_batch()
        while waiting:
            yield next_batch()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(images: Images, image_id: str, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    try:
        image = images.image(image_id)
        if image.shape[:2] != tuple(images.size(image_id)):
            raise DataError(
                f"image {image_id} has {image.shape[0]} rows and {image.shape[1]} columns, "
                f"its header or list says {images.size(image_id)}",
                "copy the image again, or prepare the data again",
            )
        return change(image)
    except SemisegError as error:
        raise about(image_id, error) from None
    except Exception as error:
        error.add_note(f"while the image {image_id} was decoded")
        raise
