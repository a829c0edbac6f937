"""Images as graphs of superpixels with noisy labels, some marked as clean (Yi et al., TIP 2021). Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from stages.engine.interpolation import interpolation_matrix
from stages.engine.known import Known
from stages.localization.grid import resize_maps
from stages.localization.seed_labels import dense_labels
from stages.localization.superpixels import neighbours, region_means, superpixels_of

CleanRule = Literal["median", "threshold"]
LEAST_PROBABILITY = 1e-7  # in logarithms


@dataclass(frozen=True)
class SuperpixelGraph:
    """The graph of one image, of N superpixels.

    Attributes:
        regions: (H, W), the superpixel of each pixel.
        nodes: float32 (N, F), their features.
        linked: bool (N, N), the j that each i attends to, itself included.
        labels: (N,), the label that most of its pixels have.
        clean: bool (N,), which of the labels are to be learned.
    """

    regions: NDArray[np.int64]
    nodes: NDArray[np.float32]
    linked: NDArray[np.bool_]
    labels: NDArray[np.int64]
    clean: NDArray[np.bool_]


@dataclass(frozen=True)
class Features:
    """Features (F, h, w) of a network, whose cells lie on pixels stride * i, or in the middle of their patches."""

    values: NDArray[np.float32]
    stride: int
    patches: bool = False

    def readers(self, size: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Matrices (H, h) and (W, w): rows @ values @ columns.T are the features at every pixel of size = (H, W)."""
        offset = (self.stride - 1) / 2 if self.patches else 0.0
        rows, columns = (
            interpolation_matrix(np.arange(length) - offset, self.stride, cells)
            for length, cells in zip(size, self.values.shape[1:], strict=True)
        )
        return rows, columns

    def means(self, regions: NDArray, count: int) -> NDArray[np.float64]:
        """(count, F): means over the pixels of each region of the features between the cells.

        They are never computed at every pixel: the share of each cell in each region is a sparse matrix.
        """
        rows, columns = (sparse.csr_array(reader, dtype=np.float64) for reader in self.readers(regions.shape))
        between = sparse.csr_array(sparse.kron(rows, columns, format="csr"))  # (H W, h w)
        flat, pixels = regions.ravel(), np.arange(regions.size)
        members = sparse.csr_array((1 / np.bincount(flat)[flat], (flat, pixels)), shape=(count, regions.size))
        means: NDArray[np.float64] = (members @ between) @ self.values.reshape(len(self.values), -1).T.astype(
            np.float64
        )
        return means


@dataclass(frozen=True)
class GraphRules:
    """How a graph is made of an image: labels, superpixels, links, clean labels. See the settings of label-noise."""

    noisy_background: float
    superpixels: int
    compactness: float
    similar: int
    clean: CleanRule
    clean_below: float
    purity: float


def with_graph(
    known: Known, features: Features, logits: NDArray, stride: int, rules: GraphRules
) -> tuple[Known, SuperpixelGraph]:
    """An image with what its graph is made from: features, and logits (K, h', w') of the given stride, of the model."""
    maps, size = known.scores, known.scores.size
    scores = resize_maps(maps.scores, size, maps.stride)
    noisy = dense_labels(scores, maps.classes, rules.noisy_background)  # (H, W)
    probabilities = softmax(resize_maps(logits, size, stride), axis=0)
    return known, superpixel_graph(known.image, noisy, probabilities, features, rules)


def superpixel_graph(
    image: NDArray[np.uint8], noisy: NDArray, probabilities: NDArray, features: Features, rules: GraphRules
) -> SuperpixelGraph:
    """noisy: labels (H, W); probabilities: (K, H, W), of the model that learned from clean masks."""
    regions = superpixels_of(image, rules.superpixels, rules.compactness)
    count, num_classes = int(regions.max()) + 1, len(probabilities)
    loss = -np.log(np.take_along_axis(probabilities, noisy[None].astype(np.intp), 0)[0].clip(LEAST_PROBABILITY))
    votes = np.bincount(regions.ravel() * num_classes + noisy.ravel(), minlength=count * num_classes)
    votes = votes.reshape(count, num_classes)
    labels = votes.argmax(1)
    pure = votes.max(1) >= rules.purity * votes.sum(1)
    losses = region_means(regions, loss[..., None], count)[:, 0]
    semantic = features.means(regions, count)
    semantic /= np.linalg.norm(semantic, axis=1, keepdims=True).clip(1e-12)
    told = region_means(regions, probabilities.transpose(1, 2, 0), count)
    nodes = np.concatenate([semantic, told, _looks(image, regions, count)], 1).astype(np.float32)
    linked = neighbours(regions, count) | most_similar(semantic, rules.similar) | np.eye(count, dtype=bool)
    return SuperpixelGraph(regions, nodes, linked, labels, pure & clean_labels(losses, labels, rules))


def clean_labels(losses: NDArray, labels: NDArray, rules: GraphRules) -> NDArray[np.bool_]:
    """bool (N,): whose loss is at most the median of the losses of its label, or below a threshold."""
    if rules.clean == "threshold":
        return np.asarray(losses < rules.clean_below)
    medians = {label: np.median(losses[labels == label]) for label in np.unique(labels)}
    return losses <= np.array([medians[label] for label in labels])


def most_similar(vectors: NDArray, count: int) -> NDArray[np.bool_]:
    """bool (N, N): for each i the `count` different ones with the highest cosine; vectors: (N, F) of length 1."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    found = np.zeros(cosines.shape, bool)
    count = min(count, len(vectors) - 1)
    if count:
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        np.put_along_axis(found, nearest, True, axis=1)
    return found


def _looks(image: NDArray[np.uint8], regions: NDArray, count: int) -> NDArray:
    """(N, 5): the colour of each region, CIELAB / 100, and its position, as shares of the longer side of the image."""
    from skimage.color import rgb2lab

    colours = rgb2lab(region_means(regions, image, count) / 255) / 100
    places = np.stack(list(np.indices(regions.shape)), axis=-1) / max(regions.shape)
    return np.concatenate([colours, region_means(regions, places, count)], 1)
