"""From weak to strong: confident labels that a network gives weak views teach it on strong views (FixMatch, UniMatch).

votes = vote(segment(network, pictures)), vote(segment(network, partner))
mixed, mixed_votes = strong_mix((pictures, partner), votes, strong, mixing, seed, step)
loss = confident_cross_entropy(segment(network, mixed), mixed_votes, mixed.valid, threshold)
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from stages.engine.batch import Batch
from stages.engine.config import CutMixSettings, StrongAugmentationSettings
from stages.engine.losses import IGNORE, cross_entropy
from stages.methods.parts.cutmix import draw_boxes, mix, mix_batches
from stages.methods.parts.views import strong_view


class Votes(NamedTuple):
    """Hard labels and how sure they are."""

    label: Tensor  # int64 (B, H, W)
    confidence: Tensor  # float (B, H, W), the label's probability


def vote(logits: Tensor) -> Votes:
    """The most probable class of every pixel of logits (B, C, H, W), without gradient."""
    confidence, label = logits.detach().float().softmax(1).max(1)
    return Votes(label, confidence)


def strong_mix(
    pictures: tuple[Batch, Batch],
    votes: tuple[Votes, Votes],
    strong: StrongAugmentationSettings,
    mixing: CutMixSettings,
    seed: int,
    step: int,
    view: int = 0,
) -> tuple[Batch, Votes]:
    """Strong view number `view` of the first pictures, with boxes of the second ones' own strong view in it.

    The votes of the weak views, labels and valid pixels are cut with the same boxes. Colours and boxes differ between
    views, and between a picture and its partner.
    """
    first, second = pictures
    boxes = draw_boxes(mixing, first, seed, step, view)
    mixed = mix_batches(
        strong_view(first, strong, seed, step, 2 * view), strong_view(second, strong, seed, step, 2 * view + 1), boxes
    )
    return mixed, Votes(*(mix(own, other, boxes) for own, other in zip(*votes, strict=True)))


def confident_cross_entropy(logits: Tensor, votes: Votes, valid: Tensor, threshold: float) -> Tensor:
    """1/|V| sum_V [confidence >= threshold] CE(f, label): few confident pixels make a small loss.

    Args:
        logits: (B, C, H, W); valid: bool (B, H, W), V. Above 1 no threshold is reached: the loss is 0.
    """
    confident = (votes.confidence >= threshold).float()
    return cross_entropy(logits, votes.label.masked_fill(~valid, IGNORE), confident)
