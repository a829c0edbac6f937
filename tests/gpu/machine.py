"""The machine: what it is, and its ceilings as they are reached."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import torch

from artifacts.provenance import package_versions
from stages.contract import default_workers
from tests.gpu.place import Place


def machine(place: Place) -> None:
    with place.rows.guarded("what it is"):
        place.rows.add("what it is", _description(place), versions=package_versions(), platform=platform.platform())
    with place.rows.guarded("ceilings"):
        side = place.size(8192, 256)
        block = torch.empty(place.size(1 << 30, 1 << 20), dtype=torch.uint8, device=place.device)
        target = torch.empty_like(block)
        copy = place.seconds(lambda: target.copy_(block), 10)
        small = torch.zeros(8, device=place.device)
        calls = place.size(2000, 50)
        call = place.seconds(lambda: [small.add_(1) for _ in range(calls)], 3)
        place.rows.add(
            "ceilings",
            {
                f"bf16 product of {side} TFLOP/s": peak_flops(place) / 1e12,
                "copy GB/s (read and written)": 2 * block.numel() / copy / 1e9,
                "us a torch call": 1e6 * call / calls,
            },
        )


def _description(place: Place) -> dict[str, str]:
    found = {"card": "none", "torch": torch.__version__, "Python": platform.python_version()}
    if place.on_gpu:
        card = torch.cuda.get_device_properties(0)
        major, minor = torch.cuda.get_device_capability()
        found |= {
            "card": card.name,
            "memory": f"{card.total_memory / 2**30:.0f} GiB",
            "capability": f"{major}.{minor}",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    shared = Path("/dev/shm")
    return found | {
        "cores": f"{default_workers()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "/dev/shm": f"{shutil.disk_usage(shared).total / 2**30:.1f} GiB" if shared.is_dir() else "none",
    }


def peak_flops(place: Place) -> float:
    """FLOP/s of a large bf16 matrix product of random numbers, measured once for all steps."""
    file = place.folder / "peak.json"
    if file.is_file():
        return float(json.loads(file.read_text()))
    side = place.size(8192, 256)
    left, right = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side**3 / place.seconds(lambda: left @ right, 20)
    file.write_text(json.dumps(peak))
    return peak
