"""Weak-to-strong consistency: confident labels of weak views are the targets on strong views (FixMatch, UniMatch).

labels = pseudo_labels(segment(network, images)), pseudo_labels(segment(network, partner))
mixed, mixed_labels = strong_mix((images, partner), labels, strong, mixing, seed, step)
loss = confident_cross_entropy(segment(network, mixed), mixed_labels, mixed.valid, threshold)
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from stages.engine.batch import Batch
from stages.engine.config import CutMixSettings, StrongAugmentationSettings
from stages.engine.losses import IGNORE, cross_entropy
from stages.methods.parts.cutmix import draw_boxes, mix, mix_batches
from stages.methods.parts.views import strong_view


class PseudoLabels(NamedTuple):
    """Hard labels and their confidence."""

    label: Tensor  # int64 (B, H, W)
    confidence: Tensor  # float (B, H, W), the label's probability


def pseudo_labels(logits: Tensor) -> PseudoLabels:
    """The most probable class of every pixel of logits (B, C, H, W), without gradient."""
    confidence, label = logits.detach().float().softmax(1).max(1)
    return PseudoLabels(label, confidence)


def strong_mix(
    samples: tuple[Batch, Batch],
    labels: tuple[PseudoLabels, PseudoLabels],
    strong: StrongAugmentationSettings,
    mixing: CutMixSettings,
    seed: int,
    step: int,
    view: int = 0,
) -> tuple[Batch, PseudoLabels]:
    """Strong view number `view` of the first images, with boxes of the second images' strong view in it.

    The labels of the weak views and the valid pixels are cut with the same boxes. Colours and boxes are different
    for each view, and for an image and its partner.
    """
    first, second = samples
    boxes = draw_boxes(mixing, first, seed, step, view)
    mixed = mix_batches(
        strong_view(first, strong, seed, step, 2 * view), strong_view(second, strong, seed, step, 2 * view + 1), boxes
    )
    return mixed, PseudoLabels(*(mix(own, other, boxes) for own, other in zip(*labels, strict=True)))


def confident_cross_entropy(logits: Tensor, labels: PseudoLabels, valid: Tensor, threshold: float) -> Tensor:
    """1/|V| sum_V [confidence >= threshold] CE(f, label): few confident pixels make a small loss.

    Args:
        logits: (B, C, H, W); valid: bool (B, H, W), V. A threshold above 1 is never reached: the loss is 0.
    """
    confident = (labels.confidence >= threshold).float()
    return cross_entropy(logits, labels.label.masked_fill(~valid, IGNORE), confident)
