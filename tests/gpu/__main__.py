"""Measures this machine: `python -m tests.gpu --help`. Loads no torch: every process of a pool would load it, too."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from stages.parallel.processes import preload, server
from tests.gpu import one_step
from tests.gpu.rows import Row, Rows, read, table
from tests.gpu.steps import AGAIN, LEAST, LOADED, STEPS, rounds

LOOKS_EVERY_S = 1.0  # at what the running steps have found
CPU_TAKES = 10  # times as long, where it is only tried


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    names = ", ".join(STEPS)
    parser.add_argument("--only", choices=STEPS, action="append", default=[], metavar="STEP", help=names)
    parser.add_argument("--skip", choices=STEPS, action="append", default=[], metavar="STEP")
    parser.add_argument("--seconds", type=float, default=570.0, help="all steps together (570)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cuda is the default")
    parser.add_argument("--tiny", action="store_true", help="only whether it runs")
    parser.add_argument("--out", type=Path, default=Path(".bench/gpu"), help="for rows.json, table.txt and log.txt")
    parser.add_argument("--work", type=Path, help="keeps the files there; images drawn before are taken again")
    given = parser.parse_args(arguments)
    wanted = [name for name in STEPS if name in (given.only or STEPS) and name not in given.skip]
    missing = {needed for name in wanted for needed in STEPS[name].needs} - {*wanted}

    until = time.monotonic() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    with _folder(given.work) as work:
        missing = {name for name in missing if not (work / f"{name}.jsonl").is_file()}
        run = Run(work, given.out, given.device, given.tiny, until)
        run.load()
        for names_ in rounds([name for name in STEPS if name in {*wanted, *missing}]):
            run.at_once(names_)
        run.end()
    print((given.out / "table.txt").read_text(encoding="utf-8"), end="")
    return 0


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="semiseg-gpu-") as folder:
            yield Path(folder)
    else:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted


@dataclass(frozen=True)
class Running:
    """A process of a step. taken: how many of the step's items were begun before it."""

    name: str
    process: BaseProcess
    until: float
    taken: int


@dataclass
class Run:
    """Runs steps in `work`, and keeps what is known of them in `out`.

    Attributes:
        until: when all must have ended.
        took: the seconds of each step that has begun, and those of loading torch and the stages.
    """

    work: Path
    out: Path
    device: str
    tiny: bool
    until: float
    took: dict[str, float] = field(default_factory=dict)

    def load(self) -> None:
        """Starts the server of which all steps are copies."""
        begin = time.monotonic()
        preload(LOADED)
        process = server().Process(target=int)  # a server answers when it has loaded all
        process.start()
        process.join()
        self.took["loading"] = time.monotonic() - begin

    def at_once(self, names: Sequence[str]) -> None:
        """Runs steps until each has ended, or is ended at its limit."""
        begin, running = time.monotonic(), list[Running]()
        for name in names:
            self._forget(name)
            limit = STEPS[name].limit * (1 if self.device == "cuda" else CPU_TAKES)
            until = min(begin + limit, self.until)
            if until - begin < LEAST:
                Rows(self.work, name).fail("the step itself", "no time was left for it (--seconds, --only)")
                continue
            for _ in range(1 if self.tiny else STEPS[name].processes):
                running.append(self._begin(name, until))
        try:
            while running:
                next_end = min(one.until for one in running) - time.monotonic()
                wait([one.process.sentinel for one in running], min(max(next_end, 0), LOOKS_EVERY_S))
                for one in list(running):
                    if one.process.exitcode is not None or time.monotonic() >= one.until:
                        running.remove(one)
                        running += self._ended(one, last=all(other.name != one.name for other in running))
                    self.took[one.name] = time.monotonic() - begin
                self.write()
        finally:
            for one in running:
                _end(one.process)
        self.write()
        for name in names:
            found = read(self.work, name)
            failed = sum(bool(row.error) for row in found)
            print(f"{name}: {self.took[name]:.0f} s, {len(found)} rows, {failed} failed", file=sys.stderr, flush=True)

    def _forget(self, name: str) -> None:
        self.took[name] = 0.0
        for file in (self.work / f"{name}.jsonl", self.work / f"{name}.log", *self._taken(name)):
            file.unlink(missing_ok=True)

    def _taken(self, name: str) -> list[Path]:
        return list(self.work.glob(f"{name}.*.taken"))

    def _begin(self, name: str, until: float) -> Running:
        words = (name, self.work.resolve(), self.device, self.tiny)
        process: BaseProcess = server().Process(target=one_step.run, args=words)
        process.start()
        return Running(name, process, until, len(self._taken(name)))

    def _ended(self, one: Running, last: bool) -> list[Running]:
        """Names a process that failed or was late; a fresh one, if it has left items."""
        rows, code = Rows(self.work, one.name), one.process.exitcode
        _end(one.process)
        if code is None and last:
            rows.fail("the step itself", f"ended after {self.took[one.name]:.0f} s, the rest of it is missing")
        if code is not None and code not in (0, AGAIN):
            rows.fail("the step itself", f"ended with {code}: {_last_line(self.work / f'{one.name}.log')}")
        if code and len(self._taken(one.name)) > one.taken:
            return [self._begin(one.name, one.until)]
        return []

    def rows(self) -> list[Row]:
        return [row for name in self.took for row in read(self.work, name)]

    def end(self) -> None:
        """Says how long the steps took."""
        self._forget("seconds")
        Rows(self.work, "seconds").add("of each step", {name: took for name, took in self.took.items() if took})
        self.write()

    def write(self) -> None:
        rows = self.rows()
        _replace(self.out / "rows.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        _replace(self.out / "table.txt", table(rows) + "\n")
        logs = {name: file for name in self.took if (file := self.work / f"{name}.log").is_file()}
        _replace(
            self.out / "log.txt",
            "".join(f"=== {name}\n{file.read_text(errors='replace')}" for name, file in logs.items()),
        )


def _replace(file: Path, text: str) -> None:
    """Writes a file that is whole whenever this process is ended."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _end(process: BaseProcess) -> None:
    """Ends what is left of the processes of a step."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # before it had a group of its own
    process.join()


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]


if __name__ == "__main__":
    sys.exit(main())
