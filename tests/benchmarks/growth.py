"""What an image costs as a data set grows: CPU time and memory of the stages that read or write every image.

    python -m tests.benchmarks.growth                          # 5,000, 20,000 and 100,000 tiny images
    python -m tests.benchmarks.growth --images 50,200 --only status,verify

Each command runs in a process of its own with one worker; its CPU time counts, so that other programs on the machine
hardly change it. `start` is what the smallest data set of all costs, and the time of an image that of the images from
one size to the next: where it stays the same, growth is linear. Images are 32 x 24 pixels: what is measured is the work
that does not depend on their size. The figures are compared with the targets, and the last line says which were missed.
"""

from __future__ import annotations

import argparse
import json
import os
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
    """What one command took: CPU seconds, and its peak of memory in MiB."""

    command: str
    images: int
    seconds: float
    memory: float


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


def run(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and peak memory in MiB of `semiseg` with these arguments."""
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
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def costs_of(count: int, commands: Sequence[str], folder: Path) -> Iterator[Cost]:
    """What the commands cost with so many images."""
    draw_images(folder, count)
    for name in needed(commands):
        if name in TRAININGS:
            train(name, folder)
            continue
        options = [] if name in ("status", "verify") else ["--workers", "1"]
        options += [] if name in ("fresh", "status", "verify") else ["--name", name]
        seconds, memory = run([*COMMANDS[name].words, *options, "--workspace", "work"], folder)
        if name in commands:
            yield Cost(name, count, seconds, memory)


def train(name: str, folder: Path) -> None:
    """A network that is trained for two steps on few images."""
    if not (few := folder / "few").exists():
        draw_images(few, FEW)
        run([*COMMANDS["prepare-data"].words, "--name", "few", "--workspace", str(folder / "work")], few)
    options = ["--name", TRAININGS[name], "--network", "tiny", "--iterations", "2", "--batch-size", "2"]
    run([name, "--data", "few", *options, "--set", "crop_size=32", "--workspace", "work"], folder)


def slopes(costs: Sequence[Cost]) -> list[float]:
    """CPU seconds of an image, from each size to the next. costs: of one command, by size."""
    return [(after.seconds - before.seconds) / (after.images - before.images) for before, after in pairwise(costs)]


def missed(costs: Sequence[Cost]) -> list[str]:
    """The targets that a command misses, in words. costs: by size, the first of them the start."""
    found, each = [], slopes(costs)
    usual = max(each[0], 0.0)
    if (each[-1] - TIME * usual) * (costs[-1].images - costs[-2].images) > LEAST_S:
        found.append(f"{costs[0].command}: an image takes {1000 * each[-1]:.2f} ms, at first {1000 * usual:.2f}")
    if costs[-1].memory > MEMORY * costs[1].memory:
        grown = (costs[-1].memory - costs[1].memory) / (costs[-1].images - costs[1].images)
        found.append(f"{costs[0].command}: the memory grows by {1024 * grown:.2f} KiB an image")
    return found


def table(costs: dict[str, list[Cost]]) -> str:
    lines = ["command           images   CPU s    ms/image   peak MiB"]
    for command, found in costs.items():
        for cost, slope in zip(found, [float("nan"), *slopes(found)], strict=True):
            lines.append(
                f"{command:<15} {cost.images:>8,} {cost.seconds:>7.2f} {1000 * slope:>11.3f} {cost.memory:>10.0f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--images", default=",".join(map(str, SIZES)), help="how many, ascending: 5000,20000")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands: seeds,status")
    parser.add_argument("--out", type=Path, default=Path(".bench/growth.json"), help="the JSON file")
    given = parser.parse_args(arguments)
    sizes = [int(size) for size in given.images.split(",")]
    sizes = [max(int(START * sizes[0]), 8), *sizes]
    costs: dict[str, list[Cost]] = {command: [] for command in COMMANDS if command in given.only.split(",")}
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="semiseg-growth-") as folder:
            for cost in costs_of(count, list(costs), Path(folder)):
                costs[cost.command].append(cost)
                print(f"{cost.command} of {count:,} images: {cost.seconds:.2f} s", file=sys.stderr, flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = [asdict(cost) for found in costs.values() for cost in found]
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table(costs))
    print("; ".join(text for found in costs.values() for text in missed(found)) or "all targets are reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
