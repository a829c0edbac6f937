"""The affinity of two cells by the features of a network, and the losses of AffinityNet and IRNet on pairs of cells.

affinity = feature_affinity(features, radius=5)          # (B, P, h', w'), 0..1
losses = affinity_losses(affinity, labels, radius=5)
losses |= displacement_losses(displacement, labels, radius=5)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.engine.device import sent
from stages.engine.distributed import global_mean
from stages.localization.pairs import Area, Offset, ends, inner_ends, offsets, partners

UNKNOWN = 255
FLOOR = 1e-5  # added in logarithms (published)


def feature_affinity(features: Tensor, radius: int) -> Tensor:
    """a_ij = exp(-mean over the channels of |f_i - f_j|) (AffinityNet, eq. 1), of the pairs of `inner_ends`.

    features: (B, C, h, w). Returns (B, P, h - r, w - 2 r) with r = radius - 1 and P pairs in the order of `offsets`.
    """
    places = [inner_ends(offset, radius, *features.shape[2:]) for offset in offsets(radius)]
    distance: Tensor = _Distances.apply(features, places)
    return (-distance).exp()


def feature_affinities(features: Tensor, radius: int) -> dict[Offset, Tensor]:
    """For each offset the affinities of all its pairs within the map, (B, h - dy, w - |dx|), for a walk."""
    height, width = features.shape[2:]
    return {
        offset: (-_distance(features, *ends(offset, height, width))).exp()
        for offset in offsets(radius)
        if offset[0] < height and abs(offset[1]) < width
    }


def _distance(features: Tensor, first: Area, second: Area) -> Tensor:
    return (features[first] - features[second]).abs().mean(1)


class _Distances(torch.autograd.Function):
    """Mean absolute differences of the features of pairs. For the backward pass only the features are kept: all
    differences would be 34 times as much."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, places: list[tuple[Area, Area]]) -> Tensor:
        ctx.save_for_backward(features)
        ctx.places = places
        return torch.stack([_distance(features, *place) for place in places], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        found, shares = torch.zeros_like(features), gradient / features.shape[1]
        for number, (first, second) in enumerate(ctx.places):
            slope = (features[first] - features[second]).sign() * shares[:, number, None]
            found[first] += slope
            found[second] -= slope
        return found, None


def affinity_losses(affinity: Tensor, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """1/4 L_bg+, 1/4 L_fg+ and 1/2 L-, each a mean over the pairs of its kind in the joint batch.

    affinity: (B, P, h', w'), 0..1, of the pairs of `inner_ends`; labels: (B, h, w), class ids, 255 where unknown: pairs
    with an unknown cell are left out. Sources: AffinityNet, eq. 6 and 7; IRNet, eq. 5 and 6.
    """
    background, foreground, different = _kinds_of_pairs(labels, radius)
    attract, repel = -(affinity + FLOOR).log(), -(1 + FLOOR - affinity).log()
    return {
        "background": _mean(attract, background) / 4,
        "foreground": _mean(attract, foreground) / 4,
        "different": _mean(repel, different) / 2,
    }


def displacement_losses(displacement: Tensor, labels: Tensor, radius: int) -> dict[str, Tensor]:
    """1/2 of each: the mean of |D_i - D_j - (x_j - x_i)| over foreground pairs, of |D_i - D_j| over background pairs.

    The means are over the pairs of the joint batch and both directions. displacement: (B, 2, h, w), (dy, dx) in cells;
    labels: as in `affinity_losses`. Source: IRNet, eq. 7 and 8.
    """
    background, foreground, _ = _kinds_of_pairs(labels, radius)  # (B, P, h', w')
    places = [inner_ends(offset, radius, *labels.shape[1:]) for offset in offsets(radius)]
    change = torch.stack([displacement[first] - displacement[second] for first, second in places], 2)
    distances = sent(torch.tensor(offsets(radius), dtype=change.dtype), change.device)  # (P, 2)
    apart = distances.T[None, :, :, None, None]
    error = (change - apart * foreground[:, None]).abs().mean(1)
    return {
        "displaced_foreground": _mean(error, foreground) / 2,
        "displaced_background": _mean(error, background) / 2,
    }


def _kinds_of_pairs(labels: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """bool (B, P, h', w'): pairs of background, pairs of one foreground class, pairs of two different labels."""
    first, second = partners(labels, radius)
    known = (first != UNKNOWN) & (second != UNKNOWN)
    alike = known & (first == second)
    return alike & (first == 0), alike & (first != 0), known & (first != second)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return global_mean((values * chosen).sum(), chosen.sum())
