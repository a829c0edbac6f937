"""Averaged copies of a network (mean teachers, published averages) and ramps of unlabelled weights."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from stages.engine.config import TeacherSettings
from stages.networks import Segmenter


class Teacher(nn.Module):
    """A copy of a student that no gradient reaches. `update` after each optimiser step averages the student into it.

    `teacher(images)` gives what the student's forward would, without a graph. In mode eval it stays in eval mode, also
    while everything around it trains.
    """

    def __init__(self, student: nn.Module, settings: TeacherSettings) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.settings = settings
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(mode and self.settings.mode == "train")

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @property
    def stride(self) -> int:
        """Input pixels per cell of the logits, as of a segmenter."""
        return cast(Segmenter, self.network).stride

    def update(self, student: nn.Module, step: int) -> None:
        """To be called after the optimiser step `step` (from 0)."""
        settings = self.settings
        update_average(
            self.network, student, settings.decay, step, settings.average == "parameters", warmup=settings.warmup
        )


@torch.no_grad()
def update_average(
    average: nn.Module,
    network: nn.Module,
    decay: float,
    step: int,
    parameters_only: bool = False,
    warmup: bool = True,
) -> None:
    """theta' <- a theta' + (1 - a) theta with a = min(1 - 1/(t + 1), decay), parameters and buffers alike.

    `step` t counts from 0, so that the first call copies; without `warmup` a is `decay` at every step. Integer buffers
    (BatchNorm's counter) are copied. With `parameters_only` buffers stay what `average` made them itself.
    """
    keep = min(1 - 1 / (step + 1), decay) if warmup else decay
    if parameters_only:
        sides = [list(module.parameters()) for module in (average, network)]
    else:  # keep_vars: without a call of torch for each tensor
        sides = [list(module.state_dict(keep_vars=True).values()) for module in (average, network)]
    pairs = {id(old): (old, new) for old, new in zip(*sides, strict=True)}.values()  # a tied weight has several names
    floats, others = ([pair for pair in pairs if pair[0].is_floating_point() == wanted] for wanted in (True, False))
    if floats:  # one operation over all tensors
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - keep)
    if others:
        torch._foreach_copy_([old for old, _ in others], [new for _, new in others])


def sigmoid_ramp(step: int, length: int) -> float:
    """exp(-5 (1 - t/T)^2): 0.0067 at step 0, 1 from `length` on; 1 for length 0 (Laine & Aila, ICLR 2017)."""
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(max(step / length, 0.0), 1.0)) ** 2)
