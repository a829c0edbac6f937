"""The stage select: scores against scikit-learn's, the best and of equals the later, killed and continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

import stages.select as module
from artifacts.dataset import Dataset, write_dataset
from artifacts.errors import ConfigError, DataError
from artifacts.masks import write_mask
from stages.networks import load_network, normalise, upsample
from stages.networks.loading import snapshots_of

SEEDS = {2: 1, 4: 2, 10: 3, 12: 0}  # step -> last layer


@pytest.fixture(scope="module")
def trained(bench):
    return bench.add_snapshots("with-snapshots", SEEDS)


@pytest.fixture(scope="module")
def expected(bench, trained):
    """Mean IoU on val by step: all pixels in one list, classes that occur in truth or prediction."""
    return {step: reference(bench, trained, file) for step, file in files_of(trained).items()}


def files_of(artifact) -> dict[int, str]:
    return {**snapshots_of(artifact), artifact.summary["iterations"]: "weights.pt"}


def reference(bench, artifact, file: str, split: str = "val") -> float:
    network = load_network(artifact, file)
    truth, found = [], []
    for image_id in bench.dataset.ids(split):
        inputs = normalise(torch.from_numpy(bench.dataset.image(image_id)).permute(2, 0, 1)[None])
        with torch.no_grad():
            logits = upsample(network(inputs), inputs.shape[2:], network.stride)[0]
        mask = bench.dataset.mask(image_id)
        truth.append(mask[mask != 255])
        found.append(logits.argmax(0).numpy()[mask != 255])
    return float(jaccard_score(np.concatenate(truth), np.concatenate(found), average="macro"))


def test_scores_are_those_of_scikit_learn_and_the_best_is_taken(bench, trained, expected):
    selected = bench.run("select", "selected", {}, {"segmenter": trained.name})
    record = selected.json("selection.json")
    assert record["mean_iou"] == {str(step): pytest.approx(value, abs=2e-4) for step, value in expected.items()}
    best = max(expected, key=expected.get)
    assert len(set(expected.values())) == 4
    assert record["chosen"] == selected.summary["chosen"] == best
    assert selected.file("weights.pt").read_bytes() == trained.file(files_of(trained)[best]).read_bytes()
    assert selected.summary["mean_iou"] == pytest.approx(expected[best], abs=2e-4)
    assert selected.summary["mean_iou_of_last"] == pytest.approx(expected[12], abs=2e-4)
    assert selected.summary["iterations"] == 12
    assert load_network(selected).class_names == bench.dataset.class_names
    assert not snapshots_of(selected)


def test_the_result_says_on_which_splits_it_was_chosen(bench, trained):
    selected = bench.run("select", "on-train", {"splits": ["train"]}, {"segmenter": trained.name})
    assert selected.summary["splits"] == selected.json("selection.json")["splits"] == ["train"]
    last = reference(bench, trained, "weights.pt", "train")
    assert selected.summary["mean_iou_of_last"] == pytest.approx(last, abs=2e-4)


def test_the_holdout_is_chosen_on_where_there_is_one(bench, trained):
    """And its images are those of train, so the scores are known from them."""
    shapes = {"name": "shapes", "train": 4, "weak": 5, "val": 6, "long_side": 64}
    bench.run("prepare-data", "with-holdout", {"dataset": shapes, "holdout": 2}, {})
    inputs = {"data": "with-holdout", "segmenter": trained.name}
    selected = bench.run("select", "on-holdout", {}, inputs)
    assert selected.summary["splits"] == selected.json("selection.json")["splits"] == ["holdout"]
    bench_of_holdout = type("Other", (), {"dataset": Dataset(bench.workspace.artifact("with-holdout"))})
    expected = {step: reference(bench_of_holdout, trained, file, "holdout") for step, file in files_of(trained).items()}
    found = {int(step): value for step, value in selected.json("selection.json")["mean_iou"].items()}
    assert found == {step: pytest.approx(value, abs=2e-4) for step, value in expected.items()}
    assert bench.run("select", "on-val", {"splits": ["val"]}, inputs).summary["splits"] == ["val"]


def test_every_rank_scores_its_share_and_the_first_adds_them_up(bench, trained, by_two_ranks, monkeypatch):
    """Five images' parts of two are not divisible by two ranks: none is padded, none is counted twice."""
    whole = bench.run("select", "by-one", {"splits": ["weak"]}, {"segmenter": trained.name})
    monkeypatch.setattr(module, "PART", 2)
    inputs = {"data": bench.workspace.artifact("data"), "segmenter": trained}
    written, summary, reads = by_two_ranks(module, {"splits": ["weak"]}, inputs)
    assert written["selection.json"] == whole.json("selection.json")
    assert sorted(reads) == sorted(bench.dataset.ids("weak") * 4)
    assert summary == whole.summary


def test_of_equal_snapshots_the_later_is_taken(bench, expected):
    order = sorted(expected, key=expected.get)
    best, worse = SEEDS[order[-1]], SEEDS[order[0]]
    for name, seeds, chosen in (
        ("all-equal", {2: best, 10: best, 12: best}, 12),
        ("two-equal", {2: best, 4: worse, 10: best, 12: worse}, 10),
    ):
        bench.add_snapshots(name, seeds)
        assert bench.run("select", f"{name}-selected", {}, {"segmenter": name}).summary["chosen"] == chosen


def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(bench, trained, monkeypatch):
    whole = bench.run("select", "whole", {}, {"segmenter": trained.name})
    read, reads = type(bench.dataset).image, []
    count = len(bench.dataset.ids("val"))

    def cut_off(self, image_id):
        reads.append(image_id)
        if len(reads) == 2 * count + 2:  # in the third snapshot
            raise KeyboardInterrupt
        return read(self, image_id)

    monkeypatch.setattr(type(bench.dataset), "image", cut_off)
    with pytest.raises(KeyboardInterrupt):
        bench.run("select", "cut", {}, {"segmenter": trained.name})
    first = len(reads)
    continued = bench.run("select", "cut", {}, {"segmenter": trained.name})
    assert continued.manifest.content == whole.manifest.content
    assert continued.manifest.resumed == 1
    assert len(reads) - first == 2 * count  # whole scores were kept
    assert not (continued.path / ".scratch").exists()


def test_a_segmenter_without_snapshots_is_named_with_the_cure(bench):
    with pytest.raises(ConfigError, match="'segmenter' holds its last weights alone") as caught:
        bench.run("select", "x", {}, {"segmenter": "segmenter"})
    assert "snapshots=10" in caught.value.hint


def test_a_segmenter_for_other_classes_is_refused(bench):
    bench.add_snapshots("strange-snapshots", {1: 0, 2: 1}, ("background", "cat"))
    with pytest.raises(ConfigError, match="the network knows the classes background, cat"):
        bench.run("select", "x", {}, {"segmenter": "strange-snapshots"})


def test_splits_without_masks_are_named_before_any_work(bench, trained):
    """weak: no masks; test: masks without a labelled pixel; val: empty."""
    members = {"train": ["a", "b"], "weak": ["c", "d", "e"], "test": ["f"]}

    def write(writer):
        ids = [image_id for split in members.values() for image_id in split]
        for image_id in ids:
            with writer.item(f"images/{image_id}.png") as temporary:
                Image.new("RGB", (32, 24)).save(temporary)
        for image_id in ("a", "b", "d", "f"):
            with writer.item(f"masks/{image_id}.png") as temporary:
                write_mask(temporary, np.full((24, 32), 255 if image_id == "f" else 0, np.uint8))
        write_dataset(
            writer,
            name="partly",
            class_names=bench.dataset.class_names,
            splits=members,
            tags={image_id: [] for image_id in ids},
            tag_source="masks",
            mask_ids=["a", "b", "d", "f"],
        )

    bench.publish("partly", "dataset", write)
    inputs = {"data": "partly", "segmenter": trained.name}
    with pytest.raises(DataError, match="2 of the 5 images of train, weak have no mask: c, e") as caught:
        bench.run("select", "x", {"splits": ["train", "weak"]}, inputs)
    assert caught.value.hint
    with pytest.raises(DataError, match="no pixel of the masks of test has a class"):
        bench.run("select", "x", {"splits": ["test"]}, inputs)
    with pytest.raises(DataError, match="val"):
        bench.run("select", "x", {}, inputs)
    assert bench.run("select", "of-train", {"splits": ["train"]}, inputs).summary["chosen"] in SEEDS
