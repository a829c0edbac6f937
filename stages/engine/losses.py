"""Losses shared by several methods. Each is one formula; means are over the joint batch of all processes."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from artifacts.masks import IGNORE
from stages.engine.config import ClampSettings
from stages.engine.distributed import gather, global_mean, sum_over_processes
from stages.engine.watching import taught


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pixel-wise cross-entropy: -1/N sum_u w_u log softmax(logits_u)[label_u], N the number of pixels not 255.

    Args:
        logits: (B, C, H, W), already at the label's size.
        label: int64 (B, H, W), 255 is left out. With no labelled pixel at all the loss is 0.
        weight: float (B, H, W), or None for ones; it is not part of N.
    """
    pixels = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    taught(pixels, logits, label, weight)
    if weight is not None:
        pixels = pixels * weight
    return global_mean(pixels.sum(), (label != IGNORE).sum())


def clamped_cross_entropy(
    logits: Tensor, label: Tensor, clamp: ClampSettings, estimated: Tensor, weight: Tensor | None = None
) -> Tensor:
    """`cross_entropy` in which no pixel of an estimated mask loses more than the pixels around it do on average.

    Once the mean loss on estimated masks is low enough, their wrong pixels are those with a high loss. The limit of a
    pixel is the mean loss of its patch, over all estimated masks of the joint batch, or that of all patches where this
    is more; pixels above it pass no gradient (Zhu et al. 2023, WeakTr: gradient clipping decoder; its code divides by
    all pixels, with those of label 255 as zeros).

    Args:
        logits: (B, C, H, W); label: int64 (B, H, W), 255 is left out.
        estimated: bool (B,), the images whose masks are estimated.
        weight: as in `cross_entropy`; limits are of losses without it.
    """
    losses = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    taught(losses, logits, label, weight)
    known = label != IGNORE
    rows, columns = (patch_members(side, clamp.patches, losses) for side in label.shape[1:])
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):  # 16 bits cannot hold counts of pixels
        counted = (known & estimated[:, None, None]).to(losses.dtype)
        sums = torch.stack([rows.T @ (losses * counted).sum(0) @ columns, rows.T @ counted.sum(0) @ columns])
        patch_sums, patch_counts = sum_over_processes(sums)  # (patches, patches) each
        mean = patch_sums.sum() / patch_counts.sum().clamp(min=1)
        limits = (patch_sums / patch_counts.clamp(min=1)).clamp(min=mean)
        limit = torch.where(mean <= clamp.start, rows @ limits @ columns.T, math.inf)  # (H, W)
        above = estimated[:, None, None] & (losses > limit)
    pixels = torch.where(above, limit, losses)
    return global_mean((pixels if weight is None else pixels * weight).sum(), known.sum())


def patch_members(side: int, patches: int, like: Tensor) -> Tensor:
    """(side, patches), 1 where a row of pixels is in a patch, as near to equal in size as whole pixels allow."""
    return F.one_hot(torch.arange(side, device=like.device) * patches // side, patches).to(like.dtype)


def hard_cross_entropy(logits: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Cross-entropy over the hard pixels of the joint batch (OHEM; Shrivastava et al., CVPR 2016, per pixel).

    Hard: the true class has a probability below `threshold`, or one of the `min_kept` lowest; pixels with equal
    probabilities are taken together.

    Args:
        logits: (B, C, H, W); label: int64 (B, H, W), 255 is left out.
    """
    known = label != IGNORE
    losses = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    with torch.no_grad():
        found = losses.masked_fill(~known, -math.inf).flatten()  # not `losses[known]`: its size waits for a GPU
        hardest = found.topk(min(min_kept, found.numel())).values
        joint = gather(F.pad(hardest, (0, min_kept - len(hardest)), value=-math.inf))
        # the loss of the last of the `min_kept` pixels; a probability below p is a loss above -log p
        limit = joint.topk(min_kept).values[-1]
        hard = known & ((losses > -math.log(threshold)) | (losses >= limit))
    taught(losses, logits, label, hard)
    return global_mean((losses * hard).sum(), hard.sum())


def squared_difference(
    found: Tensor,
    target: Tensor,
    valid: Tensor,
    weight: Tensor | None = None,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Squared difference of two maps, a mean over valid pixels: 1/|V| sum_V w sum_c (P - Q)^2.

    Args:
        found, target: (B, C, H, W); no gradient passes to `target`.
        valid: bool (B, H, W); weight: float (B, H, W), it does not enter |V|.
        reduction: over the classes. "mean", the mean over all elements that some codes use, is "sum" divided by C.
    """
    pixels = (found.float() - target.detach().float()).square()
    pixels = pixels.sum(1) if reduction == "sum" else pixels.mean(1)
    taught(pixels, found, target, valid if weight is None else valid * weight)
    if weight is not None:
        pixels = pixels * weight
    return global_mean((pixels * valid).sum(), valid.sum())


def confident_squared_difference(
    found: Tensor,
    target: Tensor,
    valid: Tensor,
    threshold: float,
    per_pixel: bool = False,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """`squared_difference` weighted by the confidence of the target (French et al., BMVC 2020).

    The weight is one number: the share of pixels of the joint batch, padding included, whose highest probability in
    `target` reaches `threshold`. With `per_pixel` it is 1 on these pixels and 0 elsewhere.
    """
    confident = (target.detach().amax(1) >= threshold).float()
    if per_pixel:
        return squared_difference(found, target, valid, confident, reduction)
    reached, pixels = sum_over_processes(torch.stack([confident.sum(), torch.ones_like(confident).sum()]))
    return reached / pixels * squared_difference(found, target, valid, reduction=reduction)


def share(chosen: Tensor, among: Tensor) -> Tensor:
    """The share of `among` that is `chosen`, 0..1, in this process; 0 if `among` is empty. Both bool, of one shape."""
    return (chosen & among).sum() / among.sum().clamp(min=1)


def soft_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """-1/|V| sum_V sum_c Q_c log softmax(logits)_c for probabilities Q, without gradient to them.

    Args:
        logits, target: (B, C, H, W); valid: bool (B, H, W).
    """
    pixels = -(target.detach().float() * logits.float().log_softmax(1)).sum(1)
    taught(pixels, logits, target, valid)
    return global_mean((pixels * valid).sum(), valid.sum())


def multilabel_soft_margin(logits: Tensor, tags: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean over images and classes of the binary cross-entropy with logits (torch's MultiLabelSoftMarginLoss).

    Args:
        logits: (B, K) scores of the foreground classes.
        tags: float (B, K), 1 where the class is present.
        known: bool (B,), the images that are included; None: all.
    """
    terms = F.binary_cross_entropy_with_logits(logits.float(), tags, reduction="none").mean(1)
    if known is None:
        return global_mean(terms.sum(), len(terms))
    return global_mean((terms * known).sum(), known.sum())
