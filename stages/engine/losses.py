"""Losses that several methods share. Each is one formula; means run over the joint batch of all processes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stages.engine.distributed import global_mean

IGNORE = 255


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pixel-wise cross-entropy: -1/N sum_u w_u log softmax(logits_u)[label_u], N the number of pixels not 255.

    Args:
        logits: (B, C, H, W), already at the label's size.
        label: int64 (B, H, W), 255 is left out. With no labelled pixel at all the loss is 0.
        weight: float (B, H, W), or None for ones; it does not enter N.
    """
    pixels = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        pixels = pixels * weight
    return global_mean(pixels.sum(), (label != IGNORE).sum())


def multilabel_soft_margin(logits: Tensor, tags: Tensor) -> Tensor:
    """Mean over pictures and classes of the binary cross-entropy with logits (torch's MultiLabelSoftMarginLoss).

    Args:
        logits: (B, K) scores of the foreground classes.
        tags: float (B, K), 1 where the class is present.
    """
    terms = F.binary_cross_entropy_with_logits(logits.float(), tags, reduction="sum")
    return global_mean(terms, tags.numel())
