"""A network with BatchNorm on two processes' shares of eight maps.

two_processes.py computes it, test_distributed.py compares with torch's layer on all maps.
"""

from __future__ import annotations

import torch
from torch import nn

SHARES = (slice(0, 5), slice(5, 8))  # unequal


def network() -> nn.Module:
    """Conv, BatchNorm, ReLU, conv, BatchNorm without affine; weights that are no one's start."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2, affine=False)),
    )
    nn.init.uniform_(made[1].weight, 0.5, 2)
    nn.init.uniform_(made[1].bias, -1, 1)
    return made


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (8, 3, 5, 7), far from mean 0, and what the outputs are multiplied by."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(8, channels, 5, 7, generator=generator) for channels in (3, 2)]
    return draw[0] * 2 + 50, draw[1]


def computed(model: nn.Module, share: slice) -> dict[str, torch.Tensor]:
    """Two steps: output and gradient of the input in the second, sums of gradients and statistics of both."""
    images, factors = (values[share] for values in maps())
    images.requires_grad_()
    for _ in range(2):
        images.grad = None
        output = model(images)
        (output * factors).square().sum().backward()
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        evaluated = model.eval()(images)
    return {"output": output.detach(), "input": images.grad, "evaluated": evaluated, **gradients, **buffers}
