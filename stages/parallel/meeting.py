"""Where the ranks of torchrun meet: barriers that may take days, and the news that a rank has died or failed.

    with Meeting(store, "semiseg/1", rank, size) as meeting:
        values = meeting.exchange(own)          # of all ranks, in their order; waits until all are here

Each rank holds a connection to rank 0. The kernel closes it when the process ends, and when a machine does not answer
for half a minute, whatever the processes compute: there is no heartbeat that a busy process could miss. When a rank
dies, the others end at once with a message: what is written is whole, and the same command continues. When the work of
a rank fails by an error, `exchange` raises it in the others, and a recipe goes on with its next node.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol

from artifacts.errors import SemisegError
from artifacts.text import visible

JOIN_S = 600.0  # how long ranks may come after each other: loading Python from a slow disk takes minutes
SETTLE_S = 40.0  # how long a rank may take to leave work in which another has failed; then it ends
UNANSWERED_S = 30  # after which a machine that does not answer counts as gone
REACH_S = 10.0  # for one attempt to reach rank 0
MOST = 1 << 24  # bytes of a message
DIED = 3  # the exit code
KILLED = (
    "a rank that is killed (signal 9) usually had too little memory: use fewer workers, or smaller batches; finished "
    "items are kept: the same command continues"
)

_ending = threading.Lock()  # one thread alone ends the process


class Store(Protocol):
    """What is needed of torch's key-value store."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


class RankFailedError(SemisegError):
    """A different rank has failed; its message is in this one's."""


class Meeting:
    """All ranks, from the moment that they come here until they leave.

    Left by an error, the others raise RankFailedError; left by an interruption, which no rank survives alone, they end.
    """

    def __init__(self, store: Store, key: str, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._changed = threading.Condition()
        self._round = 0
        self._answers: dict[int, list[Any]] = {}  # round -> the values of all ranks
        self._arrived: dict[int, dict[int, Any]] = {}  # round -> those that are here; rank 0 alone keeps it
        self._failure: tuple[str, str | None] | None = None
        self._lines: dict[int, _Line] = {}  # of rank 0 to every rank, of every rank to rank 0
        self._places: dict[int, str] = {}
        self._left: set[int] = set()
        self._over = self._closed = False
        if rank == 0:
            self._server = _listening()
            self._secret = secrets.token_hex(16)
            names = [os.environ.get("MASTER_ADDR", ""), socket.gethostname(), socket.getfqdn()]
            where = {"names": list(dict.fromkeys(filter(None, names))), "port": self._server.getsockname()[1]}
            store.set(key, json.dumps(where | {"secret": self._secret}))
            _thread(self._receive)
        else:
            try:
                store.wait([key], timedelta(seconds=JOIN_S))
                where = json.loads(store.get(key))
            except RuntimeError as error:  # torch's, of a wait that is too long or a store that is gone
                raise SemisegError(f"rank {rank} ({_place()}): rank 0 has not come", KILLED) from error
            self._join(**where)

    def exchange(self, value: Any = None) -> list[Any]:
        """The values (JSON) that all ranks gave, in their order. RankFailedError when one of them fails meanwhile."""
        self._round += 1
        number = self._round
        if self.rank == 0:
            self._arrive(0, number, value)
        else:
            self._lines[0].send({"round": number, "value": value})
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self._failure)
            if number in self._answers:
                return self._answers.pop(number)
        raise self._told()

    def __enter__(self) -> Meeting:
        _present.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        _present.remove(self)
        try:
            if error is None:
                self.exchange()  # nobody leaves while another may still fail
            elif isinstance(error, RuntimeError) and self._failed_elsewhere():  # a collective operation broke off
                raise self._told() from error
            elif isinstance(error, Exception) and not isinstance(error, RankFailedError):
                words = (error.message, error.hint) if isinstance(error, SemisegError) else (repr(error), None)
                self._fail(f"rank {self.rank} ({_place()}) failed: {words[0]}", words[1])
        finally:
            self._leave(isinstance(error, Exception) or error is None)

    def _told(self) -> RankFailedError:
        assert self._failure is not None
        return RankFailedError(*self._failure)

    def _failed_elsewhere(self) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._failure, 5))

    def _leave(self, politely: bool) -> None:
        """Says goodbye and closes; rank 0, which may serve the store of all, leaves last."""
        with self._changed:
            self._over = True
            for line in self._lines.values() if politely else ():
                line.send({"bye": True})
            if self.rank == 0 and politely:
                self._changed.wait_for(lambda: len(self._left) == self.size - 1, SETTLE_S + 5)
            self._closed = True
        if self.rank == 0:
            self._server.close()
        for line in self._lines.values():
            line.close()

    # --- rank 0 ---

    def _receive(self) -> None:
        """Lets the ranks in as they come."""
        self._server.settimeout(JOIN_S)
        while len(self._lines) < self.size - 1:
            try:
                line = _Line(self._server.accept()[0])
            except TimeoutError:
                missing = sorted(set(range(1, self.size)) - set(self._lines))
                return self._end(missing[0], f"rank {', '.join(map(str, missing))} has not come", None)
            except OSError:
                return  # rank 0 has left
            hello = line.first()
            if not hmac.compare_digest(str(hello.get("secret")), self._secret):
                line.close()
                continue
            with self._changed:
                number, self._places[hello["rank"]] = hello["rank"], hello["place"]
                self._lines[number] = line
                line.send({"welcome": _place()})
                if self._failure:
                    line.send({"failed": self._failure})
            _thread(self._listen, number, line)

    def _arrive(self, rank: int, number: int, value: Any) -> None:
        with self._changed:
            here = self._arrived.setdefault(number, {})
            here[rank] = value
            if len(here) == self.size:
                values = [here[one] for one in range(self.size)]
                del self._arrived[number]
                self._tell({"round": number, "values": values})
                self._answers[number] = values
                self._changed.notify_all()

    # --- all ranks ---

    def _join(self, names: list[str], port: int, secret: str) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                line = _Line(socket.create_connection((name, port), REACH_S))
                line.send({"secret": secret, "rank": self.rank, "place": _place()})
                if place := line.first().get("welcome"):
                    self._lines[0], self._places[0] = line, place
                    _thread(self._listen, 0, line)
                    return
                line.close()
        raise SemisegError(
            f"rank {self.rank} ({_place()}) cannot reach rank 0 at {' or '.join(names)}, port {port}",
            "ranks reach each other by any port, as gloo and NCCL need it, too; torchrun --master_addr names rank 0's "
            "machine as the others know it",
        )

    def _listen(self, number: int, line: _Line) -> None:
        """Takes what rank `number` says, until it leaves."""
        for message in line.messages():
            match message:
                case {"round": at, "value": value}:
                    self._arrive(number, at, value)
                case {"round": at, "values": values}:
                    with self._changed:
                        self._answers[at] = values
                        self._changed.notify_all()
                case {"failed": [words, hint]}:
                    self._fail(words, hint)
                case {"died": [rank, words]}:
                    return self._end(rank, words, KILLED)
                case {"bye": _}:
                    with self._changed:
                        self._left.add(number)
                        self._changed.notify_all()
                    return None
        with self._changed:
            if self._closed:
                return None
            words = f"rank {number} ({self._places[number]}) has died"
            self._tell({"died": [number, words]})
        return self._end(number, words, KILLED)

    def _tell(self, message: dict[str, Any]) -> None:
        for line in self._lines.values():
            line.send(message)

    def _fail(self, words: str, hint: str | None) -> None:
        with self._changed:
            if self._failure:
                return
            self._failure = (words, hint)
            self._tell({"failed": self._failure})
            self._changed.notify_all()
        _thread(self._end_unless_over, words, hint)

    def _end_unless_over(self, words: str, hint: str | None) -> None:
        """Ends a rank that waits for the failed one where nothing can wake it: in a collective operation of a GPU."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, SETTLE_S)
            if self._over:
                return
        self._end(0, words, hint)

    def _end(self, rank: int, words: str, hint: str | None) -> None:
        """Ends this process, which may be waiting in a call that nothing else ends; one rank of a machine says why."""
        _ending.acquire()
        if os.environ.get("LOCAL_RANK", "0") == "0" or (rank == 0 and self.rank == 1):
            lines = [f"error: {words}; the remaining ranks end, too", *([f"hint: {hint}"] if hint else [])]
            print("\n".join(map(visible, lines)), file=sys.stderr, flush=True)
        os._exit(DIED)


_present: list[Meeting] = []  # the innermost last


def barrier() -> None:
    """Waits until all ranks are here; at once where there is one process alone.

    Not by a collective operation: these time out after minutes (NCCL: 10), and one rank may work alone for longer.
    """
    of_all_ranks(None)


def of_all_ranks(value: Any) -> list[Any]:
    """The values (JSON) that all ranks give, in their order; of one process alone its own."""
    return _present[-1].exchange(value) if _present else [value]


class _Line:
    """One connection: a JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(REACH_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", (UNANSWERED_S - 10) // 5)):
            if option := getattr(socket, name, None):
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self._socket, self._file, self._sending = connection, connection.makefile("rb"), threading.Lock()
        _open.add(connection)

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError), self._sending:  # it is gone, which its reader finds out
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def first(self) -> dict[str, Any]:
        """The first message; {} where none comes soon."""
        found = next(self._read(), {})
        self._socket.settimeout(None)
        return found

    def messages(self) -> Iterator[dict[str, Any]]:
        return self._read()

    def _read(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError):
            while (line := self._file.readline(MOST)).endswith(b"\n"):
                yield json.loads(line)

    def close(self) -> None:
        _open.discard(self._socket)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


# A forked child inherits the connections, and would hold them open after the death of its rank.
_open: set[socket.socket] = set()


def _close_inherited() -> None:
    for connection in _open:
        os.close(connection.detach())
    _open.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _place() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _listening() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _thread(act: Any, *arguments: Any) -> None:
    threading.Thread(target=act, args=arguments, daemon=True).start()
