"""WSGCN-I (Pan et al., ICME 2021): a graph network, trained anew for each image, completes labels of its sure cells.

The nodes are the cells of an image, with features of IRNet's boundary network; the edges are the probabilities of
IRNet's walk. Score maps and dense CRF give labels to a few sure cells. The network learns from these, and then predicts
the labels of all cells.

    semiseg train-refiner --method irn
    semiseg refine --method wsgcn
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from artifacts.dataset import Dataset
from artifacts.score_maps import ScoreMap
from stages.engine.known import Known
from stages.engine.method import Method
from stages.engine.randomness import derive_seed
from stages.localization.activation_maps import for_inference
from stages.localization.cell_graphs import WalkGraph, joint, pair_matrix
from stages.localization.partial_labels import UNKNOWN, image_of_cells, with_labels
from stages.localization.random_walk import boundary_affinities
from stages.networks import normalise
from stages.networks.boundary import STRIDE, BoundaryNetwork, mean_with_mirror
from stages.parallel.in_order import results_in_order
from stages.refiners.irn import IrnTraining
from stages.refiners.node_scores import against_background
from stages.refiners.refiner import Means, Refiner
from stages.refiners.settings.wsgcn import WsgcnSettings

SQUARE = [(dy, dx) for dy in range(3) for dx in range(-2, 3) if dy > 0 or dx > 0]  # pairs of the colour smoothness
COLOUR_VARIANCE = 12.0  # of colours 0..1 (authors' code)
SPACE_VARIANCE = 20.0  # of cells (authors' code)


class Wsgcn(Refiner):
    """L = NLL_fg + NLL_bg + 10 H + .01 / N tr(O' L O),  O = log softmax(A ReLU(A X W1 + b1) W2 + b2)
    NLL_fg, NLL_bg = mean of -O_iy over the sure cells i of classes y, and of background
    H = mean of -exp(O) O over all classes of the N' cells whose label is unknown

    A: the walk's graph, each row divided by its sum; X: the features of the N cells; L: the Laplacian of the weights
    exp(-|colours|^2 / 12 - |places|^2 / 20) of cells at most 2 apart in each direction.
    """

    training: ClassVar[type[Method] | None] = IrnTraining

    def __init__(self, settings: WsgcnSettings, network: BoundaryNetwork, means: Means) -> None:
        super().__init__(settings, for_inference(network, means.device), means)
        self.num_classes = 0

    def start(self, dataset: Dataset, scores: Mapping[str, ScoreMap]) -> None:
        self.num_classes = dataset.num_classes

    def refine(self, batches: Iterable[Sequence[Known]]) -> Iterator[ScoreMap]:
        """The sure labels are made in processes; networks are trained on the device."""
        settings, crf = self.settings, self.settings.crf.resolve()
        tasks = ((batch, settings.alphas, settings.share, settings.sure, crf) for batch in batches)
        for batch, labels in results_in_order(with_labels, tasks, self.means.workers):
            for known, probabilities in zip(batch, self.completed(batch, labels), strict=True):
                yield against_background(known.scores, probabilities[known.scores.classes], probabilities[0])

    def completed(self, batch: Sequence[Known], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities of all classes at the cells of each image, (B, C, h, w). labels: (B, h, w)."""
        settings, device, size = self.settings, self.means.device, labels.shape[1:]
        features, boundaries = self.features(batch)
        walks = [walk_matrix(boundary, settings.radius, settings.beta) for boundary in boundaries]
        graph = WalkGraph(joint(walks, device), 2**settings.doublings)
        smooth = joint([laplacian(known.image, size) for known in batch], device)
        draws = [torch.Generator().manual_seed(derive_seed(settings.seed, "wsgcn", k.image_id)) for k in batch]
        nodes = features.flatten(2).mT.contiguous()  # (B, n, F)
        known_labels = torch.from_numpy(labels).to(device).flatten(1)
        found = trained(nodes, known_labels, self.num_classes, graph, smooth, draws, settings)
        return found.mT.reshape(len(batch), -1, *size).cpu().numpy()

    @torch.no_grad()
    def features(self, batch: Sequence[Known]) -> tuple[Tensor, NDArray[np.float32]]:
        """The features (B, F, h, w) of images of one size, and the boundary (B, h, w), 0..1, that they add up to.

        A channel has the weight that it has in the boundary; means of image and mirrored copy.
        """
        dtype, device = self.means.dtype, self.means.device
        pixels = torch.from_numpy(np.stack([known.image for known in batch]).transpose(0, 3, 1, 2)).to(device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = mean_with_mirror(self.network.features, normalise(pixels))
        weighted = features * self.network.boundary.weight[0]
        boundary = (weighted.sum(1) + self.network.boundary.bias).sigmoid()
        return weighted, boundary.cpu().numpy()


def walk_matrix(boundary: NDArray[np.floating], radius: int, beta: float) -> sparse.csr_array:
    """W of IRNet's walk: affinities^beta of cells nearer than `radius`, ones on the diagonal."""
    weights = {offset: affinity**beta for offset, affinity in boundary_affinities(boundary, radius).items()}
    return sparse.csr_array(pair_matrix(weights, boundary.shape) + sparse.eye_array(boundary.size))


def laplacian(image: NDArray[np.uint8], size: tuple[int, int]) -> sparse.csr_array:
    """L = D - W of the cells (h, w) = `size`, W_ij = exp(-|colours|^2 / 12 - |places|^2 / 20), colours 0..1."""
    colours = image_of_cells(image, STRIDE, size) / 255
    height, width = size
    weights = {}
    for dy, dx in SQUARE:
        if dy < height and abs(dx) < width:
            here = colours[: height - dy, max(-dx, 0) : width - max(dx, 0)]
            there = colours[dy:, max(dx, 0) : width - max(-dx, 0)]
            apart = ((here - there) ** 2).sum(-1) / COLOUR_VARIANCE + (dy * dy + dx * dx) / SPACE_VARIANCE
            weights[dy, dx] = np.exp(-apart)
    pairs = pair_matrix(weights, size)
    return sparse.csr_array(sparse.diags_array(pairs.sum(1)) - pairs)


def trained(
    nodes: Tensor,
    labels: Tensor,
    num_classes: int,
    graph: WalkGraph,
    smooth: Tensor,
    draws: Sequence[torch.Generator],
    settings: WsgcnSettings,
) -> Tensor:
    """Probabilities (B, n, C) of graph networks that each learned the labels (B, n) of their image from its nodes.

    nodes: features (B, n, F). graph, smooth: of all images, block by block. draws: a generator per image.
    """
    channels = (nodes.shape[2], settings.hidden, num_classes)
    walked = graph(nodes.flatten(0, 1)).view_as(nodes)  # A X
    parameters = initial_parameters(channels, draws, nodes.device)
    optimizer = torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)

    def logarithms(kept: Tensor | None = None) -> Tensor:
        first, first_bias, second, second_bias = parameters
        hidden = (walked @ first + first_bias).relu()
        if kept is not None:
            hidden = hidden * kept
        if settings.hidden < num_classes:  # fewer columns for the walk
            scores = graph(hidden.flatten(0, 1)).view_as(hidden) @ second
        else:
            scores = hidden @ second
            scores = graph(scores.flatten(0, 1)).view_as(scores)
        return (scores + second_bias).log_softmax(2)

    with torch.enable_grad():
        for _ in range(settings.steps):
            size = (nodes.shape[1], settings.hidden)
            drawn = torch.stack([torch.rand(size, generator=draw) for draw in draws]).to(nodes.device)
            kept = (drawn >= settings.dropout) / (1 - settings.dropout)
            loss = torch.stack([*losses(logarithms(kept), labels, smooth, settings).values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return logarithms().exp()


def initial_parameters(
    channels: tuple[int, int, int], draws: Sequence[torch.Generator], device: torch.device
) -> list[Tensor]:
    """W1 (B, F, H), b1 (B, 1, H), W2 (B, H, C), b2 (B, 1, C): uniform within 1 / sqrt(channels that come out)."""
    found = []
    for before, after in pairwise(channels):
        for rows in (before, 1):
            drawn = torch.stack([torch.rand((rows, after), generator=draw) for draw in draws])
            found.append(((2 * drawn - 1) / math.sqrt(after)).to(device).requires_grad_())
    return found


def losses(logarithms: Tensor, labels: Tensor, smooth: Tensor, settings: WsgcnSettings) -> dict[str, Tensor]:
    """The terms, each a sum over the images; an image without cells for the mean of a term adds 0.

    logarithms: O (B, n, C). labels: (B, n). smooth: L of all images, block by block.
    """
    right = -logarithms.gather(2, labels.where(labels != UNKNOWN, 0).long()[..., None])[..., 0]
    entropy = -(logarithms.exp() * logarithms).mean(2)

    def mean(values: Tensor, chosen: Tensor) -> Tensor:
        return ((values * chosen).sum(1) / chosen.sum(1).clamp(min=1)).sum()

    flat = logarithms.flatten(0, 1)
    return {
        "foreground": mean(right, (labels != 0) & (labels != UNKNOWN)),
        "background": mean(right, labels == 0),
        "entropy": settings.entropy_weight * mean(entropy, labels == UNKNOWN),
        "smoothness": settings.smoothness_weight * (flat * (smooth @ flat)).sum() / labels.shape[1],
    }
