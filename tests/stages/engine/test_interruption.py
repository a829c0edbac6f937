"""stages/engine/interruption.py: the first signal is noted, the second acts, and what was before comes back."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from stages.engine import interruption
from stages.engine.interruption import Interruption


class SignalledError(Exception):
    """What the handler of these tests raises."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    def handler(signum, frame):
        raise SignalledError

    before = signal.signal(request.param, handler)
    yield request.param
    signal.signal(request.param, before)


def test_the_first_signal_is_noted_and_acts_when_told_to(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.asked is None
        interruption.act()  # nobody asked: nothing happens
        assert signal.getsignal(number) == before
    with Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert interruption.asked == number
        with pytest.raises(SignalledError):
            interruption.act()
    assert signal.getsignal(number) is before


def test_a_signal_that_nobody_acted_on_acts_at_the_end(number):
    def late():
        with Interruption():
            os.kill(os.getpid(), number)

    with pytest.raises(SignalledError):
        late()

    def failed():
        with Interruption():
            os.kill(os.getpid(), number)
            raise KeyError("another error is the one to tell")

    with pytest.raises(KeyError):
        failed()


def test_a_second_signal_acts_at_once(number, monkeypatch):
    monkeypatch.setattr(interruption, "SAME_S", 0.0)
    with Interruption() as noted:
        os.kill(os.getpid(), number)
        time.sleep(0.001)
        with pytest.raises(SignalledError):
            os.kill(os.getpid(), number)
        assert noted.asked is None


def test_a_signal_that_is_sent_twice_at_a_time_is_one(number):
    """A job's manager sends SIGTERM to all its processes, and the parent of one sends it again."""
    with Interruption() as noted:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert noted.asked == number
        noted.asked = None


def test_without_a_signal_what_was_before_comes_back(number):
    before = signal.getsignal(number)
    with Interruption():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before
    with Interruption(wanted=False):
        assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), number)
            assert interruption.asked is None
    finally:
        signal.signal(number, before)


def test_other_threads_leave_the_handlers_alone(number):
    before, seen = signal.getsignal(number), []

    def work():
        with Interruption():
            seen.append(signal.getsignal(number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
