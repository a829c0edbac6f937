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
DISTINCT = 64  # images that are drawn; the others are links to them
START = 0.1  # the data set that gives the cost of starting: this share of the smallest
TIME, MEMORY = 1.2, 1.1  # targets: the time of an image and the peak memory, from the smallest to the largest
LEAST_S = 0.1  # differences of less CPU time are noise

# command -> its arguments; the networks are trained for two steps, on few images
COMMANDS = {
    "prepare-data": ["--dataset", "folder", "--images", "images", "--masks", "masks", "--val", "0.5"],
    "seeds": ["--set", "labels.mode=dense"],
    "predict": ["--set", "stride=8"],
    "crf": [],
    "evaluate": [],
    "fresh": [],  # `evaluate` again: how long it takes to find that there is nothing to do
    "status": [],
    "verify": [],
}
NETWORKS = {"train-classifier": "classifier", "train": "segmenter"}


@dataclass(frozen=True)
class Cost:
    """What one command took: CPU seconds, and the peak of the memory of its processes in MiB."""

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
    """What the commands cost with so many images; all before the last that is asked for have to run."""
    draw_images(folder, count)
    few = [*COMMANDS["prepare-data"], "--name", "few"]
    small = folder / "few"
    draw_images(small, 8)
    run(["prepare-data", *few, "--workspace", str(folder / "work")], small)
    for command, name in NETWORKS.items():
        options = ["--data", "few", "--name", name, "--network", "tiny", "--iterations", "2", "--batch-size", "2"]
        run([command, *options, "--set", "crop_size=32", "--workspace", "work"], folder)
    named = {
        "crf": ["--predictions", "predict"],
        "evaluate": ["--predictions", "crf"],
        "fresh": ["--predictions", "crf", "--name", "evaluate"],
    }
    last = max(list(COMMANDS).index(command) for command in commands)
    for command, options in list(COMMANDS.items())[: last + 1]:
        words = ["evaluate" if command == "fresh" else command, *options, *named.get(command, [])]
        if command not in ("prepare-data", "status", "verify"):
            words += ["--data", "prepare-data"]
        if command not in ("fresh", "status", "verify"):
            words += ["--name", command]
        if command not in ("status", "verify"):
            words += ["--workers", "1"]
        seconds, memory = run([*words, "--workspace", "work"], folder)
        if command in commands:
            yield Cost(command, count, seconds, memory)


def slopes(costs: Sequence[Cost]) -> list[float]:
    """CPU seconds of an image, from each size to the next. costs: of one command, by size."""
    return [(after.seconds - before.seconds) / (after.images - before.images) for before, after in pairwise(costs)]


def missed(costs: Sequence[Cost]) -> list[str]:
    """The targets that a command misses, in words. costs: by size, the first of them the start."""
    found, each = [], slopes(costs)
    over = (each[-1] - TIME * each[0]) * (costs[-1].images - costs[-2].images)
    if over > LEAST_S:
        found.append(f"{costs[0].command}: an image takes {each[-1] / max(each[0], 1e-9):.2f} times as long")
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
