"""The processes of a pool end with the process that made it, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stages.parallel.processes import process_pool

ROOT = Path(__file__).parents[3]
PROGRAM = """
import time
from stages.parallel.processes import process_pool

def wait_long(number):
    time.sleep(60)

if __name__ == "__main__":
    pool = process_pool(2)
    for number in range(4):
        pool.submit(wait_long, number)
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def test_workers_end_when_their_process_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    end = time.monotonic() + 20
    while any(map(_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


def _remember(value: int) -> None:
    os.environ["SEMISEG_REMEMBERED"] = str(value)


def _remembered(number: int) -> str:
    return f"{number} {os.environ['SEMISEG_REMEMBERED']}"


def test_the_initializer_runs_in_every_worker():
    with process_pool(2, _remember, 7) as pool:
        assert list(pool.map(_remembered, range(4))) == ["0 7", "1 7", "2 7", "3 7"]
