"""What a training step or a stage does: its arithmetic, and where its time goes."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.gpu.place import Place

ROOT = Path(__file__).parents[2]
EVERY_S = 0.005  # the main thread is looked at
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
    """Device time, torch calls and waiting for batches between `begin` and `end`, of `steps` steps or images.

    calls: whether torch's calls are noted, too, which costs the host time.
    """

    def __init__(self, place: Place, steps: int, calls: bool = True) -> None:
        self.place, self.steps, self.calls = place, steps, calls

    def begin(self) -> None:
        self.place.wait()
        activities = [ProfilerActivity.CUDA] if self.place.on_gpu else []
        if self.calls or not activities:
            activities.append(ProfilerActivity.CPU)
        self._profile = profile(activities=activities)
        self._profile.__enter__()

    def end(self) -> None:
        self.place.wait()
        self._profile.__exit__(None, None, None)

    def _events(self) -> list[Any]:
        """As the profiler has noted them; its own list of them takes many times longer."""
        found = self._profile.profiler
        return found.kineto_results.events() if found is not None and found.kineto_results is not None else []

    def figures(self) -> dict[str, float]:
        """For a step: ms of work on the device, ms that the loop waits for its batch, torch calls, kernel launches."""
        events = [(event.name(), event.duration_ns() / 1e6) for event in self._events()]
        waiting = sum(ms for name, ms in events if name.startswith(LOADER))
        calls = sum(name.startswith("aten::") for name, _ in events)
        launches = sum("LaunchKernel" in name for name, _ in events)
        found = {"loader ms": waiting, "calls": calls, "launches": launches}
        return {"device ms": self.device_ms()} | {name: value / self.steps for name, value in found.items()}

    def kernels(self, count: int = 12) -> list[tuple[str, float]]:
        """The kernels that take longest, with their ms a step."""
        total: Counter[str] = Counter()
        for event in self._on_device():
            total[event.name()[:90]] += event.duration_ns()
        return [(name, round(ns / 1e6 / self.steps, 3)) for name, ns in total.most_common(count)]

    def _on_device(self) -> list[Any]:
        events = [event for event in self._events() if event.device_type() == DeviceType.CUDA]
        return [event for event in events if not event.is_user_annotation() and "#" not in event.name()]

    def device_ms(self) -> float:
        """Of a step: time in which at least one kernel or copy runs."""
        busy, end = 0, 0
        for begin, until in sorted((e.start_ns(), e.start_ns() + e.duration_ns()) for e in self._on_device()):
            busy += max(until - max(begin, end), 0)
            end = max(end, until)
        return busy / 1e6 / self.steps


class MainThread:
    """Where the thread that begins it spends its time: in which of our functions, called ones included.

    The innermost of our functions on its stack counts; it may wait there for the device, for decoding threads or for
    a pool.
    """

    def __enter__(self) -> MainThread:
        self.found: list[tuple[float, str]] = []  # when, and where
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self, thread: int) -> None:
        while not self._over.wait(EVERY_S):
            frame: FrameType | None = sys._current_frames().get(thread)
            while frame is not None and not _is_ours(frame):
                frame = frame.f_back
            if frame is not None:
                where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
                self.found.append((time.perf_counter(), where))

    def shares(self, begin: float, end: float, count: int = 12) -> list[tuple[str, float]]:
        """The functions with the longest times from `begin` to `end`, and their share of all."""
        seen = Counter(where for when, where in self.found if begin <= when <= end)
        return [(name, round(number / seen.total(), 3)) for name, number in seen.most_common(count)]


def _is_ours(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(str(ROOT)) and "site-packages" not in file


def empty_gpu() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
