"""Weak-to-strong consistency: confident labels of weak views are the targets on strong views (FixMatch, UniMatch).

labels = pseudo_labels(segment(network, images)), pseudo_labels(segment(network, partner))
[(mixed, mixed_labels)] = strong_mix((images, partner), labels, strong, mixing, seed, step)
loss = confident_cross_entropy(segment(network, mixed), mixed_labels, mixed.valid, threshold)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.engine.batch import Batch
from stages.engine.config import AdaptiveThresholdSettings, CutMixSettings, StrongAugmentationSettings
from stages.engine.distributed import least_over_processes
from stages.engine.losses import IGNORE, cross_entropy, share
from stages.engine.method import Setup, Sources
from stages.engine.streams import Stream
from stages.engine.watching import taught
from stages.methods.parts.batch_shares import strong_and_unlabelled
from stages.methods.parts.cutmix import draw_boxes, mix, mix_batches
from stages.methods.parts.teacher_student import TeacherStudent
from stages.methods.parts.views import strong_views
from stages.methods.settings.base import StrongWeakSettings


class PseudoLabels(NamedTuple):
    """Hard labels and their confidence."""

    label: Tensor  # int64 (B, H, W)
    confidence: Tensor  # float (B, H, W), the label's probability


class View(NamedTuple):
    """What is predicted of unlabelled images, and what they are taught."""

    logits: Tensor  # (B, C, H, W)
    labels: PseudoLabels  # as the network sees the images
    samples: Batch  # their valid pixels; `label`: as estimated masks have it
    share: float  # of the unlabelled loss


class StrongWeak(TeacherStudent):
    """Base of FixMatch, UniMatch and UniMatch V2: their streams, the threshold, and the losses of their views.

    L_u = sum_k share_k { w CE_tau(f_k, Y_k) + lambda(t) CE(f_k, Z_k) },  lambda(t) = lambda (1 - t / T)

    Y_k: labels of the network itself, where their confidence reaches tau. Z_k: `guidance`, estimated masks, cut with
    the same boxes; 255 teaches nothing. Both CE are 1/|V| sum, so that few labelled pixels make a small loss.
    """

    def __init__(self, settings: StrongWeakSettings, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.adaptive: Tensor | None = None  # on the device of the first batch

    @classmethod
    def streams(cls, settings: StrongWeakSettings, sources: Sources, batch_size: int) -> dict[str, Stream]:
        return strong_and_unlabelled(settings, sources, batch_size, partner=True, estimated=settings.guided)

    def threshold(self, labels: PseudoLabels, valid: Tensor) -> float | Tensor:
        """tau of this step, by the labels that the network gives unlabelled images."""
        threshold = self.settings.threshold
        if isinstance(threshold, AdaptiveThresholdSettings):
            if self.adaptive is None:
                self.adaptive = labels.confidence.new_tensor(threshold.start)
            known = highest_confidences(labels, valid, self.setup.num_classes)
            self.adaptive = follow(self.adaptive.to(valid.device), known, threshold.momentum)
            self.observe(threshold=self.adaptive)
            threshold = self.adaptive
        self.observe(confident=share(labels.confidence >= threshold, valid))
        return threshold

    def taught(self, views: dict[str, View], threshold: float | Tensor, step: int) -> dict[str, Tensor]:
        """The losses of the views, by name, and "guidance"."""
        terms = {
            name: self.settings.weight
            * view.share
            * confident_cross_entropy(view.logits, view.labels, view.samples.valid, threshold)
            for name, view in views.items()
        }
        if self.settings.guidance is not None:
            weight = self.settings.guidance.weight * (1 - step / self.setup.iterations)
            terms["guidance"] = weight * torch.stack([view.share * guided(view) for view in views.values()]).sum()
        return terms

    def state(self) -> dict[str, Any]:
        return {} if self.adaptive is None else {"threshold": self.adaptive}

    def restore(self, state: dict[str, Any]) -> None:
        self.adaptive = state.get("threshold")


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
    views: Sequence[int] = (0,),
) -> list[tuple[Batch, PseudoLabels]]:
    """Strong views, by number, of the first images, each with boxes of the second images' strong view in it.

    The labels of the weak views and the valid pixels are cut with the same boxes. Colours and boxes are different
    for each view, and for an image and its partner.
    """
    parts = [(batch, 2 * view + which) for view in views for which, batch in enumerate(samples)]
    changed = strong_views(parts, strong, seed, step)
    mixed = []
    for view, first, second in zip(views, changed[::2], changed[1::2], strict=True):
        boxes = draw_boxes(mixing, samples[0], seed, step, view)
        taught = PseudoLabels(*(mix(own, other, boxes) for own, other in zip(*labels, strict=True)))
        mixed.append((mix_batches(first, second, boxes), taught))
    return mixed


def confident_cross_entropy(logits: Tensor, labels: PseudoLabels, valid: Tensor, threshold: float | Tensor) -> Tensor:
    """1/|V| sum_V [confidence >= threshold] CE(f, label): few confident pixels make a small loss.

    Args:
        logits: (B, C, H, W); valid: bool (B, H, W), V. A threshold above 1 is never reached: the loss is 0.
    """
    confident = (labels.confidence >= threshold).float()
    label = labels.label.masked_fill(~valid, IGNORE)
    loss = cross_entropy(logits, label, confident)
    taught(loss, logits, label, confident, labels.confidence)
    return loss


def guided(view: View) -> Tensor:
    """1/|V| sum_V [z != 255] CE(f, z), z the estimated masks of the view's images."""
    known = view.samples.label != IGNORE
    labels = PseudoLabels(view.samples.label.masked_fill(~known, 0), known.float())
    return confident_cross_entropy(view.logits, labels, view.samples.valid, 0.5)


def highest_confidences(labels: PseudoLabels, valid: Tensor, num_classes: int) -> Tensor:
    """Of each class, the highest confidence of its valid pixels in the joint batch: (C,), 0 where it has none."""
    confidence = labels.confidence * valid
    highest = torch.stack([(confidence * (labels.label == c)).amax() for c in range(num_classes)])
    return -least_over_processes(-highest)


def follow(threshold: Tensor, highest: Tensor, momentum: float) -> Tensor:
    """tau <- momentum tau + (1 - momentum) mean of the highest confidences of the classes that are there."""
    there = highest > 0
    mean = highest.sum() / there.sum().clamp(min=1)
    return torch.where(there.any(), momentum * threshold + (1 - momentum) * mean, threshold)
