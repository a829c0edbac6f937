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
    """L = CE(f_1(x), y) + CE(f_2(x), y) + lambda r(t) [MSE(P_1(z), sg P_2(z)) + MSE(P_2(z), sg P_1(z))]

    P = softmax f, sg: no gradient, r: a sigmoid ramp. z is labelled and unlabelled images together; with CutMix the
    mixed unlabelled images, and sg P those of both images, mixed with the same boxes. sg P is shared among an image's
    own labels before that: `image_labels`.
    """

    def weight(self, step: int) -> float:
        """lambda r(t)."""
        return self.settings.weight * sigmoid_ramp(step, round(self.settings.ramp * self.setup.iterations))

    def cross(self, logits: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        counted = valid if self.settings.ignore_padding else torch.ones_like(valid)
        return squared_difference(logits.softmax(1), other.softmax(1), counted, reduction=self.settings.reduction)
