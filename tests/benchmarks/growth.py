"""What an image costs as a data set grows: CPU time and memory of the stages that read or write every image.

    python -m tests.benchmarks.growth            # 5,000, 20,000 and 100,000 tiny images: some 25 minutes of one core
    python -m tests.benchmarks.growth --images 50,200 --only status,verify
    python -m tests.benchmarks.growth --show .bench/growth.json       # the table of an earlier run, or of one cut off

Each command runs in a process of its own with one worker; its CPU time counts, so that other programs on the machine
hardly change it. What the smallest data set of all costs, a tenth of the first, is the start, and the time of an image
that of the images from one size to the next: where it stays the same, growth is linear. Images are 32 x 24 pixels: what
is measured is the work that does not depend on their size. The figures are saved after each command; one that fails is
named, and so are those that need it. The table is one of docs/scale.md, and says which targets were missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from artifacts.masks import write_mask

ROOT = Path(__file__).parents[2]
SIZES = (5_000, 20_000, 100_000)
DISTINCT = 64  # images that are drawn; all others are links to them
START = 0.1  # the data set that gives the cost of starting: this share of the smallest
TIME, MEMORY = 1.2, 1.1  # targets: the time of an image and the peak memory, from the smallest to the largest
LEAST_S = 0.3  # smaller differences of CPU time are noise: so much does the start of a command vary

FEW = 8  # images that the networks are trained on, for two steps: only their output counts


@dataclass(frozen=True)
class Command:
    """A command that is measured: its arguments, and what has to run before it."""

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


DATA = ("--data", "prepare-data")
COMMANDS = {
    "prepare-data": Command(
        ("prepare-data", "--dataset", "folder", "--images", "images", "--masks", "masks", "--val", "0.5")
    ),
    "seeds": Command(("seeds", *DATA, "--set", "labels.mode=dense"), ("prepare-data", "train-classifier")),
    "predict": Command(("predict", *DATA, "--set", "stride=8"), ("prepare-data", "train")),
    "crf": Command(("crf", *DATA, "--predictions", "predict"), ("predict",)),
    "evaluate": Command(("evaluate", *DATA, "--predictions", "crf"), ("crf",)),
    # once more: how long it takes to find that there is nothing to do
    "fresh": Command(("evaluate", *DATA, "--predictions", "crf", "--name", "evaluate"), ("evaluate",)),
    "status": Command(("status",), ("prepare-data",)),
    "verify": Command(("verify",), ("prepare-data",)),
}
TRAININGS = {"train-classifier": "classifier", "train": "segmenter"}


def needed(commands: Sequence[str]) -> list[str]:
    """The commands and all that has to run before them, in order; those that are measured last see all artifacts."""
    found = set(commands)
    while more := {need for name in found & COMMANDS.keys() for need in COMMANDS[name].needs} - found:
        found |= more
    return [name for name in (*TRAININGS, *COMMANDS) if name in found]


@dataclass(frozen=True)
class Cost:
    """What one command took: CPU seconds, its peak of memory in MiB, and how many of the seconds the system took."""

    command: str
    images: int
    seconds: float
    memory: float
    system: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A command that was not measured, and why."""

    command: str
    images: int
    why: str


def draw_images(folder: Path, count: int) -> None:
    """images/<id>.png and masks/<id>.png of three classes."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        files = [folder / name / f"image-{number:07d}.png" for name in ("images", "masks")]
        if number < DISTINCT:
            mask = np.zeros((24, 32), np.uint8)
            mask[4:16, 4 + number % 8 : 20] = 1 + number % 2
            Image.fromarray(rng.integers(0, 80, (24, 32, 3), np.uint8) + 80 * mask[..., None]).save(files[0])
            write_mask(files[1], mask)
        else:
            for file in files:
                os.link(file.with_name(f"image-{number % DISTINCT:07d}.png"), file)


def run(arguments: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """CPU seconds, peak memory in MiB and seconds of the system, of `semiseg` with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "semiseg_cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"semiseg {' '.join(arguments)} failed:\n{messages.decode()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, usage.ru_stime


def costs_of(count: int, commands: Sequence[str], folder: Path, trained: Path) -> Iterator[Cost | Failure]:
    """What the commands cost with so many images. trained: a workspace with the networks."""
    draw_images(folder, count)
    shutil.copytree(trained, folder / "work")
    failed: set[str] = set()
    for name in (name for name in needed(commands) if name not in TRAININGS):
        if lacking := failed.intersection(COMMANDS[name].needs):
            failed.add(name)
            yield Failure(name, count, f"not run: it needs {', '.join(sorted(lacking))}")
            continue
        options = [] if name in ("status", "verify") else ["--workers", "1"]
        options += [] if name in ("fresh", "status", "verify") else ["--name", name]
        try:
            figures = run([*COMMANDS[name].words, *options, "--workspace", "work"], folder)
        except RuntimeError as error:
            failed.add(name)
            yield Failure(name, count, str(error))
        else:
            yield Cost(name, count, *figures)


def train(commands: Sequence[str], folder: Path) -> Path:
    """A workspace with the networks that the commands need, trained for two steps on few images."""
    workspace = folder / "work"
    workspace.mkdir(parents=True)
    for name in (name for name in needed(commands) if name in TRAININGS):
        if not (folder / "images").exists():
            draw_images(folder, FEW)
            run([*COMMANDS["prepare-data"].words, "--name", "few", "--workspace", "work"], folder)
        options = ["--name", TRAININGS[name], "--network", "tiny", "--iterations", "2", "--batch-size", "2"]
        run([name, "--data", "few", *options, "--set", "crop_size=32", "--workspace", "work"], folder)
    return workspace


def slopes(costs: Sequence[Cost]) -> list[float]:
    """CPU seconds of an image, from each size to the next. costs: of one command, by size."""
    return [(after.seconds - before.seconds) / (after.images - before.images) for before, after in pairwise(costs)]


def time_missed(costs: Sequence[Cost]) -> str:
    """How the time of an image grows, in words; empty where it is flat. costs: by size, the first of them the start."""
    each = slopes(costs)
    usual = max(each[0], 0.0)
    if (each[-1] - TIME * usual) * (costs[-1].images - costs[-2].images) <= LEAST_S:
        return ""
    return f"an image takes {1000 * each[-1]:.2f} ms, at first {1000 * usual:.2f}"


def memory_missed(costs: Sequence[Cost]) -> str:
    """How the memory grows, in words; empty where it is flat."""
    return f"grows by {grown(costs):.2f} KiB an image" if costs[-1].memory > MEMORY * costs[1].memory else ""


def grown(costs: Sequence[Cost]) -> float:
    """KiB of memory that an image takes, from the first size to the last."""
    return 1024 * (costs[-1].memory - costs[1].memory) / max(costs[-1].images - costs[1].images, 1)


def table(found: Sequence[Cost | Failure]) -> str:
    """A table in Markdown, and a line for each command that failed."""
    sizes = sorted({cost.images for cost in found})
    ranges = [f"{first:,} to {last:,}" for first, last in pairwise(sizes)]
    heads = [
        "command",
        *ranges,
        "peak MiB",
        "KiB an image",
        f"time flat within {TIME - 1:.0%}",
        f"memory {MEMORY - 1:.0%}",
    ]
    lines = [heads, ["---"] * len(heads)]
    for command in (command for command in COMMANDS if any(cost.command == command for cost in found)):
        costs = [cost for cost in found if isinstance(cost, Cost) and cost.command == command]
        peaks = ", ".join(f"{cost.memory:.0f}" for cost in costs)
        figures = [f"{1000 * slope:.3f}" for slope in slopes(costs)]
        figures += ["-"] * (len(ranges) - len(figures))
        if len(costs) > 2:
            verdicts = [f"{grown(costs):.2f}", time_missed(costs) or "yes", memory_missed(costs) or "yes"]
        else:
            verdicts = ["-"] * 3
        lines.append([f"`{command}`", *figures, peaks, *verdicts])
    failures = [f"{one.command} of {one.images:,} images: {one.why}" for one in found if isinstance(one, Failure)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *failures])


def save(found: Sequence[Cost | Failure], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def load(file: Path) -> list[Cost | Failure]:
    records = json.loads(file.read_text(encoding="utf-8"))
    return [Failure(**record) if "why" in record else Cost(**record) for record in records]


def measured(sizes: Sequence[int], commands: Sequence[str], folder: Path) -> Iterator[Cost | Failure]:
    """The commands at each size, one size after the other."""
    trained = train(commands, folder / "trained")
    for count in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield from (cost for cost in costs_of(count, commands, Path(place), trained) if cost.command in commands)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", default=",".join(map(str, SIZES)), help="how many, ascending: 5000,20000")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands: seeds,status")
    parser.add_argument("--out", type=Path, default=Path(".bench/growth.json"), help="the JSON file")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing, show what such a file holds")
    given = parser.parse_args(arguments)
    if given.show:
        print(table(load(given.show)))
        return 0
    sizes = [int(size) for size in given.images.split(",")]
    found: list[Cost | Failure] = []
    with tempfile.TemporaryDirectory(prefix="semiseg-growth-") as folder:
        for one in measured([max(int(START * sizes[0]), 8), *sizes], given.only.split(","), Path(folder)):
            found.append(one)
            save(found, given.out)
            what = one.why if isinstance(one, Failure) else f"{one.seconds:.2f} s, {one.memory:.0f} MiB"
            print(f"{one.command} of {one.images:,} images: {what}", file=sys.stderr, flush=True)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
