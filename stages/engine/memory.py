"""The most memory that a training needs: the cost of a method in addition to time."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import torch

from stages.engine.device import release_freed_memory

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """The highest use of memory from now on: of tensors on a GPU, else the resident memory of the process.

    The latter is known on Linux only, and includes Python and its libraries (about 400 MiB).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        gc.collect()
        release_freed_memory()  # the peak of an earlier training
        try:
            _RESET.write_text("5")  # sets VmHWM to what is resident now (proc_pid_clear_refs(5))
        except OSError:
            self._known = False

    def mib(self) -> int | None:
        """MiB; None if it is not known."""
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20)
        with suppress(OSError, ValueError):
            for line in _STATUS.read_text().splitlines() if self._known else ():
                if line.startswith("VmHWM:"):
                    return round(int(line.split()[1]) / 1024)
        return None
