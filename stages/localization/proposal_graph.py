"""The graph of the proposals of all images (Liu et al., TPAMI 2020): links between similar ones, weights for classes.

The set is divided into blocks of images with the same labels, so that time grows linearly with the images, and memory
holds one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 1e-4  # links and weights that are not above it are left out (authors' code)
ROWS = 2048  # proposals that are compared with their block at a time


def class_weights(scores: NDArray, most: int, sure: float) -> NDArray[np.float64]:
    """(N, K): the `most` highest scores, or the highest alone where it reaches `sure`; -inf for impossible classes.

    scores: (N, K), probabilities, negative for classes that a proposal cannot have.
    """
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    kept = (ranks < np.where(scores.max(1, keepdims=True) >= sure, 1, most)) & (scores > LEAST)
    return np.where(scores < 0, -np.inf, np.where(kept, scores, 0.0))


def blocks(labels: NDArray[np.bool_], counts: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Places of images whose proposals together are about `most`, ascending; images that are alike come together.

    labels: (images, K), their image-level labels; counts: (images,), their proposals. Images are sorted by the rarest
    of their labels, then by all.
    """
    rarity = np.where(labels, labels.sum(0), len(labels) + 1)  # (images, K)
    first = rarity.argmin(1) if labels.shape[1] else np.zeros(len(labels), int)
    order = np.lexsort((*labels.T[::-1], first))
    number = np.maximum(round(counts.sum() / most), 1)
    ends = np.cumsum(counts[order])
    block = np.minimum((ends - 1) * number // max(int(ends[-1]), 1), number - 1) if len(order) else order
    for one in range(int(number)):
        yield np.sort(order[block == one])


def nearest(
    features: NDArray,
    images: NDArray[np.int64],
    labels: NDArray[np.bool_],
    count: int,
    within: bool,
    device: torch.device,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The `count` most similar rows of each of N: places (N, count), cosines, and whether they are links.

    features: (N, D); images: (N,), whose rows they are; labels: (N, K), the labels of these images. A row is not its
    own neighbour, nor, unless `within`, are those of its image. No link joins images without a label in common.
    """
    vectors = torch.nn.functional.normalize(torch.from_numpy(features).float().to(device), dim=1)
    of, tags = torch.from_numpy(images).to(device), torch.from_numpy(labels).float().to(device)
    count = min(count, len(vectors))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(vectors), ROWS):
        rows = slice(start, start + ROWS)
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
        if not within:
            cosines = cosines.masked_fill(of[rows, None] == of, -torch.inf)
        values, places = cosines.topk(count, dim=1)
        alike = (tags[rows, None] * tags[places]).sum(2) > 0
        found.append((places.cpu(), values.cpu(), (alike & values.isfinite()).cpu()))
    joined = [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]
    return joined[0], joined[1], joined[2]


def edges_of(
    places: NDArray[np.int64], links: NDArray[np.bool_], cosines: NDArray[np.float32], mutual: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of rows (E, 2), each once, and their cosines. mutual: only those that are nearest to each other."""
    rows, which = np.nonzero(links)
    pairs = np.sort(np.stack([rows, places[rows, which]], 1), axis=1)
    once, first, times = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    kept = times == 2 if mutual else times > 0
    return once[kept], cosines[rows, which][first[kept]]
