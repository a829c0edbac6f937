"""Kills stages at random moments and checks that nothing is torn, lost or redone, and that results stay the same.

    python -m tests.stress --rounds 50                 # a toy stage, readers beside it, then every real stage
    python -m tests.stress --rounds 4 --toy-only       # a few seconds; part of the test suite
    python -m tests.stress --rounds 5 --stages train   # real stages up to this one, killed from there on

In each round a stage makes an artifact anew and is killed (SIGKILL, no warning) at random moments until it gets
through. After every kill the old artifact must be readable byte by byte, or the new one be whole. Items that were
finished before a kill must be the same files afterwards, and the content digest that of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactError, BusyError
from artifacts.provenance import made_by
from artifacts.store import Workspace, Writer
from stages.config import Config, build
from stages.contract import STAGE_MODULES, Execution, Inputs, Stage, load_stage, required_inputs
from stages.pipeline.run_stage import run_stage

ITEMS = 12
MOST_KILLS = 8  # a round, then it runs through

# Every real stage, in order, on a data set of a few images: (stage, artifact name, config).
REAL: list[tuple[str, str, dict[str, Any]]] = [
    ("prepare-data", "data", {"dataset": {"name": "shapes", "train": 8, "weak": 12, "val": 8, "long_side": 64}}),
    ("train-classifier", "classifier", {"network": "tiny", "iterations": 12, "batch_size": 4, "crop_size": 48}),
    ("seeds", "seeds", {}),
    (
        "train",
        "model",
        {"method": "supervised", "network": "tiny", "iterations": 12, "batch_size": 4, "crop_size": 48},
    ),
    (
        "retrain",
        "retrained",
        {"labels": "mixed", "training": {"network": "tiny", "iterations": 12, "batch_size": 4, "crop_size": 48}},
    ),
    ("predict", "predictions", {"splits": ["val"]}),
    ("crf", "crf", {}),
    ("evaluate", "metrics", {}),
]


@dataclass
class Count:
    """What happened."""

    kills: int = 0
    publishes: int = 0
    reads: int = 0
    torn: int = 0
    redone: int = 0
    different: int = 0
    orphans: int = 0

    @property
    def wrong(self) -> int:
        return self.torn + self.redone + self.different + self.orphans

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.publishes} publishes, {self.reads} reads: "
            f"{self.torn} torn, {self.redone} redone, {self.different} different, {self.orphans} times workers outlived"
        )


class ToyConfig(Config):
    """Settings of the toy stage."""

    text: str


def item(text: str, index: int) -> bytes:
    """Some thousand bytes that nothing else has."""
    return random.Random(f"{text} {index}").randbytes(1000 + 7000 * index)


def run_toy(config: ToyConfig, inputs: Inputs, writer: Writer, execution: Execution) -> dict:
    """Writes its items in pieces, so that kills fall into them."""
    writer.expect(ITEMS)
    for index in range(ITEMS):
        if not writer.has(f"items/{index}.bin"):
            data = item(config.text, index)
            with writer.item(f"items/{index}.bin") as temporary, open(temporary, "wb", buffering=0) as file:
                for start in range(0, len(data), 9000):
                    file.write(data[start : start + 9000])
                    time.sleep(0.0005)
        writer.advance()
    return {"items": ITEMS}


TOY = Stage("toy", 1, "Writes a few files slowly.", ToyConfig, Inputs, "masks", run_toy)


def forked(act: Callable[[], object]) -> int:
    """The process id of a child that does `act` and exits with 0, or 4 when it met a lock."""
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    try:
        act()
        code = 0
    except BusyError:
        code = 4
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity of every finished item below `folder`: the file and when it was written."""
    found = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts) and relative.parts[0] != "local":
            status = path.stat()
            found[relative.as_posix()] = (status.st_ino, status.st_mtime_ns)
    found.pop("manifest.json", None)
    return found


def read_forever(workspace: Workspace, report: int) -> None:
    """Reads the artifact again and again, with and without its lock; counts what is torn."""
    reads = torn = 0
    while True:
        try:
            if reads % 2:
                workspace.artifact("toy")
            else:
                with workspace.reading(["toy"]) as found:
                    torn += bool(found["toy"].verify())
        except BusyError:
            time.sleep(0.001)
            continue
        except ArtifactError as error:
            print(f"reader: {error}", file=sys.stderr)
            torn += 1
        reads += 1
        os.pwrite(report, f"{reads} {torn}\n".ljust(40).encode(), 0)
        time.sleep(random.uniform(0, 0.01))


def stress_toy(folder: Path, rounds: int, seconds: float, random_: random.Random, count: Count) -> None:
    """Rounds of the toy stage beside two readers."""
    workspace = Workspace(folder / "toy")
    execution = Execution(device="cpu", workers=1)

    def make(text: str, into: Workspace = workspace) -> None:
        run_stage(TOY, ToyConfig(text=text), into, "toy", {}, execution)

    made_by()  # asks git once, before the forks
    begin = time.monotonic()
    make("round 0")
    whole_s = time.monotonic() - begin
    reports = [os.open(folder / f"reader-{index}", os.O_RDWR | os.O_CREAT) for index in range(2)]
    readers = [forked(lambda report=report: read_forever(workspace, report)) for report in reports]
    deadline = time.monotonic() + seconds
    try:
        for index in range(1, rounds + 1):
            round_toy(workspace, index, 1.1 * whole_s, random_, count, make)
            if time.monotonic() > deadline:
                print(f"time is up after {index} of {rounds} rounds")
                break
    finally:
        for reader in readers:
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
    for report in reports:
        reads, torn = os.pread(report, 40, 0).split() or (b"0", b"0")
        count.reads += int(reads)
        count.torn += int(torn)
    left = {path.name for path in workspace.path.iterdir()} - {"toy", ".locks"}
    assert not left, f"left behind: {left}"


def round_toy(
    workspace: Workspace, index: int, most_s: float, random_: random.Random, count: Count, make: Callable[[str], None]
) -> None:
    """One artifact, killed until it is published."""
    old, new = f"round {index - 1}", f"round {index}"
    finished: dict[str, tuple[int, int]] = {}
    kills = 0
    while True:
        child = forked(lambda: make(new))
        if kills < MOST_KILLS:
            time.sleep(random_.uniform(0, most_s))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 4, -signal.SIGKILL), f"the stage ended with {code}"
        kills += code == -signal.SIGKILL
        with workspace.reading(["toy"]) as found:  # the lock: no reader completes a publish while this looks
            now = found["toy"]
            text = now.config["text"]
            whole = text in (old, new) and not now.verify() and now.file("items/3.bin").read_bytes() == item(text, 3)
            count.torn += not whole
            cut_off = workspace.path / ".toy.new"  # complete, and killed before it took the artifact's place
            places = [now.path] if text == new else [*workspace.partials("toy"), cut_off]
            present = {name: identity for place in places for name, identity in inodes(place).items()}
        count.redone += sum(present.get(name) != identity for name, identity in finished.items())
        finished = present
        if code == 0:
            break
    count.kills += kills
    count.publishes += 1
    expected = {f"items/{i}.bin": len(item(new, i)) for i in range(ITEMS)}
    found = workspace.artifact("toy")
    sizes = {path: entry["bytes"] for path, entry in found.manifest.items.items()}
    bytes_equal = all(found.file(f"items/{i}.bin").read_bytes() == item(new, i) for i in range(ITEMS))
    count.different += not (sizes == expected and bytes_equal and found.config["text"] == new)


# --- real stages ---


def real_inputs(stage: Stage, config: Config, workspace: Workspace) -> dict[str, str | None]:
    """Every input that the config needs: the artifact of a default name, else any of a right kind."""
    names = workspace.names()
    kinds = {name: workspace.artifact(name).kind for name in names}
    chosen: dict[str, str | None] = dict.fromkeys(stage.takes)
    for key in required_inputs(stage, config, ()):
        declared = stage.takes[key]
        fitting = [name for name in (*declared.default, *names) if kinds.get(name) in declared.kinds]
        chosen[key] = fitting[0] if fitting else None
    return chosen


def run_real(workspace: Workspace, name: str, artifact: str, config: Mapping[str, Any]) -> None:
    """One real stage in this process."""
    stage = load_stage(name)
    settings = build(stage.config, config, name)
    inputs = real_inputs(stage, settings, workspace)
    execution = Execution(device="cpu", workers=2, checkpoint_every_s=0.2)
    run_stage(stage, settings, workspace, artifact, inputs, execution)


def start_real(workspace: Workspace, place: int, log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.stress", "--child", str(place), "--folder", str(workspace.path)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )


def undisturbed(whole: Workspace, place: int, log: Path) -> int:
    """The exit code of a real stage that nobody kills."""
    process = start_real(whole, place, log)
    try:
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def stress_real(folder: Path, rounds: int, chosen: list[str], random_: random.Random, count: Count) -> None:
    """Each real stage once undisturbed, then `rounds` times killed, in a workspace with the same inputs."""
    whole = Workspace(folder / "whole")
    for place, (name, artifact, _) in enumerate(REAL):
        if importlib.util.find_spec(STAGE_MODULES[name]) is None:
            print(f"{name}: does not exist yet")
            continue
        log = folder / f"{name}.log"
        if undisturbed(whole, place, log):
            print(f"{name}: failed undisturbed, so it is not tested:\n{log.read_text()[-1500:]}")
            count.different += name in chosen
            return
        if chosen and name not in chosen:
            continue
        before, begin = count.kills, time.monotonic()
        for _ in range(rounds):
            round_real(whole, place, log, random_, count)
        print(
            f"{name} ({artifact}): {count.kills - before} kills, {time.monotonic() - begin:.0f} s; {count}",
            flush=True,
        )


def round_real(whole: Workspace, place: int, log: Path, random_: random.Random, count: Count) -> None:
    """One artifact, killed until it is published, against the undisturbed one."""
    name, artifact, _ = REAL[place]
    workspace = Workspace(whole.path.with_name("killed"))
    shutil.rmtree(workspace.path, ignore_errors=True)
    shutil.copytree(whole.path, workspace.path)
    workspace.remove(artifact)
    finished: dict[str, tuple[int, int]] = {}
    seconds = whole.artifact(artifact).manifest.seconds
    processes = []
    try:
        for kill in range(MOST_KILLS + 1):
            process = start_real(workspace, place, log)
            processes.append(process)
            if kill < MOST_KILLS:
                while process.poll() is None and workspace.holder(artifact) is None:
                    time.sleep(0.01)  # it loads, and has not begun to work
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(random_.uniform(0, 1) * seconds)
                process.kill()  # the process alone: its pool workers must find out by themselves
            code = process.wait()
            assert code in (0, -signal.SIGKILL), f"{name} ended with {code}:\n{log.read_text()[-3000:]}"
            count.kills += code != 0
            count.orphans += not ended(process.pid)
            published = artifact in workspace.names()
            places = [workspace.folder(artifact)] if published else workspace.partials(artifact)
            present = {key: identity for folder in places for key, identity in inodes(folder).items()}
            again = sorted(key for key, identity in finished.items() if present.get(key) != identity)
            again = [key for key in again if not key.endswith(".json")]  # summaries of the rest, written at the end
            if again:
                print(f"{name}: made again: {', '.join(again[:5])}")
            count.redone += len(again)
            finished = present
            if code == 0:
                break
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    result = workspace.artifact(artifact)
    count.publishes += 1
    count.torn += bool(result.verify())
    if result.manifest.content != whole.artifact(artifact).manifest.content:
        count.different += 1
        expected = whole.artifact(artifact).manifest.items
        differ = [
            key
            for key in expected.keys() | result.manifest.items.keys()
            if expected.get(key) != result.manifest.items.get(key)
        ]
        print(f"{name}: differs from the undisturbed run in {sorted(differ)[:5]}")


def ended(group: int) -> bool:
    """Whether the workers of a killed process notice and end, each after the item in hand; else they are ended here."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=600, help="bound on the toy's rounds")
    parser.add_argument("--toy-only", action="store_true")
    parser.add_argument("--stages", nargs="*", default=[], help="real stages to kill (default: all)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        run_real(Workspace(options.folder), *REAL[options.child])
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child is left behind
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    random_, count = random.Random(seed), Count()
    with tempfile.TemporaryDirectory(prefix="semiseg-stress-") as folder:
        if not options.stages:
            stress_toy(Path(folder), options.rounds, options.seconds, random_, count)
            print(f"toy: {count}", flush=True)
        if not options.toy_only:
            stress_real(Path(folder), max(1, options.rounds // 10), options.stages, random_, count)
    print(json.dumps({"seed": seed, **vars(count)}))
    print(count)
    return 1 if count.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
