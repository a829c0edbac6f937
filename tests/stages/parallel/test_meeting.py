"""stages/parallel/meeting.py: barriers, values of all ranks, ranks that fail, die, come late or not at all."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from artifacts.errors import DataError, SemisegError
from stages.parallel import meeting as module
from stages.parallel.meeting import Meeting, RankFailedError
from tests.stages.forks import as_ranks


class FileStore:
    """A store in a folder: what ranks need of torch's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, key, value):
        temporary = self.folder / f"{os.getpid()}.tmp"
        temporary.write_text(value)
        temporary.rename(self.folder / key)

    def get(self, key):
        return (self.folder / key).read_bytes()

    def wait(self, keys, timeout):
        end = time.monotonic() + timeout.total_seconds()
        while not all((self.folder / key).exists() for key in keys):
            if time.monotonic() > end:
                raise RuntimeError("too long")
            time.sleep(0.005)


@pytest.fixture
def meet(tmp_path, monkeypatch):
    """meet(act, ranks): act(meeting, rank) in as many processes; their exit codes, and what they wrote to stderr."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def run(act, ranks=3, seconds=60):
        def ranked(rank):
            sys.stderr = (tmp_path / f"stderr-{rank}").open("w")
            store = FileStore(tmp_path)
            with Meeting(store, "key", rank, ranks) as meeting:
                act(meeting, rank)

        codes = as_ranks(ranked, ranks, seconds)
        files = [tmp_path / f"stderr-{rank}" for rank in range(ranks)]
        return codes, [file.read_text() if file.exists() else "" for file in files]

    return run


def test_all_get_the_values_of_all_in_the_order_of_the_ranks(meet):
    def act(meeting, rank):
        time.sleep(0.05 * (rank == 1))
        for number in range(20):
            assert meeting.exchange([number, rank]) == [[number, 0], [number, 1], [number, 2]]
        assert meeting.exchange("x" * 300_000)[2] == "x" * 300_000

    assert meet(act)[0] == [0, 0, 0]


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_one_is_raised_in_the_others_which_go_on(meet, failing, tmp_path):
    def act(meeting, rank):
        expected = DataError if rank == failing else RankFailedError
        with pytest.raises(expected) as caught, Meeting(FileStore(tmp_path), "inner", rank, 3) as inner:  # noqa: PT012
            inner.exchange()
            if rank == failing:
                raise DataError("a.png is damaged", "copy it again")
            inner.exchange()
        assert caught.value.hint == "copy it again"
        assert "a.png is damaged" in caught.value.message
        assert caught.value.message.startswith(f"rank {failing} (process ") == (rank != failing)
        meeting.exchange()

    assert meet(act)[0] == [0, 0, 0]


@pytest.mark.parametrize("dying", [0, 2])
def test_a_rank_that_is_killed_ends_the_others_at_once_whatever_they_do(meet, dying):
    """One waits at a barrier, one computes: each ends with its message by the first rank that is left."""

    def act(meeting, rank):
        meeting.exchange()
        if rank == dying:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1:
            time.sleep(60)
        meeting.exchange()

    begin = time.monotonic()
    codes, said = meet(act)
    assert time.monotonic() - begin < 30
    assert codes == [-signal.SIGKILL if rank == dying else module.DIED for rank in range(3)]
    heard = said[1 if dying == 0 else 0]
    assert f"error: rank {dying} (process " in heard
    assert "has died; the remaining ranks end, too\nhint: a rank that is killed (signal 9) usually had" in heard
    assert "the same command continues" in heard


def test_a_child_that_lives_on_hides_no_death(meet):
    """A forked reader of images inherits the connection of its rank, and ends later."""

    def act(meeting, rank):
        meeting.exchange()
        if rank == 1:
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        meeting.exchange()

    begin = time.monotonic()
    assert meet(act, ranks=2)[0] == [module.DIED, -signal.SIGKILL]
    assert time.monotonic() - begin < 15


def test_an_interruption_ends_all(meet):
    def act(meeting, rank):
        if rank == 1:
            with pytest.raises(KeyboardInterrupt), meeting:
                raise KeyboardInterrupt
            os._exit(130)
        meeting.exchange()

    assert meet(act, ranks=2)[0] == [module.DIED, 130]


def test_a_rank_that_nothing_wakes_ends_when_another_has_failed(meet, monkeypatch):
    """As in a collective operation on a GPU, which waits for the rank that failed."""
    monkeypatch.setattr(module, "SETTLE_S", 0.3)

    def act(meeting, rank):
        if rank == 1:
            raise DataError("a.png is damaged")
        threading.Event().wait(60)

    codes, said = meet(act, ranks=2)
    assert codes[0] == module.DIED
    assert "a.png is damaged; the remaining ranks end, too" in said[0]


def test_the_error_of_a_broken_collective_operation_is_that_of_the_rank_that_failed(meet):
    def act(meeting, rank):
        if rank == 1:
            raise DataError("a.png is damaged")
        time.sleep(0.1)
        with pytest.raises(RankFailedError, match=r"a\.png is damaged"), meeting:
            raise RuntimeError("connection closed by peer")
        os._exit(0)

    assert meet(act, ranks=2)[0][0] == 0


def test_who_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JOIN_S", 0.5)
    store = FileStore(tmp_path)

    def without_the_last(rank):
        if rank < 2:
            with Meeting(store, "key", rank, 3) as meeting:
                meeting.exchange()

    assert as_ranks(without_the_last, 3, 30) == [module.DIED, module.DIED, 0]
    with pytest.raises(SemisegError, match=r"rank 1 \(process \d+ on .*\): rank 0 has not come"):
        Meeting(store, "another", 1, 2)
    store.set("third", json.dumps({"names": ["127.0.0.1"], "port": 1, "secret": ""}))
    with pytest.raises(SemisegError, match=r"cannot reach rank 0 at 127\.0\.0\.1, port 1") as caught:
        Meeting(store, "third", 1, 2)
    assert "--master_addr" in caught.value.hint


def test_a_stranger_who_knows_no_secret_is_turned_away(meet):
    def act(meeting, rank):
        if rank == 0:
            port = meeting._server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(json.dumps({"secret": "guess", "rank": 1, "place": "here"}).encode() + b"\n")
                assert stranger.recv(10) == b""
        assert meeting.exchange(rank) == [0, 1]

    assert meet(act, ranks=2)[0] == [0, 0]
