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

import torch
from torch import Tensor

from stages.engine.config import ImageLabels


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
