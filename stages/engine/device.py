"""Chooses a device and an arithmetic, and describes them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.errors import ConfigError

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
UNPINNED = 64 << 10  # bytes that cudaMemcpyAsync takes from any memory at once (CUDA: API synchronization behavior)


def select_device(name: str) -> torch.device:
    """ "auto": the GPU of this process if there is one, else the CPU. ConfigError for one that does not exist.

    A process that is to compute on the CPU keeps the memory it frees from now on, see `keep_freed_memory`.
    """
    device = named_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Keeps the memory of freed tensors in the process, since every step needs the same amount again.

    Without this, glibc returns it to the system, which clears it page by page for the next tensor: a tenth of the
    time of a step of a small network. Only single tensors of 32 MiB or more still come from the system. No effect
    without glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Returns the memory kept so far to the system. No effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def named_device(name: str) -> torch.device:
    """As `select_device`, without a change to the process."""
    if name == "auto":
        return (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is not a device", "use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch sees no CUDA GPU here", "use --device cpu, or install a CUDA build")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: there are {torch.cuda.device_count()} GPUs", "count from cuda:0")
    return device


def sent(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device, without waiting for what it still computes.

    A GPU takes up to 64 KiB at once; of more it would first finish its work, unless they lie in pinned memory.
    """
    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.nbytes > UNPINNED:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def describe_device(device: torch.device) -> str:
    """A description of the device, for manifests and messages."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16. Without them it is emulated, more slowly than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()  # what has AMX has this, too
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast_dtype(
    precision: str, device: torch.device, note: Callable[[str], None] | None = None
) -> torch.dtype | None:
    """The autocast type for a `precision` of the config; None: plain fp32.

    note: is told where bf16 was asked for, and the device is slow in it.
    """
    if precision == "fp32":
        return None
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bf16(device) else None
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("precision fp16 needs a GPU", "use precision=auto, fp32 or bf16")
    if note is not None and precision == "bf16" and not has_bf16(device):
        note("this device has no instructions for bf16, which takes up to ten times as long as precision: fp32 here")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
