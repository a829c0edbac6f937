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
from stages.localization.cell_graphs import WalkGraph, joint, pair_matrix
from stages.localization.partial_labels import UNKNOWN, image_of_cells, with_labels
from stages.localization.random_walk import boundary_affinities
from stages.networks import normalise
from stages.networks.boundary import STRIDE, BoundaryNetwork, mean_with_mirror
from stages.networks.folding import for_inference
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
        walks = (walk_matrix(boundary, settings.radius, settings.beta) for boundary in boundaries)
        graphs = [WalkGraph(walk, settings.doublings, device) for walk in walks]
        smooth = joint([laplacian(known.image, size) for known in batch], device)
        draws = [torch.Generator().manual_seed(derive_seed(settings.seed, "wsgcn", k.image_id)) for k in batch]
        known_labels = torch.from_numpy(labels).to(device).flatten(1)
        found = trained(features.flatten(2), known_labels, self.num_classes, graphs, smooth, draws, settings)
        return found.unflatten(2, size).cpu().numpy()

    @torch.no_grad()
    def features(self, batch: Sequence[Known]) -> tuple[Tensor, NDArray[np.float32]]:
        """The features (B, F, h, w) of images of one size, and the boundary (B, h, w), 0..1, that they add up to.

        A channel has the weight that it has in the boundary; means of image and mirrored copy.
        """
        dtype, device = self.means.dtype, self.means.device
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            features = mean_with_mirror(self.network.features, normalise(self.means.images(batch)))
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


@torch.no_grad()
def trained(
    nodes: Tensor,
    labels: Tensor,
    num_classes: int,
    graphs: Sequence[WalkGraph],
    smooth: Tensor,
    draws: Sequence[torch.Generator],
    settings: WsgcnSettings,
) -> Tensor:
    """Probabilities (B, C, n) of graph networks that each learned the labels (B, n) of their image from its nodes.

    nodes: features (B, F, n). smooth: L of all images, block by block. draws: a generator per image. A network has two
    layers, whose gradients are written out: A X never changes, and the graph is applied twice a step.
    """

    def graph(values: Tensor) -> Tensor:
        return torch.stack([each(x) for each, x in zip(graphs, values, strict=True)])

    def graph_transposed(values: Tensor) -> Tensor:
        return torch.stack([each.transposed(x) for each, x in zip(graphs, values, strict=True)])

    walked = graph(nodes)  # A X
    parameters = initial_parameters((nodes.shape[1], settings.hidden, num_classes), draws, nodes.device)
    first, first_bias, second, second_bias = parameters
    optimizer = torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    slope_of = LossSlope(labels, num_classes, smooth, settings)

    def logits(hidden: Tensor) -> Tensor:
        if settings.hidden < num_classes:  # fewer rows for the walk
            return second @ graph(hidden) + second_bias
        return graph(second @ hidden) + second_bias

    for _ in range(settings.steps):
        size = (settings.hidden, nodes.shape[2])
        drawn = torch.stack([torch.rand(size, generator=draw) for draw in draws]).to(nodes.device)
        hidden = first @ walked + first_bias
        passed = ((drawn >= settings.dropout) & (hidden > 0)) / (1 - settings.dropout)
        hidden *= passed
        slope = slope_of(logits(hidden).log_softmax(1))
        back = graph_transposed(slope)
        hidden_slope = second.mT @ back * passed
        second.grad, second_bias.grad = back @ hidden.mT, slope.sum(2, keepdim=True)
        first.grad, first_bias.grad = hidden_slope @ walked.mT, hidden_slope.sum(2, keepdim=True)
        optimizer.step()
    return logits((first @ walked + first_bias).relu()).softmax(1)


def initial_parameters(
    channels: tuple[int, int, int], draws: Sequence[torch.Generator], device: torch.device
) -> list[Tensor]:
    """W1' (B, H, F), b1 (B, H, 1), W2' (B, C, H), b2 (B, C, 1): uniform within 1 / sqrt(channels that come out)."""
    found = []
    for before, after in pairwise(channels):
        for columns in (before, 1):
            drawn = torch.stack([torch.rand((after, columns), generator=draw) for draw in draws])
            found.append(((2 * drawn - 1) / math.sqrt(after)).to(device))
    return found


class LossSlope:
    """The gradient of the sum of the losses of all images for the logits f, given log softmax(f) = O.

    dL / dO = -[y = c] / N_y + 10 / (C N') (-exp(O) (O + 1) of unknown cells) + 2 * .01 / N L O, where N_y counts the
    cells of foreground or of background. A term without cells is 0. dL / df = dL / dO - exp(O) sum over c of dL / dO.
    """

    def __init__(self, labels: Tensor, num_classes: int, smooth: Tensor, settings: WsgcnSettings) -> None:
        """labels: (B, n); smooth: L of all images, block by block."""

        def share(chosen: Tensor) -> Tensor:
            return chosen / chosen.sum(1, keepdim=True).clamp(min=1)

        unknown = labels == UNKNOWN
        weights = share((labels != 0) & ~unknown) + share(labels == 0)  # (B, n)
        classes = torch.arange(num_classes, device=labels.device)[:, None]
        self.right = (labels[:, None] == classes) * weights[:, None]  # (B, C, n)
        self.unknown = settings.entropy_weight / num_classes * share(unknown)[:, None]
        self.smooth, self.smoothness = smooth, 2 * settings.smoothness_weight / labels.shape[1]

    def __call__(self, logarithms: Tensor) -> Tensor:
        """O (B, C, n) -> dL / df."""
        p = logarithms.exp()
        rough = (self.smooth @ logarithms.mT.flatten(0, 1)).view(*logarithms.mT.shape).mT  # L O
        slope = rough * self.smoothness - self.right - p * (logarithms + 1) * self.unknown
        return slope - p * slope.sum(1, keepdim=True)
