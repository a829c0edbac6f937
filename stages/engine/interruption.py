"""Stopping a training between two steps, so that nothing of it is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SAME_S = 0.5  # a signal that is repeated within this time is one: a job's manager and the parent may both send it
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; the signal that batch systems send before they end a job


class Interruption:
    """Within it, the first SIGINT or SIGTERM is only noted, to be acted on at a good moment; a second one acts at once.

    with Interruption() as interruption:
        for ...:
            step()
            if interruption.asked:
                save()
                interruption.act()

    It does nothing where it is not `wanted`, and in threads other than the main one, which get no signals. A signal
    that the process was started to ignore (a shell's background job) stays ignored.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.asked: int | None = None
        self._asked_at = 0.0
        self._wanted = wanted and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if self._wanted:
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.act()  # a signal that came after the last good moment is not lost
        self._restore()

    def act(self) -> None:
        """What the signal would have done: KeyboardInterrupt, or the end of the process. Nothing if there was none."""
        number, self.asked = self.asked, None
        self._restore()
        if number is not None:
            os.kill(os.getpid(), number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self._asked_at = number, time.monotonic()
        elif time.monotonic() - self._asked_at > SAME_S:
            self.act()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
