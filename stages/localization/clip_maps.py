"""Maps of CLIP: where in an image it finds the texts of the image's labels, without training (CLIP-ES).

    for maps in clip_maps(tower, texts, dataset, ids, settings, max_pixels=..., device=device):
        store(maps.image_id, maps.scores, maps.classes, size=maps.size, stride=maps.stride)

Grad-CAM at the first LayerNorm of the last block, in a softmax over the labels of the image and what else images show;
then spread along the attention between patches. Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven
Approach for Weakly Supervised Semantic Segmentation", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from artifacts.cells import cells, on_copy
from artifacts.dataset import Dataset
from stages.data.decoding import decoded_ahead, size_batches
from stages.engine.device import sent
from stages.engine.interpolation import interpolation_matrix
from stages.engine.to_host import Transfer, received
from stages.localization.activation_maps import STRIDE, ActivationMaps
from stages.localization.clip_config import ClipConfig, ClipSource
from stages.localization.grid import reduced_size
from stages.networks.clip import ClipImageTower, normalise_for_clip

MOST_PAIRS = 2**24  # pairs of patches in the attention of a batch: 64 MiB, of which a few are held at a time
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


class ClipTexts(NamedTuple):
    """Unit vectors of texts: of the foreground classes, in their order, (K, vector), of the background (n, vector)."""

    classes: Tensor
    background: Tensor


def clip_batches(
    tower: ClipImageTower, dataset: Dataset, ids: Sequence[str], settings: ClipSource, max_pixels: int
) -> list[list[str]]:
    """The images with a label in batches of one size, the largest first."""

    def most(height: int, width: int) -> int:
        rows, columns = patches_of((height, width), tower.patch, max_pixels)
        return max(1, min(settings.batch_size, MOST_PAIRS // (rows * columns) ** 2))

    return size_batches({image_id: dataset.size(image_id) for image_id in ids if dataset.tags(image_id)}, most)


def clip_maps(
    tower: ClipImageTower,
    texts: ClipTexts,
    dataset: Dataset,
    ids: Sequence[str],
    settings: ClipSource,
    *,
    max_pixels: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
    threads: int = 2,
) -> Iterator[ActivationMaps]:
    """Maps of the images `ids`, those without a label first; the batch size does not change them.

    Args:
        tower: on `device`, in eval mode, its parameters without gradients.
        texts: on `device`.
        max_pixels: a larger image is looked at as a copy of this many pixels.
        dtype: autocast type (bf16, fp16), None for fp32. Maps are spread in fp32.
        threads: threads that decode images while the network works.
    """
    for image_id in (image_id for image_id in ids if not dataset.tags(image_id)):
        size = dataset.size(image_id)
        nothing = np.zeros((0, cells(size[0], STRIDE), cells(size[1], STRIDE)), np.float16)
        yield ActivationMaps(image_id, nothing, np.zeros(0, np.uint8), size)

    batches = clip_batches(tower, dataset, ids, settings, max_pixels)
    resize = partial(whole_patches, patch=tower.patch, max_pixels=max_pixels)

    def computed() -> Iterator[tuple[list[str], Transfer]]:
        for members, pixels in decoded_ahead(dataset, batches, threads, resize):
            images = normalise_for_clip(sent(pixels, device).permute(0, 3, 1, 2))
            labels = [dataset.tags(image_id) for image_id in members]
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                found = maps_of_patches(tower, texts, images, labels, settings)
            H, W = dataset.size(members[0])
            rows = _readers(H, images.shape[2], tower.patch, device)
            columns = _readers(W, images.shape[3], tower.patch, device)
            yield members, Transfer(**{str(n): (rows @ maps @ columns.T).half() for n, maps in enumerate(found)})

    for members, arrays in received(computed()):
        for image_id, scores in zip(members, arrays.values(), strict=True):
            yield ActivationMaps(image_id, scores, np.array(dataset.tags(image_id), np.uint8), dataset.size(image_id))


def patches_of(size: tuple[int, int], patch: int, max_pixels: int) -> tuple[int, int]:
    """How many patches, (h, w), an image of size (H, W) is cut into."""
    height, width = reduced_size(size, max_pixels)
    return cells(height, patch), cells(width, patch)


def whole_patches(image: NDArray[np.uint8], patch: int, max_pixels: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) resized (bicubic) to the next multiples of a patch."""
    rows, columns = patches_of(image.shape[:2], patch, max_pixels)
    size = (columns * patch, rows * patch)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


@lru_cache(maxsize=64)
def _readers(length: int, seen: int, patch: int, device: torch.device) -> Tensor:
    """Weights (cells of the score map, patches) that read a map of patches, whose centres lie inside them."""
    pixels = on_copy(np.arange(cells(length, STRIDE)) * STRIDE, length, seen)
    return sent(interpolation_matrix(pixels - (patch - 1) / 2, patch, seen // patch), device)


@torch.no_grad()
def maps_of_patches(
    tower: ClipImageTower, texts: ClipTexts, images: Tensor, labels: Sequence[Sequence[int]], settings: ClipConfig
) -> list[Tensor]:
    """Normalised images (B, 3, patch h, patch w) -> of each fp32 (its labels, h, w), stretched to 0..1.

    labels: the class ids of each image, at least one.
    """
    h, w = images.shape[2] // tower.patch, images.shape[3] // tower.patch
    tokens, attention = tower.before_last(images, settings.attention_blocks)
    return [maps.view(-1, h, w) for maps in maps_of_tokens(tower, texts, tokens, attention, (h, w), labels, settings)]


def maps_of_tokens(
    tower: ClipImageTower,
    texts: ClipTexts,
    tokens: Tensor,
    attention: Tensor | None,
    grid: tuple[int, int],
    labels: Sequence[Sequence[int]],
    settings: ClipConfig,
) -> list[Tensor]:
    """Tokens before the last block -> of each image fp32 (its labels, n), stretched to 0..1.

    attention: (B, n, n), along which maps spread from the `boxes` around their areas; None: they do not.
    """
    found = [stretched(maps) for maps in grad_cam(tower, texts, tokens, tower.last_norm(tokens), labels)]
    if attention is None:
        return found
    inside = boxes(torch.cat(found).view(-1, *grid).cpu().numpy(), settings.box_threshold)  # of all images at once
    areas = sent(inside, tokens.device).flatten(1).split([len(maps) for maps in found])
    with torch.autocast(tokens.device.type, enabled=False):
        return [
            stretched(spread(along, maps * area, settings.rounds, settings.power))
            for along, maps, area in zip(attention, found, areas, strict=True)
        ]


def grad_cam(
    tower: ClipImageTower, texts: ClipTexts, tokens: Tensor, normed: Tensor, labels: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Of each image ReLU(sum over channels of weight * normed), fp32 (its labels, n).

    The weights of a class are the means over the patches of the gradient of log P / (1 - P), where P is its softmax
    against the other labels of the image and the background texts. The gradient of P, as published, is this times
    P (1 - P): the same map once it is stretched, but 0 where the network is certain.
    """
    everything = torch.cat([texts.classes, texts.background])
    allowed = torch.zeros(len(labels), len(everything), dtype=torch.bool)
    allowed[:, len(texts.classes) :] = True
    for row, tags in zip(allowed, labels, strict=True):
        row[torch.tensor(tags) - 1] = True
    allowed = allowed.to(tokens.device)
    found: list[list[Tensor]] = [[] for _ in labels]
    with torch.enable_grad():
        normed = normed.detach().requires_grad_()
        logits = tower.logit_scale * (tower.last(tokens, normed) @ everything.T).float()
        most = max(map(len, labels))
        for rank in range(most):
            members = [i for i, tags in enumerate(labels) if len(tags) > rank]
            classes = torch.tensor([labels[i][rank] - 1 for i in members], device=tokens.device)
            odds = log_odds(logits[members], classes, allowed[members]).sum()
            (gradient,) = torch.autograd.grad(odds, normed, retain_graph=rank + 1 < most)
            weights = gradient[:, 1:].mean(1, keepdim=True)  # (B, 1, width), without the class token
            maps = (normed.detach()[:, 1:] * weights).float().sum(-1).relu()
            for i in members:
                found[i].append(maps[i])
    return [torch.stack(maps) for maps in found]


def log_odds(logits: Tensor, classes: Tensor, allowed: Tensor) -> Tensor:
    """log P / (1 - P) of a class (B,) in the softmax of logits (B, T) over those that are allowed (B, T)."""
    others = allowed.scatter(1, classes[:, None], False)
    rest = logits.masked_fill(~others, -torch.inf).logsumexp(1)
    return logits.gather(1, classes[:, None])[:, 0] - rest


def boxes(maps: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """1 in the bounding box of each area (8 neighbours) of a map (K, h, w) above threshold * its maximum, else 0."""
    inside = np.zeros_like(maps)
    for values, own in zip(maps, inside, strict=True):
        areas, _ = ndimage.label(values > threshold * values.max(), EIGHT_NEIGHBOURS)
        for box in ndimage.find_objects(areas):
            own[box] = 1
    return inside


def spread(attention: Tensor, maps: Tensor, rounds: int, power: int) -> Tensor:
    """A^power applied to maps (K, n), where A = (D + D^T) / 2 and D is the attention (n, n) normalised in rounds.

    Each round makes the sums of the columns 1, then those of the rows (Sinkhorn): D = diag(r) attention diag(c). So the
    matrix is never copied, nor multiplied by itself.
    """
    rows = attention.new_ones(len(attention))
    for _ in range(rounds):
        columns = 1 / (rows @ attention)
        rows = 1 / (attention @ columns)
    for _ in range(power):
        forth = rows * ((columns * maps) @ attention.T)
        back = columns * ((rows * maps) @ attention)
        maps = (forth + back) / 2
    return maps


def stretched(maps: Tensor) -> Tensor:
    """Each map (..., n) from its minimum to its maximum onto 0..1; a constant one is 0."""
    maps = maps - maps.amin(-1, keepdim=True)
    return maps / maps.amax(-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
