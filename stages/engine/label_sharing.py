"""Pseudo labels of images whose image-level labels are known.

    logits = respect_labels(segment(teacher, unlabelled), unlabelled.tags, "share")
    confidence, label = logits.softmax(1).max(1)

A network that takes a sheep for a horse, in an image that is labelled "sheep", is right about where the object is and
wrong about what it is. So the probability of the background stays, and that of all foreground classes together goes to
the classes of the image. To leave the absent classes out and renormalise over the rest, "exclude", turns the same pixel
into confident background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from artifacts.dataset import Dataset
from stages.engine.config import ImageLabels

STRIP_NUMBERS = 16_000_000  # probabilities of a large image are changed in strips of rows with so many


def respect_labels(logits: Tensor, tags: Tensor, how: ImageLabels) -> Tensor:
    """Logits whose softmax P' gives no probability to classes that an image does not show.

    share:    P'(0) = P(0),  P'(c) = (1 - P(0)) P(c) / sum of P over the image's labels
    exclude:  P'(c) = P(c) / (P(0) + sum of P over the image's labels)

    Args:
        logits: (B, C, ...), or log-probabilities; class 0 is the background if there are C - 1 tags.
        tags: (B, C - 1), or (B, C) where there is no background: 1 where an image shows a class, else 0. A row of nan
            is an image whose labels are unknown: its logits stay.
        how: ignore: the logits as they are.

    Returns:
        (B, C, ...), float32 or the wider dtype of the logits; -inf for absent classes. An image that is known to have
        no labels is background; without a background its logits stay.
    """
    if how == "ignore":
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    background = logits.shape[1] - tags.shape[1]
    possible = (tags > 0.5) | tags.isnan()
    if background == 0:
        possible = possible | ~possible.any(1, keepdim=True)
    possible = possible.view(*possible.shape, *[1] * (logits.ndim - 2))
    foreground = logits[:, background:]
    kept = foreground.masked_fill(~possible, -math.inf)
    if how == "share":
        gain = foreground.logsumexp(1, keepdim=True) - kept.logsumexp(1, keepdim=True)
        kept = kept + gain.masked_fill(~possible.any(1, keepdim=True), 0)
    return torch.cat([logits[:, :background], kept], 1)


@torch.inference_mode()
def respect_in_place(probabilities: Tensor, tags: np.ndarray, how: ImageLabels) -> None:
    """Changes whole images' probabilities (B, C, H, W) as `respect_labels` does; a row of nan leaves its image alone.

    Where no class that an image may show has any probability, all of them get the same.
    """
    if how == "ignore":
        return
    rows = max(STRIP_NUMBERS // (probabilities.shape[1] * probabilities.shape[3]), 1)
    least = torch.finfo(probabilities.dtype).tiny  # the logarithm of 0 has no ratio to others
    for number in np.flatnonzero(~np.isnan(tags).any(1)).tolist():
        labels = torch.from_numpy(tags[number : number + 1]).to(probabilities.device)
        for strip in probabilities[number : number + 1].split(rows, dim=2):
            strip.copy_(respect_labels(strip.clamp(min=least).log_(), labels, how).softmax(1))


def tags_of(dataset: Dataset, ids: Sequence[str]) -> np.ndarray:
    """The image-level labels of images as `respect_in_place` takes them, float32 (B, K)."""
    return np.stack([dataset.tags_vector(image_id) for image_id in ids])


def unknown_labels(dataset: Dataset, ids: Sequence[str], how: ImageLabels) -> str | None:
    """A message about images without known labels, which keep their probabilities; None without any."""
    known = sum(dataset.has_tags(image_id) and len(dataset.possible_classes(image_id)) > 0 for image_id in ids)
    if how == "ignore" or known == len(ids):
        return None
    return (
        f"{len(ids) - known:,} of {len(ids):,} images have no known labels: they are predicted as they are "
        f"(image_labels: {how})"
    )
