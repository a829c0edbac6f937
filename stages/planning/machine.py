"""This machine: device, free memory, cores, and the weights that it already has."""

from __future__ import annotations

import os
from pathlib import Path

from stages.contract import default_workers
from stages.planning.records import GIB, Machine

CPU_SHARE = 0.8  # of the available memory: the rest is left to the system and to other programs
GPU_SHARE = 0.9  # of the free memory of a GPU: the rest is fragmentation, and libraries that load later

# the files of torchvision's IMAGENET1K_V1 weights in the cache of torch.hub
PUBLISHED = {
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "vgg16": "vgg16-397923af.pth",
}


def this_machine(device: str = "auto", memory: int | None = None, cores: int | None = None) -> Machine:
    """The machine as it is now. memory: bytes that may be used at most, instead of what is free."""
    cores = default_workers() if cores is None else cores
    cached = cached_weights()
    if device != "cpu" and (gpu := _gpu(device)):
        name, free, bf16 = gpu[1:]
        limit = min(memory or free, free)
        return Machine(gpu[0], name, int(GPU_SHARE * limit), cores, bf16, cached)
    available = available_memory()
    limit = min(memory or available, available)
    share = 1.0 if memory is not None and memory <= available else CPU_SHARE
    return Machine("cpu", "cpu", int(share * limit), cores, _has_bf16("cpu"), cached)


def _gpu(device: str) -> tuple[str, str, int, bool] | None:
    """(device, name, bytes free, bf16) of the GPU that "auto" or a name means; None without one."""
    import torch

    from stages.engine.device import select_device

    chosen = select_device(device)
    if chosen.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(chosen)
    index = chosen.index or 0
    return f"cuda:{index}", torch.cuda.get_device_name(chosen), free, _has_bf16(f"cuda:{index}")


def _has_bf16(device: str) -> bool:
    import torch

    from stages.engine.device import has_bf16

    return has_bf16(torch.device(device))


def available_memory() -> int:
    """Bytes that new processes can use: what the system has free, and what the limit of this container leaves."""
    found = [value for value in (_of_system(), *_of_container()) if value is not None]
    return min(found, default=4 * GIB)


def _of_system() -> int | None:
    table = Path("/proc/meminfo")
    if not table.is_file():
        return None
    lines = (line.split() for line in table.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def _of_container() -> list[int]:
    """What the limits of cgroup v2 and v1 leave, those that are set; cached files make room when it is needed."""
    left = []
    for limit, used, cache, folder in (
        ("memory.max", "memory.current", "inactive_file", Path("/sys/fs/cgroup")),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", Path("/sys/fs/cgroup/memory")),
    ):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max"
            continue
        left.append(max(most - now + int(figures.get(cache, 0)), 0))
    return left


def cached_weights() -> tuple[str, ...]:
    """The backbones whose ImageNet weights torchvision has downloaded earlier."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch")
    folder = Path(home).expanduser() / "hub" / "checkpoints"
    return tuple(backbone for backbone, file in PUBLISHED.items() if (folder / file).is_file())
