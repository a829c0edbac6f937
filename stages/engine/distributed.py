"""Several processes under torchrun: where they meet, the process group, and means over the joint batch.

Gradients are averaged over the processes by DistributedDataParallel. A loss that is a mean over a varying number of
pixels must therefore be divided by the number of pixels of the *joint* batch, or the average of the processes' means
would differ from the mean that one process computes. `global_mean` does this; every loss uses it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import traceback
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from artifacts.errors import ConfigError
from stages.parallel.meeting import Meeting, barrier

# How long a collective operation waits for a process that writes alone. Those that die are noticed by the meeting.
LONGEST_WAIT = timedelta(days=7)

_numbers = itertools.count()  # of meetings and groups, which have keys of their own in the store


@functools.cache
def _rendezvous() -> tuple[dist.Store, int, int]:
    """The store that all processes share, rank and number of processes: read once from the environment of torchrun."""
    return next(dist.rendezvous("env://"))


def meeting() -> Meeting:
    """Of all processes that torchrun describes in the environment: `with meeting():`."""
    store, number, size = _rendezvous()
    return Meeting(store, f"semiseg/{next(_numbers)}", number, size)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Joins the processes of a meeting to a group: NCCL on GPUs, gloo on CPUs. Each stage joins anew."""
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"torchrun started at least {local + 1} processes here, for {there} GPUs", f"--nproc_per_node {there}"
            )
        torch.cuda.set_device(local)
    store, number, size = _rendezvous()
    # Every group has keys of its own: otherwise a later group would find the addresses of an earlier one.
    own = dist.PrefixStore(f"semiseg/{next(_numbers)}", store)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=own, rank=number, world_size=size, timeout=LONGEST_WAIT)
    try:
        yield
        barrier()  # nobody closes a connection that another still uses
    except Exception as error:
        # The frames hold what trains, and that the group: its connections would stay open, and the others wait on.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def global_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """`total / count` over the joint batch, scaled so that averaging gradients over processes is right.

    Args:
        total: this process's sum (a scalar with gradient).
        count: how many terms this process summed. If no process has any, the result is 0 with zero gradient.
    """
    # not `as_tensor`, whose copy of a number of the CPU would wait for a GPU
    number = count.float() if isinstance(count, Tensor) else torch.full((), float(count), device=total.device)
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


def least_over_processes(values: Tensor) -> Tensor:
    """The smallest value of each element over all processes (no gradient)."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MIN)
    return values


def gather(values: Tensor) -> Tensor:
    """The values (n,) of all processes one after the other; n is the same in all of them (no gradient)."""
    if world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)
