"""Two processes under torchrun make the bytes of one, in every stage, also where a shard is the work of both."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import numpy as np
import pytest

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.instance_masks import Instance, annotations_of, document_of
from artifacts.masks import read_mask, write_mask
from artifacts.store import Workspace, Writer
from stages.config import build
from stages.contract import STAGE_MODULES, Execution, PlainProgress, load_stage
from stages.data.images import ids_of
from stages.evaluate_instances import true_instances
from stages.networks.backbones import build_backbone
from stages.pipeline.run_stage import run_stage
from tests.artifacts.small_artifacts import leftovers
from tests.stages.conftest import Bench
from tests.stages.forks import by_two_processes
from tests.stages.test_seeds import add_classifier

CAM = {"cam": {"scales": [0.5, 1.0], "batch_size": 4}}
SPLITS = ["train", "weak", "val"]
TRAINING = {"iterations": 2, "batch_size": 4, "crop_size": 33, "network": "tiny"}
ALL = {"data": "data", "predictions": "predictions"}
# name -> stage, config, inputs; the inputs are made by a single process, of the earlier ones in this list
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "data-again": ("prepare-data", {"dataset": {"name": "shapes", "train": 3, "weak": 4, "val": 3}}, {}),
    "predictions": (
        "predict",
        {"splits": SPLITS, "output": "both", "confidence": True, "overlays": "png"},
        {"data": "data", "segmenter": "segmenter"},
    ),
    "masks": ("predict", {"splits": SPLITS, "output": "masks"}, {"data": "data", "segmenter": "segmenter"}),
    "scores": ("predict", {"splits": SPLITS, "output": "probabilities"}, {"data": "data", "segmenter": "segmenter"}),
    "seeds": ("seeds", CAM, {"data": "data", "classifier": "classifier"}),
    "gradients": (
        "seeds",
        CAM | {"labels": {"mode": "seeds", "background": {"kind": "gradient"}}},
        {"data": "data", "classifier": "classifier"},
    ),
    "thresholds": ("seeds", {"labels": {"mode": "dense"}}, {"data": "data", "maps": "seeds"}),
    "refined": ("refine", {"method": "par"}, {"data": "data", "seeds": "seeds"}),
    "crf": ("crf", {}, ALL),
    "crf-of-seeds": ("crf", {"labels": "tags"}, {"data": "data", "predictions": "seeds"}),
    "pseudo": ("pseudo-labels", {"share": 0.5}, {"predictions": "predictions"}),
    "metrics": ("evaluate", {"bootstrap": 20}, ALL),
    "thresholds-judged": ("evaluate", {"splits": ["train"]}, {"data": "data", "maps": "seeds"}),
    "instances-judged": ("evaluate-instances", {"splits": ["train", "val"]}, {"data": "shapes", "instances": "drawn"}),
    "imported": ("import-masks", {}, {"data": "data"}),
    "segments": ("segments", {"source": {"regions": [20]}}, {"data": "data"}),
    "voted": ("vote", {}, {"data": "data", "masks": "imported", "segments": "segments"}),
    "reliability": ("reliability", {"splits": ["weak", "train"]}, {"data": "data", "segmenter": "snapshots"}),
    "selected": ("select", {"splits": ["val"]}, {"data": "data", "segmenter": "snapshots"}),
    "review": ("review", {}, {"data": "data", "segmenter": "segmenter"}),
    "features": ("features", {"crop_size": 33, "splits": ["train"]}, {"data": "data"}),
    "retrained": ("retrain", {"training": TRAINING, "crf": None}, {"data": "data", "segmenter": "segmenter"}),
}
TRAINED_BY_TWO = {  # tests/stages/engine/test_distributed.py, and what reads what they make
    *("train", "train-classifier", "train-refiner"),
    "instances",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """What two processes make as NAME-by-two, one process as NAME; shards of three images, so that they share one."""
    bench = Bench(Workspace(tmp_path_factory.mktemp("ranks") / "runs"))
    add_classifier(bench.workspace, bench.dataset)
    bench.add_snapshots("snapshots", {1: 3, 2: 4, 3: 0})
    add_instances(bench)
    folder = tmp_path_factory.mktemp("noisy")
    random = np.random.default_rng(0)
    for image_id in bench.dataset.ids("weak"):
        mask = bench.dataset.mask(image_id)
        write_mask(folder / f"{image_id}.png", np.where(random.random(mask.shape) < 0.2, 0, mask).astype(np.uint8))
    CASES["imported"][1]["folder"] = str(folder)
    checkpoint.save(folder / "tiny.pt", build_backbone("tiny", 8).state_dict())
    CASES["features"][1]["network"] = {"preset": "tiny", "weights": str(folder / "tiny.pt"), "freeze": "encoder"}
    with pytest.MonkeyPatch.context() as changes:
        for stage, size in (("predict", 4), ("seeds", 4), ("refine", 4)):
            changes.setattr(f"stages.{stage}.SHARD_SIZE", size)
        for name in CASES:
            make(bench, name, name)
        by_two_processes(functools.partial(make_all_again, bench))
    return bench


def add_instances(bench: Bench) -> None:
    """A data set with objects, and these as instances, some of them in a different place, or of a different class."""
    bench.run(
        "prepare-data", "shapes", {"dataset": {"name": "shapes", "train": 3, "weak": 1, "val": 4, "objects": True}}, {}
    )
    dataset = Dataset(bench.workspace.artifact("shapes"))

    def write(writer: Writer) -> None:
        images, annotations = [], []
        for number, image_id in enumerate(ids_of(dataset, ("train", "val"))):
            objects, mask = read_mask(dataset.path / "objects" / f"{image_id}.png"), dataset.mask(image_id)
            numbers, classes = true_instances(objects, mask)
            numbers = np.roll(numbers, 3 * number, 1)
            found = [Instance(1 if number == 2 else k, 1 / (1 + place)) for place, k in enumerate(classes)]
            with writer.item(f"instances/{image_id}.png") as temporary:
                write_mask(temporary, numbers)
            height, width = mask.shape
            images.append({"image_id": image_id, "file_name": "x", "width": width, "height": height})
            annotations.append(annotations_of(numbers, found))
        writer.write_json("instances.json", document_of(dataset.class_names, images, annotations))

    bench.publish("drawn", "instances", write)


class Tracked(PlainProgress):
    """Progress that keeps how much of each task is this rank's."""

    def __init__(self) -> None:
        super().__init__(every_s=1e9)
        object.__setattr__(self, "totals", {})

    def track(self, total, description, unit="images", done=0):
        self.totals[description] = self.totals.get(description, 0) + total
        return super().track(total, description, unit, done)


def make(bench: Bench, case: str, name: str, progress: PlainProgress | None = None) -> None:
    stage, values, inputs = CASES[case]
    record = load_stage(stage)
    config = build(record.config, values, case)
    doing = Execution(device="cpu", workers=1, progress=progress or PlainProgress())
    run_stage(record, config, bench.workspace, name, inputs, doing)


def make_all_again(bench: Bench) -> None:
    shares = {}
    for case in CASES:
        make(bench, case, f"{case}-by-two", tracked := Tracked())
        shares[case] = tracked.totals
    (bench.workspace.path.parent / f"shares-{os.environ['RANK']}.json").write_text(json.dumps(shares))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_bytes_of_one(case, bench):
    one, two = (bench.workspace.artifact(name) for name in (case, f"{case}-by-two"))
    kept = [item for item in one.manifest.items if CASES[case][0] != "retrain" or item.startswith("masks/")]
    assert kept
    assert one.manifest.items.keys() == two.manifest.items.keys()
    assert [item for item in kept if one.manifest.items[item] != two.manifest.items[item]] == []
    assert (one.manifest.made_by["processes"], two.manifest.made_by["processes"]) == (1, 2)
    if CASES[case][0] != "retrain":
        assert one.manifest.summary == two.manifest.summary
    assert leftovers(bench.workspace) == []


@pytest.mark.parametrize("case", CASES)
def test_each_rank_has_its_share(case, bench):
    """Of each task as many images as the other, or one more; of tasks that see each image twice, two more."""
    one, two = (json.loads((bench.workspace.path.parent / f"shares-{rank}.json").read_text())[case] for rank in (0, 1))
    most = dict.fromkeys(("seeds", "refine", "pseudo-labels"), 2)
    tasks = (one.keys() | two.keys()) - {"training"}  # a step is of both
    assert tasks
    assert [task for task in tasks if abs(one.get(task, 0) - two.get(task, 0)) > most.get(task, 1)] == []


def test_every_stage_is_among_the_cases():
    assert {stage for stage, _, _ in CASES.values()} | TRAINED_BY_TWO == set(STAGE_MODULES)
