"""What a training step does: its arithmetic, and where its time goes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.gpu.place import Place

LOADER = "enumerate(DataLoader)"  # begins torch's own name of waiting for the next batch


class Arithmetic:
    """FLOPs of what runs between `begin` and `end`, backward passes included."""

    flops = 0

    def begin(self) -> None:
        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()

    def end(self) -> None:
        self._counter.__exit__(None, None, None)
        self.flops = self._counter.get_total_flops()


class Profile:
    """Device time, torch calls and waiting for batches between `begin` and `end`, of `steps` steps."""

    def __init__(self, place: Place, steps: int) -> None:
        self.place, self.steps = place, steps

    def begin(self) -> None:
        self.place.wait()
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.place.on_gpu else [])
        self._profile = profile(activities=activities)
        self._profile.__enter__()

    def end(self) -> None:
        self.place.wait()
        self._profile.__exit__(None, None, None)

    def figures(self) -> dict[str, float]:
        """For a step: ms of work on the device, ms that the loop waits for its batch, torch calls, kernel launches."""
        events = self._profile.events() or []
        waiting = sum(event.cpu_time_total for event in events if event.name.startswith(LOADER)) / 1e3
        calls = sum(event.name.startswith("aten::") for event in events)
        launches = sum("LaunchKernel" in event.name for event in events)
        found = {"device ms": self._device_us() / 1e3, "loader ms": waiting, "calls": calls, "launches": launches}
        return {name: value / self.steps for name, value in found.items()}

    def kernels(self, count: int = 12) -> list[tuple[str, float]]:
        """The kernels that take longest, with their ms a step."""
        total: Counter[str] = Counter()
        for event in self._on_device():
            total[event.name[:90]] += event.time_range.elapsed_us()
        return [(name, round(us / 1e3 / self.steps, 3)) for name, us in total.most_common(count)]

    def _on_device(self) -> list[Any]:
        events = [e for e in self._profile.events() or [] if e.device_type == DeviceType.CUDA]
        return [e for e in events if not getattr(e, "is_user_annotation", False) and "#" not in e.name]

    def _device_us(self) -> float:
        """Time in which at least one kernel or copy runs."""
        busy, end = 0.0, 0.0
        for event in sorted(self._on_device(), key=lambda event: event.time_range.start):
            begin, until = max(event.time_range.start, end), event.time_range.end
            busy += max(until - begin, 0)
            end = max(end, until)
        return busy


def empty_gpu() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
