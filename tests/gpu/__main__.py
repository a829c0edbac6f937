"""Measures this machine: `python -m tests.gpu --help`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.gpu.rows import Row, Rows, read, table
from tests.gpu.steps import LEAST, STEPS

ROOT = Path(__file__).parents[2]


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
    missing = {needed for name in wanted for needed in STEPS[name].needs}
    wanted = [name for name in STEPS if name in {*wanted, *missing}]

    until = time.monotonic() + given.seconds
    rows: list[Row] = []
    given.out.mkdir(parents=True, exist_ok=True)
    with _folder(given.work) as work, (given.out / "log.txt").open("w") as log:
        for name in wanted:
            if name in missing and (work / f"{name}.jsonl").is_file():
                continue
            rows += run_step(name, work, given.device, given.tiny, until)
            write(rows, given.out)
            if (file := work / f"{name}.log").is_file():
                log.write(f"=== {name}\n{file.read_text(errors='replace')}")
                log.flush()
    print(table(rows))
    return 0


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="semiseg-gpu-") as folder:
            yield Path(folder)
    else:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted


def run_step(name: str, work: Path, device: str, tiny: bool, until: float) -> list[Row]:
    """Runs a step in a process group of its own, which is ended at its limit; returns its rows."""
    rows, begin = Rows(work, name), time.monotonic()
    rows.file.unlink(missing_ok=True)
    limit = min(STEPS[name].limit, until - begin)
    if limit < LEAST:
        rows.fail("the step itself", "no time was left for it (--seconds, --only)")
        return read(work, name)
    words = [sys.executable, "-m", "tests.gpu.one_step", name, str(work), device, *(["--tiny"] if tiny else [])]
    log = work / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(limit)
            if code != 0:
                rows.fail("the step itself", f"ended with {code}: {_last_line(log)}")
        except subprocess.TimeoutExpired:
            rows.fail("the step itself", f"ended after {limit:.0f} s, the rest of it is missing")
        finally:
            _end(process)
    found = read(work, name)
    failed = sum(bool(row.error) for row in found)
    print(f"{name}: {time.monotonic() - begin:.0f} s, {len(found)} rows, {failed} failed", file=sys.stderr, flush=True)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the step's processes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]


def write(rows: Sequence[Row], out: Path) -> None:
    (out / "rows.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    (out / "table.txt").write_text(table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
