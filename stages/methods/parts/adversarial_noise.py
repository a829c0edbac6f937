"""Virtual adversarial noise: the direction in which a small change of the input changes a prediction most.

    direction = adversarial_direction(predict, x, start, xi=1.0)
    changed = predict(x + radius * direction)

Miyato et al., PAMI 2019, section 3.3: one or more steps of the power method on the second derivative of the distance.
Only the noise is differentiated (`torch.autograd.grad`): no parameter's gradient is touched. All in single precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """sum sum_c Q_c (log Q_c - log softmax(logits)_c) over images and pixels; logits, target Q (B, C, ...)."""
    return (torch.xlogy(target, target) - target * logits.log_softmax(1)).sum()


def unit_length(x: Tensor) -> Tensor:
    """x / ||x||_2 of each image, shape (B, ...); zeros stay zeros."""
    lengths = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
    return x / lengths.clamp(min=torch.finfo(x.dtype).tiny)


def adversarial_direction(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    xi: float | Tensor,
    iterations: int = 1,
    distance: Distance = kl_divergence,
) -> Tensor:
    """The unit direction (B, ...) in which the distance from the clean prediction grows fastest, without a graph.

    Each iteration: d <- g / ||g||, g = gradient of distance(predict(x + xi d), softmax(predict(x))) by d. Images do not
    depend on each other, so a batch may be distributed over processes. A flat distance gives zeros.

    Args:
        predict: x -> logits (B, C, ...); in eval mode (`evaluating`), since dropout and BatchNorm would change the
            prediction.
        x: (B, ...); start: random noise of the same shape.
        xi: length of the probing step, or one for each image, broadcast over x. It must not vanish next to x: single
            precision has seven digits.
        distance: (logits, clean probabilities) -> a sum over images.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, direction = x.detach().float(), unit_length(start.float())
        with torch.no_grad():
            clean = predict(x).softmax(1)
        for _ in range(iterations):
            with torch.enable_grad():
                noise = direction.detach().requires_grad_()
                found = distance(predict(x + xi * noise), clean)
                (slope,) = torch.autograd.grad(found, noise)
            direction = unit_length(slope)
    return direction.detach()
