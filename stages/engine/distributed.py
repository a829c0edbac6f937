"""Several processes under torchrun: the process group, and means over the joint batch.

Gradients are averaged over the processes by DistributedDataParallel. A loss that is a mean over a varying number of
pixels must therefore be divided by the number of pixels of the *joint* batch, or the average of the processes' means
would differ from the mean one process computes. `global_mean` does that; every loss uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from artifacts.errors import ConfigError


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Joins the group torchrun describes in the environment: NCCL on GPUs, gloo on CPUs."""
    on_gpu = torch.cuda.is_available() and device != "cpu"
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        if on_gpu:
            import os

            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def global_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """`total / count` over the joint batch, scaled so that averaging gradients over processes is right.

    Args:
        total: this process's sum (a scalar with gradient).
        count: how many terms this process summed. If nobody has any, the result is 0 with zero gradient.
    """
    number = torch.as_tensor(count, dtype=torch.float32, device=total.device)
    if world_size() > 1:
        number = number.clone()
        dist.all_reduce(number)
        number = number / world_size()
    return torch.where(number > 0, total / number.clamp(min=1e-12), total * 0)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes (no gradient)."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def share_of_batch(batch_size: int, what: str = "batch_size") -> int:
    """How many of `batch_size` pictures this process takes. ConfigError when they do not divide evenly."""
    if batch_size % world_size():
        raise ConfigError(
            f"{what} {batch_size} does not divide into {world_size()} processes",
            f"choose a multiple of {world_size()}",
        )
    return batch_size // world_size()
