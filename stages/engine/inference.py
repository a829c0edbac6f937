"""Whole-image inference: images in, class probabilities at the size of the image out.

Images of equal size are batched, with their mirrored copies in the same batch. Nothing is padded, so the result of an
image does not depend on the rest of its batch. While the network computes, threads decode the next images.

    for ids, probabilities in predict_probabilities(network, dataset, dataset.ids("val"), InferenceConfig(), device):
        masks = probabilities.argmax(1)  # of (B, C, H, W) on `device`
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.cells import on_copy
from artifacts.confidence import index_of_doubt
from artifacts.errors import DataError
from artifacts.masks import IGNORE
from stages.data.decoding import decoded_ahead, size_batches
from stages.data.images import Images
from stages.engine.config import InferenceConfig
from stages.engine.device import autocast_dtype, release_freed_memory
from stages.engine.to_host import Transfer
from stages.networks import normalise, upsample
from stages.networks.blocks import antialiased

WINDOW = 1024  # side of the windows in which a view of too many pixels is predicted
STRIP_PIXELS = 2_100_000  # an image of more pixels goes through per-pixel steps in strips of rows
KEPT_BATCHES = 16  # of a CPU, until freed memory is released: of many sizes, little of it fits what comes later
BATCH_PIXELS = {"cuda": 4_000_000, "cpu": 400_000}  # of all views of one scale together: bounds the memory


def batches_of(
    images: Images, ids: Sequence[str], protocol: InferenceConfig, device: torch.device, batch_size: int | None = None
) -> list[list[str]]:
    """The ids in batches of one image size, the largest first; see `predict_probabilities`."""
    budget = BATCH_PIXELS.get(device.type, BATCH_PIXELS["cpu"])
    views = max(*protocol.scales, 1.0) ** 2 * (1 + protocol.flip)  # pixels of the largest views, per pixel of the image

    def fitting(height: int, width: int) -> int:
        return batch_size or max(1, int(budget / (height * width * views)))

    return size_batches({image_id: images.size(image_id) for image_id in ids}, fitting)


def predict_probabilities(
    network: nn.Module,
    images: Images,
    ids: Sequence[str],
    protocol: InferenceConfig,
    device: torch.device,
    batch_size: int | None = None,
    workers: int = 2,
) -> Iterator[tuple[list[str], Tensor]]:
    """Class probabilities of whole images: yields (ids, float32 (B, C, H, W) on `device`), the largest first.

    `network` is on `device` and maps normalised images (B, 3, H, W) to logits (B, C, ceil(H / s), ceil(W / s)) with
    s = `network.stride`. The logits of every view are brought to the size of the image (cell i of a view lies on its
    pixel s * i, as in training) and merged there, by `protocol.merge`.
    `batch_size` images of equal size go together (None: as many as fit a pixel budget); neither it nor `workers`, the
    decoding threads, changes a result beyond rounding. The network is in eval mode while this runs.
    """
    batches = batches_of(images, ids, protocol, device, batch_size)
    return predict_batches(network, images, batches, protocol, device, workers)


def predict_batches(
    network: nn.Module,
    images: Images,
    batches: Iterable[list[str]],
    protocol: InferenceConfig,
    device: torch.device,
    workers: int = 2,
) -> Iterator[tuple[list[str], Tensor]]:
    """As `predict_probabilities`, of given batches.

    A GPU has only begun with what is yielded. DataError for numbers that are not finite: on a GPU, before the batch
    after them is yielded, or at the end.
    """
    unchecked: deque[tuple[list[str], Transfer]] = deque()
    unknown = 1 if device.type == "cuda" else 0  # batches that may be yielded before they are checked
    with evaluating(network), contextlib.closing(decoded_ahead(images, batches, workers)) as decoded:
        for number, (batch, pixels) in enumerate(decoded):
            inputs = torch.from_numpy(pixels)
            if device.type == "cpu" and number % KEPT_BATCHES == 0:
                release_freed_memory()
            if device.type == "cuda":
                inputs = inputs.pin_memory()
            probabilities = _predict(network, inputs.to(device, non_blocking=True), protocol)
            # the softmax of one number that is not finite is NaN
            unchecked.append((batch, Transfer(wrong=probabilities[:, 0].isnan().any())))
            while len(unchecked) > unknown:
                _check_finite(*unchecked.popleft())
            yield batch, probabilities
            del probabilities  # gigabytes for a large image, which the next one needs
        while unchecked:
            _check_finite(*unchecked.popleft())


def _check_finite(ids: Sequence[str], found: Transfer) -> None:
    if found.arrays()["wrong"]:
        raise DataError(
            f"the network gives numbers that are not finite for {', '.join(ids[:5])}",
            "set precision=fp32 where it is not, or train again with a lower optimizer.lr",
        )


@torch.inference_mode()
def most_probable(probabilities: Tensor, min_confidence: float = 0) -> Tensor:
    """(B, C, H, W) -> classes, uint8 (B, H, W); 255 where the highest probability is below `min_confidence`."""
    parts = []
    for strip in _strips(probabilities):
        highest, classes = strip.max(1)
        parts.append((classes if min_confidence <= 0 else classes.masked_fill(highest < min_confidence, IGNORE)).byte())
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def confidence_indices(probabilities: Tensor) -> Tensor:
    """(B, C, H, W) -> the index of the highest probability, uint8 (B, H, W); see `artifacts.confidence`."""
    parts = []
    for strip in _strips(probabilities):
        doubt = strip.scatter(1, strip.argmax(1, keepdim=True), 0.0).sum(1)  # not 1 - highest: no digits near 1
        parts.append(index_of_doubt(doubt.clamp(0, 1)).byte())
    return torch.cat(parts, dim=1)


def _strips(probabilities: Tensor) -> Sequence[Tensor]:
    """Rows of (B, C, H, W) that are few enough for further tensors of their size."""
    return probabilities.split(max(STRIP_PIXELS // probabilities.shape[3], 1), dim=2)


def large_images(images: Images, ids: Sequence[str], protocol: InferenceConfig) -> str | None:
    """A message about images that are predicted in windows because of their size; None without any."""
    scale = max(protocol.scales)
    sizes = (images.size(image_id) for image_id in ids)
    count = sum(h * w * scale**2 > protocol.whole_pixels and max(h, w) * scale > WINDOW for h, w in sizes)
    if not count or protocol.window is not None:
        return None
    return (
        f"{count:,} of {len(ids):,} images have views of more than {protocol.whole_pixels:,} pixels: they are "
        f"predicted in windows of {WINDOW} pixels (whole_pixels; window chooses another side)"
    )


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every part is in its former mode again."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:  # one by one: frozen parts of a network in train mode are in eval mode
            module.training = True


@torch.inference_mode()
def _predict(network: Any, images: Tensor, protocol: InferenceConfig) -> Tensor:
    """uint8 (B, H, W, 3) -> probabilities float32 (B, C, H, W)."""
    device = images.device
    dtype = autocast_dtype(protocol.precision, device)
    size = (images.shape[1], images.shape[2])
    inputs = normalise(images.permute(0, 3, 1, 2))  # NHWC memory: channels_last, in which convolutions are fastest
    merged: Tensor | None = None
    for scale in protocol.scales:
        view = _resize(inputs, scale)
        large = view.shape[2] * view.shape[3] > protocol.whole_pixels
        if protocol.flip and large:  # the copies one after the other, which halves the memory
            scores = _scores(network, view, size, protocol, dtype)
            scores.add_(_scores(network, view.flip(3), size, protocol, dtype).flip(3))
        elif protocol.flip:
            straight, mirrored = _scores(network, torch.cat([view, view.flip(3)]), size, protocol, dtype).chunk(2)
            scores = straight + mirrored.flip(3)
        else:
            scores = _scores(network, view, size, protocol, dtype)
        merged = scores if merged is None else merged.add_(scores)
    assert merged is not None
    if protocol.merge != "logits-sum":
        merged.div_(len(protocol.scales) * (1 + protocol.flip))
    return merged if protocol.merge == "probabilities" else softmax_by_rows(merged)


def _scores(
    network: Any, view: Tensor, size: tuple[int, int], protocol: InferenceConfig, dtype: torch.dtype | None
) -> Tensor:
    """What a view (B, 3, h, w) adds to the merge, at the size of the image: logits or probabilities (B, C, H, W)."""
    seen = (view.shape[2], view.shape[3])
    large = seen[0] * seen[1] > protocol.whole_pixels
    window = protocol.window or (WINDOW if large else max(seen))
    with torch.autocast(view.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        if max(seen) <= window:
            logits, stride = network(view).float(), network.stride
        else:
            logits, stride = _windows(network, view, window), 1
    scores = _to_image(logits, size, seen, stride)
    return softmax_by_rows(scores) if protocol.merge == "probabilities" else scores


def softmax_by_rows(scores: Tensor) -> Tensor:
    """Softmax over dim 1 of (B, C, H, W), in place where a second tensor of that size would be large."""
    if len(strips := _strips(scores)) == 1:
        return _softmax(scores)
    for strip in strips:
        strip.copy_(_softmax(strip))
    return scores


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over dim 1 of (B, C, H, W); of channels that lie together, in half the time of `softmax(1)`."""
    if scores.stride(1) == 1:
        return scores.permute(0, 2, 3, 1).softmax(3).permute(0, 3, 1, 2)
    return scores.softmax(1)


def _windows(network: Any, view: Tensor, window: int) -> Tensor:
    """Log-probabilities (B, C, H, W) of a view (B, 3, H, W): means of the probabilities of all windows over a pixel.

    Every window has its full size; the last ones of a row or column are moved inwards instead of cut.
    """
    height, width = view.shape[2:]
    total = count = None
    for top in window_starts(height, window):
        for left in window_starts(width, window):
            part = view[:, :, top : top + window, left : left + window]
            found = upsample(network(part).float(), (part.shape[2], part.shape[3]), network.stride).softmax(1)
            if total is None or count is None:
                total, count = view.new_zeros(len(view), found.shape[1], height, width), view.new_zeros(height, width)
            total[:, :, top : top + window, left : left + window] += found
            count[top : top + window, left : left + window] += 1
    assert total is not None
    assert count is not None
    return total.div_(count).clamp_(min=1e-30).log_()


def window_starts(side: int, window: int) -> list[int]:
    """Where windows begin along a side: in steps of two thirds of a window, the last one flush with the end."""
    if side <= window:
        return [0]
    return [*range(0, side - window, max(math.ceil(window * 2 / 3), 1)), side - window]


def _resize(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    if scale < 1:
        return antialiased(images, size)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _to_image(logits: Tensor, size: tuple[int, int], view: tuple[int, int], stride: int) -> Tensor:
    """Logits (B, C, h, w) of an image that was resized to `view` -> (B, C, H, W), in one bilinear step.

    Pixel y of the image lies at (y + 1/2) * view / size - 1/2 of the resized one; divided by `stride`, this is the
    coordinate among the cells.
    """
    if view == size:
        return upsample(logits, size, stride)
    rows, columns = (
        _cells(side, seen, cells, stride, logits.device)
        for side, seen, cells in zip(size, view, logits.shape[2:], strict=True)
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2) as (x, y)
    return F.grid_sample(
        logits, grid.expand(len(logits), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=True
    )


def _cells(side: int, seen: int, cells: int, stride: int, device: torch.device) -> Tensor:
    """The position of each of `side` pixels among the cells, in units of grid_sample (-1: first cell, 1: last)."""
    pixels = torch.arange(side, device=device, dtype=torch.float64)
    places = on_copy(pixels, side, seen) / stride
    return (places * (2 / max(cells - 1, 1)) - 1).float()
