"""Losses on two processes' shares of four images: two_processes.py computes them, test_distributed.py compares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stages.engine.losses import hard_cross_entropy, soft_cross_entropy, squared_difference

SHARES = (slice(0, 1), slice(1, 4))  # unequal, as the numbers of labelled and valid pixels are


def images() -> dict[str, Tensor]:
    """Four images, some with few labels or valid pixels, or without any."""
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, (4, 7, 6), generator=random)
    label[0, 4:], label[1], label[2, 1:] = 255, 255, 255
    return {
        "logits": 3 * torch.randn(4, 5, 7, 6, generator=random),
        "label": label,
        "later": torch.cat([torch.full_like(label[:1], 255), label[1:]]),
        "target": torch.randn(4, 5, 7, 6, generator=random).softmax(1),
        "valid": torch.rand(4, 7, 6, generator=random) < torch.tensor([0.2, 0.5, 0.9, 0.0]).view(4, 1, 1),
        "weight": torch.rand(4, 7, 6, generator=random),
    }


def hard(threshold: float, min_kept: int, label: str = "label") -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda given: hard_cross_entropy(given["logits"], given[label], threshold, min_kept)


LOSSES: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "few by threshold": hard(0.02, 1),
    "by threshold": hard(0.3, 1),
    "by number": hard(0.001, 20),
    "more than there are": hard(0.001, 1000),
    "labels in one process alone": hard(0.001, 20, "later"),
    "squared": lambda given: squared_difference(
        given["logits"].softmax(1), given["target"], given["valid"], given["weight"]
    ),
    "soft": lambda given: soft_cross_entropy(given["logits"], given["target"], given["valid"]),
}


def computed(share: slice) -> dict[str, tuple[Tensor, Tensor]]:
    """Each loss and its gradient by the logits."""
    found = {}
    for name, loss in LOSSES.items():
        given = {key: value[share] for key, value in images().items()}
        given["logits"].requires_grad_()
        value = loss(given)
        found[name] = value.detach(), torch.autograd.grad(value, given["logits"])[0]
    return found
