"""Class-activation maps of many images, over scales and mirrored copies, in batches.

    network = for_inference(classifier, device)
    for maps in class_activation_maps(network, dataset, ids, scales=(0.5, 1, 1.5, 2), device=device):
        store(maps.image_id, maps.scores, maps.classes, size=maps.size, stride=maps.stride)

Every scale and its mirrored copy give ReLU(CAM), resampled to one grid of stride 4 on the image. These maps are summed,
and the sum of a class is divided by its maximum (AffinityNet, IRNet, SEAM); or each map is divided by its maximum, and
the highest value counts (DRS). Only the classes of the image-level labels are kept. Of what one network was at several
steps of its training the highest value counts (OAA). A network that looks at images in groups is given the partners of
each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.cells import cells, on_copy
from artifacts.dataset import Dataset
from artifacts.errors import ConfigError
from stages.data.decoding import decoded_ahead, size_batches
from stages.engine.device import sent
from stages.engine.interpolation import interpolation_matrix
from stages.engine.streams import MaskFolder
from stages.engine.to_host import Transfer, received
from stages.localization.grid import reduced, resize_maps, resized, square
from stages.localization.predicted_masks import stacked
from stages.networks import CamNetwork, Classifier, GroupCamNetwork, normalise
from stages.networks.blocks import antialiased

STRIDE = 4  # image pixels per cell of a score map
MAXIMUM_FLOOR = 1e-5  # added to the maximum of a class before dividing by it
ALONE_PIXELS = 4_200_000  # a larger view and its mirrored copy go through the network apart: half the memory
CPU_PIXELS = 320_000  # of one forward pass on a CPU, with mirrored copies: more do not fit the cache, and are slower


@dataclass(frozen=True)
class ActivationMaps:
    """The maps of one image: scores float16 (K, h, w) in 0..1, classes uint8 (K,) as class ids, size (H, W)."""

    image_id: str
    scores: NDArray[np.float16]
    classes: NDArray[np.uint8]
    size: tuple[int, int]
    stride: int = STRIDE


def class_activation_maps(
    classifier: CamNetwork,
    dataset: Dataset,
    ids: Sequence[str],
    *,
    scales: Sequence[float],
    flip: bool = True,
    merge: str = "sum",
    batch_size: int = 16,
    max_pixels: int | None = None,
    device: torch.device,
    dtype: torch.dtype | None = None,
    threads: int = 2,
    earlier: Sequence[CamNetwork] = (),
    partners: Mapping[str, Sequence[str]] | None = None,
    masks: MaskFolder | None = None,
) -> Iterator[ActivationMaps]:
    """Maps of the images `ids`, in the order of their sizes; the batch size does not change them.

    Args:
        classifier: from `for_inference`, or any on `device` in eval mode.
        scales: factors on the image's sides; each is a forward pass.
        flip: add the mirrored copy of every scale, in the same batch.
        merge: how the maps of scales and mirrored copies become one, a key of MERGES.
        batch_size: images of identical size per batch; scales above 1 are cut into smaller batches.
        max_pixels: a larger image is reduced to this many pixels, in a batch of its own; None: no limit.
        dtype: autocast type (bf16, fp16), None for fp32. The maps are merged in fp32.
        threads: threads that decode images while the network works.
        earlier: what the classifier was at earlier steps of its training.
        partners: of a `GroupCamNetwork`, the ids of the images that each is looked at together with.
        masks: predicted masks of the images, for a classifier that needs them.
    """
    batches = batches_of(dataset, ids, batch_size, max_pixels)
    shown: Iterator[Tensor | None] = itertools.repeat(None)
    if partners is not None:
        shown = _partners(dataset, batches, partners, cast(GroupCamNetwork, classifier).partner_side, threads)

    def computed() -> Iterator[tuple[tuple[list[str], tuple[int, int]], Transfer]]:
        for (members, size, pixels), others in zip(
            _decoded(dataset, batches, threads, max_pixels), shown, strict=False
        ):
            images = sent(pixels, device)
            labels = _labels(masks, dataset, members, images)
            found = []
            for network in (classifier, *earlier):
                nodes = _nodes(network, sent(others, device), len(members), dtype) if others is not None else None
                merged = multi_scale_maps(
                    network, images, scales, flip, batch_size, dtype, size, MERGES[merge], nodes, labels
                )
                if getattr(network, "from_minimum", False):
                    merged = merged - merged.amin((-2, -1), keepdim=True)
                found.append(normalise_by_maximum(merged))
            yield (members, size), Transfer(maps=_highest(found).half())

    for (members, size), arrays in received(computed()):
        yield from _unpack(dataset, members, size, arrays["maps"])


def _unpack(dataset: Dataset, members: list[str], size: tuple[int, int], maps: NDArray) -> Iterator[ActivationMaps]:
    for image_id, scores in zip(members, maps, strict=True):
        classes = np.array(dataset.tags(image_id), dtype=np.uint8)
        yield ActivationMaps(image_id, scores[classes.astype(int) - 1], classes, size)


def _labels(masks: MaskFolder | None, dataset: Dataset, members: list[str], images: Tensor) -> Tensor | None:
    """The predicted masks of images (B, 3, h, w), uint8 (B, h, w) on their device; None without masks."""
    if masks is None:
        return None
    return sent(stacked(masks, dataset, members, (images.shape[2], images.shape[3])), images.device)


def batches_of(dataset: Dataset, ids: Sequence[str], batch_size: int, max_pixels: int | None) -> list[list[str]]:
    """Images of identical size; those of more than `max_pixels` pixels one by one."""
    sizes = {image_id: dataset.size(image_id) for image_id in ids}
    return size_batches(sizes, lambda height, width: batch_size if height * width <= (max_pixels or math.inf) else 1)


def _decoded(
    dataset: Dataset, batches: Sequence[list[str]], threads: int, max_pixels: int | None
) -> Iterator[tuple[list[str], tuple[int, int], Tensor]]:
    """(ids, (H, W), uint8 (B, 3, h, w)) of the batches, the next ones being decoded in threads.

    (h, w) is (H, W), or smaller where H * W is above `max_pixels`.
    """
    change = (lambda image: reduced(image, max_pixels)) if max_pixels else (lambda image: image)
    for members, pixels in decoded_ahead(dataset, batches, threads, change):
        yield members, dataset.size(members[0]), torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _partners(
    dataset: Dataset, batches: Sequence[list[str]], partners: Mapping[str, Sequence[str]], side: int, threads: int
) -> Iterator[Tensor]:
    """The partners of each batch's images, as squares: uint8 (B * partners, 3, side, side)."""
    others = ([other for image_id in members for other in partners[image_id]] for members in batches)
    for _, pixels in decoded_ahead(dataset, others, threads, lambda image: square(image, side)):
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2)


@torch.inference_mode()
def _nodes(network: CamNetwork, partners: Tensor, count: int, dtype: torch.dtype | None) -> Tensor:
    """What a network that looks at groups is shown of the partners of `count` images: (count, partners, C, h, w)."""
    with torch.autocast(partners.device.type, dtype=dtype, enabled=dtype is not None):
        nodes = cast(GroupCamNetwork, network).nodes(normalise(partners))
    return nodes.unflatten(0, (count, -1))


def _highest(maps: Sequence[Tensor]) -> Tensor:
    """Of maps of several networks the highest ones, stretched from their minimum on to 0..1; of one network its own."""
    if len(maps) == 1:
        return maps[0]
    merged = torch.stack(list(maps)).amax(0)
    return normalise_by_maximum(merged - merged.amin((-2, -1), keepdim=True))


@torch.inference_mode()
def multi_scale_maps(
    classifier: CamNetwork,
    images: Tensor,
    scales: Sequence[float],
    flip: bool,
    batch_size: int,
    dtype: torch.dtype | None = None,
    size: tuple[int, int] | None = None,
    merge: Callable[[Tensor, Tensor], Tensor] = torch.add,
    partners: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """Sum over scales and mirrored copies of ReLU(CAM): uint8 images (B, 3, h, w) -> fp32 (B, K, ceil(H/4), ceil(W/4)).

    `size` is the (H, W) of the images before they were reduced; None: (h, w). `merge` (of MERGES):
    replaces the sum; it combines the maps of a view with the result so far, which begins as zeros. `partners`: the
    nodes of the images' partners, of a `GroupCamNetwork`; `masks`: (B, h, w), for a classifier that needs them.
    """
    B, _, h, w = images.shape
    H, W = size or (h, w)
    normalised = normalise(images)
    total = torch.zeros(B, classifier.num_foreground, cells(H, STRIDE), cells(W, STRIDE), device=images.device)
    for scale in scales:
        seen = (max(round(h * scale), 1), max(round(w * scale), 1))
        step = max(1, int(batch_size / max(1.0, scale * scale)))
        if images.device.type == "cpu":
            step = max(1, min(step, CPU_PIXELS // (seen[0] * seen[1] * (1 + flip))))
        for start in range(0, B, step):
            part = _resized(normalised[start : start + step], seen)
            count = len(part)
            given = [part] if masks is None else [part, masks[start : start + step]]
            if flip:
                given = [torch.cat([rows, rows.flip(-1)]) for rows in given]
            if partners is not None:
                nodes = partners[start : start + step]
                given.append(torch.cat([nodes, nodes]) if flip else nodes)
            together = len(given[0]) if seen[0] * seen[1] <= ALONE_PIXELS else 1
            views = zip(*(rows.split(together) for rows in given), strict=True)
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                maps = torch.cat([_relu_maps(classifier, *view) for view in views])
            rows = _readers(H, seen[0], classifier.stride, maps.shape[-2], images.device)
            columns = _readers(W, seen[1], classifier.stride, maps.shape[-1], images.device)
            merged = merge(total[start : start + count], rows @ maps[:count] @ columns.T)
            if flip:
                mirrored = _readers(W, seen[1], classifier.stride, maps.shape[-1], images.device, mirrored=True)
                merged = merge(merged, rows @ maps[count:] @ mirrored.T)
            total[start : start + count] = merged
    return total


def _relu_maps(classifier: CamNetwork, views: Tensor, *more: Tensor) -> Tensor:
    """fp32 (B, K, h, w), not negative."""
    return classifier.activation_maps(views.contiguous(memory_format=torch.channels_last), *more).float().relu_()


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if size == tuple(images.shape[-2:]):
        return images
    return antialiased(images, size)


@lru_cache(maxsize=64)  # an image has 16 with four scales and mirrored copies; data sets have hundreds of sizes
def _readers(length: int, scaled: int, stride: int, count: int, device: torch.device, mirrored: bool = False) -> Tensor:
    """Weights (cells of the score map, count) that read a map of the scaled (and mirrored) image at stride 4.

    Reading the mirrored map at mirrored positions is exact for every size; flipping the map is exact only if its cells
    are symmetric.
    """
    pixels = np.arange(cells(length, STRIDE)) * STRIDE
    positions = on_copy(pixels, length, scaled)
    if mirrored:
        positions = scaled - 1 - positions
    return sent(interpolation_matrix(positions, stride, count), device)


def normalise_by_maximum(maps: Tensor) -> Tensor:
    """Each map (..., h, w) divided by its own maximum plus 1e-5: 0..1."""
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + MAXIMUM_FLOOR)


MERGES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "maximum": lambda merged, maps: torch.maximum(merged, normalise_by_maximum(maps)),
}
"""Combines the maps of a view with the result of the views before it."""


def gradient_ranks(
    classifier: Classifier,
    dataset: Dataset,
    ids: Sequence[str],
    *,
    batch_size: int = 16,
    max_pixels: int | None = None,
    device: torch.device,
    threads: int = 2,
    masks: MaskFolder | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """SEC's background cue as a saliency map: (id, float32 (H, W) in 0..1), in the order of the images' sizes.

    Ones are propagated back from the class scores to a layer of stride 8 (VGG16: conv4_1); the highest |gradient|
    over the channels, smoothed by a 3x3 median, is replaced by its rank among the positions of the image. So
    SEC's "lowest 10 % of the positions" are the pixels below 0.1.
    """
    from scipy import ndimage, stats  # a second of imports, for this cue alone

    if not classifier.backbone.gradient_layer:
        raise ConfigError(
            f"the gradient cue reads a layer at stride 8, and is not defined on {classifier.config.backbone}",
            "take a classifier on vgg16, a ResNet of torchvision, resnet38, mobilenet_v2 or tiny, or another saliency",
        )
    layer = classifier.backbone.get_submodule(classifier.backbone.gradient_layer)
    batches = batches_of(dataset, ids, batch_size, max_pixels)
    for members, size, pixels in _decoded(dataset, batches, threads, max_pixels):
        images = normalise(sent(pixels, device))
        magnitudes = gradient_magnitudes(classifier, layer, images, _labels(masks, dataset, members, images))
        seen = (images.shape[2], images.shape[3])
        for image_id, magnitude in zip(members, magnitudes.cpu().numpy(), strict=True):
            smooth = ndimage.median_filter(magnitude, size=3)
            ranks = (stats.rankdata(smooth, axis=None).reshape(smooth.shape) - 0.5) / smooth.size
            yield image_id, resized(resize_maps(ranks, seen, stride=8), size)


def gradient_magnitudes(
    classifier: Classifier, layer: nn.Module, images: Tensor, masks: Tensor | None = None
) -> Tensor:
    """max over channels of |d sum of scores / d layer output|: normalised images (B, 3, H, W) -> (B, h, w)."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # a copy for the next layer, whose ReLU may be in place

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = classifier(images.requires_grad_(True), *([] if masks is None else [masks]))
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
    return gradient.abs().amax(dim=1)
