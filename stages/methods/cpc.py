"""Cross probability consistency: what Chen et al. (CVPR 2021) compare CPS with, and GCT without its flaw detector.

Two networks of one architecture with different initial heads, as in cps. Each has to predict the probabilities of the
other instead of its labels; they pass no gradient. Network 1 is evaluated.

    semiseg train --method cpc
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.engine.losses import squared_difference
from stages.engine.teacher import sigmoid_ramp
from stages.methods.cps import Cps


class Cpc(Cps):
    """L = CE(f1(x), y) + CE(f2(x), y) + lambda r(t) [mean_V (P1(z) - P2(z))^2 + mean_V (P2(z) - P1(z))^2].

    P = softmax(f), the second of each pair without gradient. z is labelled and unlabelled pictures together; with
    CutMix the mixed unlabelled pictures, and the other's P those of both pictures, mixed with the same boxes.
    """

    def weight(self, step: int) -> float:
        """lambda r(t)."""
        return self.settings.weight * sigmoid_ramp(step, round(self.settings.ramp * self.setup.iterations))

    def cross(self, logits: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        counted = valid if self.settings.ignore_padding else torch.ones_like(valid)
        return squared_difference(logits.softmax(1), other.softmax(1), counted, reduction=self.settings.reduction)
