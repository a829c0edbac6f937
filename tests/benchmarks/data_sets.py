"""What is read of a large workspace: a data set that is opened, a manifest of many files, the manifests of `status`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from artifacts.canonical import digest
from artifacts.dataset import Dataset, write_dataset
from artifacts.manifest import read_manifest
from artifacts.store import Artifact, Workspace, Writer
from stages.data.config import VOC_CLASS_NAMES
from tests.benchmarks import inputs
from tests.benchmarks.command_line import call
from tests.benchmarks.measure import CPU, Result, Timing, in_turn
from tests.benchmarks.prediction import untrained_segmenter

# (images, repeats)
LISTED = {"tiny": (60, 1), "quick": (10_000, 3), "full": (200_000, 3)}
# (files of the artifact, repeats)
FILES = {"tiny": (1_010, 1), "quick": (2_000, 3), "full": (20_000, 5)}
EVALUATIONS = {"tiny": 2, "quick": 10, "full": 50}

PRIVATE_MEMORY = """
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
"""
STATUS = """
import contextlib, io, json, sys
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
import artifacts.manifest
if sys.argv[1] == "formerly":
    artifacts.manifest._SETTLED_S = float("inf")  # nothing that was read is kept
from semiseg_cli.main import main
answer = io.StringIO()
with contextlib.redirect_stdout(answer):
    main(["status", "--json", "--workspace", sys.argv[2]])
states = {state["name"]: state["state"] for state in json.loads(answer.getvalue())["artifacts"]}
print(json.dumps([states, sum(name.endswith("/manifest.json") for name in opened)]))
"""


def opening(scale: str, folder: Path) -> Result:
    """A data set whose lists, labels and sizes lie in columns, against all of dataset.json as Python's objects."""
    count, repeats = LISTED[scale]
    artifact, ids = _listed(folder, count), []

    def formerly() -> list[Any]:
        record = json.loads((artifact.path / "dataset.json").read_bytes())
        split_of = {image_id: split for split, members in record["splits"].items() for image_id in members}
        return [(i, split_of[i], tuple(record["sizes"][i]), tuple(record["tags"][i])) for i in ids]

    def ours() -> list[Any]:
        dataset = Dataset(artifact)
        return [(i, "weak", dataset.size(i), dataset.tags(i)) for i in ids]

    ids.extend(_name(number) for number in range(0, count, 97))
    baseline, own, expected, found = in_turn(formerly, ours, repeats, CPU)
    return Result(
        "dataset-open",
        "a data set opened, and every 97th image asked for; baseline: dataset.json parsed, without any check",
        f"{count:,} images with labels and sizes",
        baseline,
        own,
        "split, size and labels of every 97th image",
        expected == found,
        target_ratio=5.0,
        figures={"us_an_image": 1e6 * own.median / count},
    )


def memory(scale: str, folder: Path) -> Result:
    """MiB of its own that a process holds of an open data set; pages of the mapped file are shared."""
    count, _ = LISTED[scale]
    artifact = _listed(folder, count)
    programs = {
        "formerly": "import json\nbefore = private()\n"
        f"held = json.load(open({str(artifact.path / 'dataset.json')!r}))\n"
        "held['splits'] = {name: tuple(ids) for name, ids in held['splits'].items()}\n"
        "split_of = {i: name for name, ids in held['splits'].items() for i in ids}\n"
        "length = len(held['splits']['weak'])\n",
        "ours": "from artifacts.dataset import Dataset\nbefore = private()\n"
        f"held = Dataset({str(artifact.path)!r})\nlength = len(held._ids)\n",
    }
    end = "import gc; gc.collect()\nprint(length, private() - before)\n"
    found = {name: call("-c", PRIVATE_MEMORY + program + end).split() for name, program in programs.items()}
    return Result(
        "dataset-memory",
        "memory of its own that a process holds of an open data set; baseline: what Python's json makes of it",
        f"{count:,} images with labels and sizes",
        Timing((float(found["formerly"][1]),), "MiB"),
        Timing((float(found["ours"][1]),), "MiB"),
        "the number of images",
        found["formerly"][0] == found["ours"][0] == str(count),
        target_ratio=10.0,
    )


def manifest(scale: str, folder: Path) -> Result:
    """What `fresh` is said from: the manifest without the list of files, against one that holds them all."""
    count, repeats = FILES[scale]

    def fill(writer: Writer) -> None:
        for number in range(count):
            writer.write_bytes(f"masks/{_name(number)}.png", b"mask")

    artifact = inputs.hand_made(Workspace(folder / "runs"), "masks", "masks", fill)
    whole = json.loads((artifact.path / "manifest.json").read_text())
    whole["items"] = {path: {"bytes": item["bytes"], "sha256": item["sha256"]} for path, item in artifact.items.items()}
    (folder / "whole.json").write_text(json.dumps(whole, indent=2))

    def formerly() -> str:
        return str(json.loads((folder / "whole.json").read_bytes())["content"])

    def ours() -> str:
        os.utime(artifact.path / "manifest.json")  # a new file: nothing that was read of it before counts
        return read_manifest(artifact.path).content

    baseline, own, expected, found = in_turn(formerly, ours, repeats, CPU)
    return Result(
        "fresh-manifest",
        "the manifest read that says whether an artifact is fresh; baseline: one that lists every file, unchecked",
        f"an artifact of {count:,} files",
        baseline,
        own,
        "the digest of the content",
        expected == found,
        target_ratio=10.0,
    )


def status_reads(scale: str, folder: Path) -> Result:
    """How often `semiseg status` reads a manifest."""
    count = EVALUATIONS[scale]
    workspace = Workspace(folder / "runs")
    inputs.images(workspace, 2, (48, 64))
    untrained_segmenter(workspace)
    given = {"data": "data", "segmenter": "segmenter"}
    inputs.stage(workspace, "predict", "predicted", {"output": "masks"}, given, device="cpu", workers=1)
    for number in range(count):
        given = {"data": "data", "predictions": "predicted"}
        inputs.stage(workspace, "evaluate", f"scores-{number}", {"splits": ["val"]}, given, workers=1)
    time.sleep(2.5)  # younger files are read again, since they may still change
    answers = {how: json.loads(call("-c", STATUS, how, str(workspace.path))) for how in ("formerly", "ours")}
    return Result(
        "status-reads",
        "how often status reads a manifest; baseline: whenever it asks for something of one",
        f"a workspace of {count + 3} artifacts",
        Timing((float(answers["formerly"][1]),), "reads"),
        Timing((float(answers["ours"][1]),), "reads"),
        "the state of every artifact",
        answers["formerly"][0] == answers["ours"][0],
        target_most=float(count + 3),
    )


def _listed(folder: Path, count: int) -> Artifact:
    """A data set of `count` images in the split weak, all of which are one file."""

    def fill(writer: Writer) -> None:
        writer.write_bytes("images/one.jpg", b"an image that nobody opens")
        ids = [_name(number) for number in range(count)]
        write_dataset(
            writer,
            name="benchmark",
            class_names=VOC_CLASS_NAMES,
            splits={"weak": ids},
            tags={image_id: (1 + number % 20,) for number, image_id in enumerate(ids)},
            tag_source="benchmark",
            mask_ids=(),
            image_pattern="images/one.jpg",
            sizes={image_id: (300 + number % 200, 500) for number, image_id in enumerate(ids)},
        )

    return inputs.hand_made(Workspace(folder / "runs"), "data", "dataset", fill)


def _name(number: int) -> str:
    return f"{digest({'image': number // 1000})[:8]}-{number:07d}"
