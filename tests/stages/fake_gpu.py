"""Networks and tensors on a GPU that is not there.

Fake tensors compute shapes, dtypes and devices alone. An operation on tensors of two devices is an error there, and so
is reading a value (`item`, `if tensor`, boolean indexing), for which a program would wait for the GPU.

    with FakeTensorMode():
        move(network)
        network(fake(images))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

__all__ = ["DataDependentOutputException", "FakeTensorMode", "fake", "move"]


def fake(value: Tensor) -> Tensor:
    """A tensor like `value` on the GPU, with the strides of its own memory format."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


def move(network: nn.Module) -> None:
    """Every parameter and buffer to the GPU (`nn.Module.to` cannot do that to fake ones)."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fake(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
