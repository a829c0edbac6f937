"""Two processes under torchrun make the bytes of one, in every stage, also where a shard is the work of both."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from artifacts import checkpoint
from artifacts.masks import write_mask
from artifacts.store import Workspace
from stages.config import build
from stages.contract import STAGE_MODULES, Execution, load_stage
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
    *("instances", "evaluate-instances"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """What two processes make as NAME-by-two, one process as NAME; shards of three images, so that they share one."""
    bench = Bench(Workspace(tmp_path_factory.mktemp("ranks") / "runs"))
    add_classifier(bench.workspace, bench.dataset)
    bench.add_snapshots("snapshots", {1: 3, 2: 4, 3: 0})
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


def make(bench: Bench, case: str, name: str) -> None:
    stage, values, inputs = CASES[case]
    record = load_stage(stage)
    config = build(record.config, values, case)
    run_stage(record, config, bench.workspace, name, inputs, Execution(device="cpu", workers=1))


def make_all_again(bench: Bench) -> None:
    for case in CASES:
        make(bench, case, f"{case}-by-two")


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


def test_every_stage_is_among_the_cases():
    assert {stage for stage, _, _ in CASES.values()} | TRAINED_BY_TWO == set(STAGE_MODULES)
