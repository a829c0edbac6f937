"""The shared parts of methods with a discriminator: its input, its loss, and training against it.

fake = probabilities(logits, batch.valid)
with frozen(discriminator):  # the segmenter learns, the discriminator does not
    fooled = real_or_fake(discriminator(fake), True, batch.valid)
caught = real_or_fake(discriminator(fake.detach()), False, batch.valid)  # now the discriminator learns
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.engine.distributed import global_mean
from stages.engine.losses import IGNORE


def one_hot(label: Tensor, num_classes: int) -> Tensor:
    """int64 (B, H, W) -> float (B, C, H, W), the input of a perfect prediction; zeros where the label is 255."""
    known = label != IGNORE
    planes = F.one_hot(label.masked_fill(~known, 0), num_classes).permute(0, 3, 1, 2)
    return planes.float() * known[:, None]


def probabilities(logits: Tensor, valid: Tensor) -> Tensor:
    """softmax(logits) (B, C, H, W), zeros on padding: there a mask is 255, and its planes are zeros too."""
    return logits.float().softmax(1) * valid[:, None]


def real_or_fake(scores: Tensor, real: bool, counted: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a discriminator's logits for one answer, a mean over the counted pixels (None: all).

    From logits, never from sigmoids: these saturate, and autocast refuses them.

    Args:
        scores: (B,) or (B, 1, H, W); counted: bool (B, H, W).
    """
    scores = scores.float()
    terms = F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(real)), reduction="none")
    if counted is None:
        return global_mean(terms.sum(), terms.numel())
    return global_mean((terms[:, 0] * counted).sum(), counted.sum())


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block gradients pass through the module, but not to its parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
