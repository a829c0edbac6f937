"""The setting image_labels of the stages that make pseudo labels, against the formula in plain numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

import stages.engine.label_sharing as module
from artifacts.errors import ConfigError
from artifacts.item_list import MANIFEST_NAME
from artifacts.masks import read_mask
from artifacts.score_maps import ScoreMaps
from artifacts.store import Work
from stages.config import build
from stages.contract import Execution, load_stage
from stages.engine.config import InferenceConfig
from stages.engine.inference import predict_probabilities
from stages.engine.label_sharing import respect_in_place
from stages.localization.crf_parameters import named_parameters
from stages.localization.dense_crf import crf_probabilities
from stages.networks import load_network
from stages.pipeline.status import workspace_states
from stages.predict import PredictConfig
from stages.retrain import RetrainConfig
from tests.artifacts.small_artifacts import change_json
from tests.stages.data.conftest import Notes

PROTOCOL = {"scales": [0.75, 1.5], "flip": True, "merge": "logits-sum"}
TRAINING = {"iterations": 2, "batch_size": 2, "crop_size": 32, "augmentation": {"scale": [1.0, 1.0]}}


def predicted(bench, image_id: str, protocol=None, segmenter="segmenter", dataset=None) -> np.ndarray:
    """The network's probabilities of an image, float64 (C, H, W)."""
    network = load_network(bench.workspace.artifact(segmenter))
    config = InferenceConfig.model_validate(protocol or {})
    ((_, batch),) = predict_probabilities(network, dataset or bench.dataset, [image_id], config, torch.device("cpu"))
    return batch[0].double().numpy()


def respected(p: np.ndarray, labels, how: str) -> np.ndarray:
    """The formula, class by class; labels None: unknown."""
    if how == "ignore" or labels is None:
        return p
    p = np.maximum(p, np.finfo(np.float32).tiny)  # what lies below has no digits
    new = np.zeros_like(p)
    together = sum((p[c] for c in labels), np.zeros_like(p[0]))
    foreground = p[1:].sum(0)  # 1 - p[0], which float32 cannot hold near 0
    for c in labels:
        new[c] = foreground * p[c] / together if how == "share" else p[c] / (p[0] + together)
    if not labels:
        new[0] = 1
    else:
        new[0] = p[0] if how == "share" else p[0] / (p[0] + together)
    return new


def assert_winners(mask: np.ndarray, expected: np.ndarray) -> None:
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-4  # elsewhere rounding may decide
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(mask[clear], expected.argmax(0)[clear])


def mask_of(artifact, image_id: str) -> np.ndarray:
    return read_mask(artifact.file(f"masks/{image_id}.png"))


@pytest.fixture(scope="module")
def partly(bench) -> dict[str, list[int] | None]:
    """The data set `partly`, in which one image has lost its labels and one shows nothing: the labels by id."""
    values = {"dataset": {"name": "shapes", "train": 4, "weak": 5, "val": 6, "long_side": 64}}
    bench.run("prepare-data", "partly", values, {})
    ids = list(bench.dataset.ids("weak"))

    def change(record):
        record["splits"]["weak"] = ids[1:]
        record["splits"]["unlabelled"] = ids[:1]
        del record["tags"][ids[0]]
        record["tags"][ids[1]] = []

    change_json(bench.workspace.folder("partly"), "dataset.json", change)
    return {ids[0]: None, ids[1]: []} | {image_id: list(bench.dataset.tags(image_id)) for image_id in ids[2:]}


ALL = {"splits": ["weak", "unlabelled"], "stride": 4}


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_masks_maps_and_confidence_are_of_the_formula(bench, partly, how):
    values = ALL | PROTOCOL | {"image_labels": how, "confidence": True, "min_confidence": 0.5}
    progress = Notes()
    made = bench.run("predict", f"labelled-{how}", values, {"data": "partly"}, progress=progress)
    assert progress.said == [
        f"1 of 5 images have no known labels: they are predicted as they are (image_labels: {how})"
    ]
    maps, changed = ScoreMaps(made), 0
    for image_id, labels in partly.items():
        plain = predicted(bench, image_id, PROTOCOL)
        expected = respected(plain, labels, how)
        mask, known = mask_of(made, image_id), expected.max(0) >= 0.5 + 1e-5
        assert_winners(np.where(known, mask, expected.argmax(0)), expected)
        assert (mask[expected.max(0) < 0.5 - 1e-5] == 255).all()
        record = maps[image_id]
        np.testing.assert_allclose(record.scores, expected[record.classes][:, ::4, ::4], atol=1e-3)
        ranked = np.sort(expected, axis=0)
        index = read_mask(made.file(f"confidence/{image_id}.png"))
        assert np.abs(index - 255 * (1 - np.maximum(ranked[:-1].sum(0), 0) ** 0.25)).max() <= 0.52
        if labels is not None:
            assert set(np.unique(mask)) | set(record.classes) <= {0, *labels, 255}
            changed += (expected.argmax(0) != plain.argmax(0)).sum()
    assert changed > 100  # the labels mattered


def test_probabilities_of_images_without_known_labels_stay_to_the_bit():
    plain = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0)).mul(9).softmax(1)
    found = plain.clone()
    respect_in_place(found, np.array([[np.nan] * 3, [1, 0, 0]], np.float32), "share")
    assert torch.equal(found[0], plain[0])
    assert not torch.equal(found[1], plain[1])


def test_two_processes_give_what_one_gives(bench, monkeypatch):
    values = {"splits": ["weak"], "output": "masks", "confidence": True, "image_labels": "share"}
    alone = bench.run("predict", "by-one", values)
    inputs = {"data": bench.workspace.artifact("data"), "segmenter": bench.workspace.artifact("segmenter")}
    stage = load_stage("predict")
    work, items = Work("predict", 1, "predictions", "1" * 64, {}, {}, {}), {}
    with bench.workspace.writing("by-two-shares", work) as writer:
        for rank in (1, 0):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            config = build(PredictConfig, values, "test")
            stage.run(config, stage.open(inputs), writer, Execution(device="cpu", workers=1))
        items = {file.relative_to(writer.path): file.read_bytes() for file in writer.path.glob("*/*.png")}
        writer.discard()
    assert len(items) == 10
    assert all(alone.file(str(path)).read_bytes() == content for path, content in items.items())


def test_scores_on_val_with_its_own_labels_are_marked(bench):
    progress = Notes()
    bench.run("predict", "told", {"image_labels": "share", "output": "masks"}, progress=progress)
    assert [note for note in progress.said if "their scores are not those of the network alone" in note]


def test_labels_that_are_left_unused_are_mentioned_unless_that_was_asked_for(bench):
    said = []
    cases = ({"splits": ["weak"]}, {"splits": ["weak"], "image_labels": "ignore"}, {"splits": ["weak", "val"]})
    for number, values in enumerate(cases):
        progress = Notes()
        bench.run("predict", f"unused-{number}", {**values, "output": "masks"}, progress=progress)
        said.append(len([note for note in progress.said if "labels of 5 images are not used" in note]))
    assert said == [1, 0, 0]


def test_a_large_image_is_changed_in_strips(monkeypatch):
    plain = torch.randn(2, 4, 11, 7, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    tags = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    whole, strips = plain.clone(), plain.clone()
    respect_in_place(whole, tags, "share")
    monkeypatch.setattr(module, "STRIP_NUMBERS", 4 * 7 * 3)
    respect_in_place(strips, tags, "share")
    torch.testing.assert_close(strips, whole)
    np.testing.assert_allclose(whole[0], respected(plain[0].double().numpy(), [1, 3], "share"), atol=1e-6)


@pytest.mark.parametrize("how", ["share", "exclude"])
def test_where_no_possible_class_has_any_probability_they_are_equally_likely(how):
    sure = torch.tensor([-200.0, 200.0, -200.0, -200.0]).view(1, 4, 1, 1).softmax(1)  # exactly 0, 1, 0, 0
    respect_in_place(sure, np.array([[0, 1, 1]], np.float32), how)
    assert sure.flatten().tolist() == pytest.approx([0, 0, 0.5, 0.5] if how == "share" else [1 / 3, 0, 1 / 3, 1 / 3])


# --- with a classifier ---


@pytest.mark.parametrize("how", ["ignore", "share", "exclude"])
def test_a_classifier_takes_labels_away_and_stands_in_for_unknown_ones(bench, partly, monkeypatch, how):
    sees = np.array(
        [[9.0, -9.0, 9.0, -9.0] + [9.0] * (bench.dataset.num_labels - 4)], np.float32
    )  # classes 2, 4: never
    values = {"iterations": 1, "batch_size": 2, "crop_size": 32}
    bench.run("train-classifier", "sees", values)
    monkeypatch.setattr(
        "stages.localization.class_scores.class_scores", lambda network, images, ids, *rest: sees.repeat(len(ids), 0)
    )
    inputs = {"data": "partly", "classifier": "sees"}
    made = bench.run("predict", f"seen-{how}", ALL | {"image_labels": how, "output": "masks"}, inputs)
    seen = [k + 1 for k, logit in enumerate(sees[0]) if logit > 0]
    for image_id, labels in partly.items():
        shown = seen if labels is None or how == "ignore" else [c for c in labels if c in seen]
        expected = respected(predicted(bench, image_id), shown, "exclude" if how == "ignore" else how)
        assert_winners(mask_of(made, image_id), expected)


def test_a_folder_of_images_has_no_labels_but_a_classifier_may_know_them(bench, tmp_path):
    Image.fromarray(bench.dataset.image(bench.dataset.ids("val")[0])).save(tmp_path / "a.png")
    values = {"images": str(tmp_path), "image_labels": "share", "output": "masks"}
    with pytest.raises(ConfigError, match="image_labels: share needs a data set with labels; a folder") as caught:
        bench.run("predict", "x", values, {"data": None})
    assert "--classifier" in str(caught.value.hint)
    bench.run("train-classifier", "sees", {"iterations": 1, "batch_size": 2, "crop_size": 32})
    made = bench.run("predict", "own", values | {"class_threshold": 1.0}, {"data": None, "classifier": "sees"})
    assert mask_of(made, "a").max() == 0


# --- the other stages ---


@pytest.mark.parametrize(("how", "crf"), [("share", None), ("share", {}), ("exclude", None), ("ignore", None)])
def test_retrain_labels_by_the_formula(bench, partly, how, crf):
    values = {"image_labels": how, "crf": crf, "splits": ["weak", "unlabelled"], "training": TRAINING}
    progress = Notes()
    made = bench.run("retrain", f"round-{how}-{crf is None}", values, {"data": "partly"}, progress=progress)
    assert any("1 of 5 images have no known labels" in note for note in progress.said) == (how != "ignore")
    for image_id, labels in partly.items():
        expected = respected(predicted(bench, image_id), labels, how)
        if crf is None:
            assert_winners(mask_of(made, image_id), expected)
        elif labels:
            classes = [0, *labels]
            scores = expected[classes].astype(np.float32)
            after = crf_probabilities(bench.dataset.image(image_id), scores, named_parameters("dsrg-test"))
            assert (mask_of(made, image_id) == np.array(classes)[after.argmax(0)]).mean() > 0.999


def test_retrain_shares_by_default_and_predict_ignores():
    assert (RetrainConfig().image_labels, PredictConfig().image_labels) == ("share", "ignore")


def test_reliability_compares_the_masks_that_the_labels_leave(bench, partly):
    bench.add_snapshots("labelled-teacher", {2: 1, 4: 2, 6: 0})
    values = {"splits": ["weak", "unlabelled"], "image_labels": "share"}
    inputs = {"data": "partly", "segmenter": "labelled-teacher"}
    scores = bench.run("reliability", "labelled-ranks", values, inputs).json("reliability.json", dict)["scores"]
    plain = bench.run("reliability", "plain-ranks", values | {"image_labels": "ignore"}, inputs)
    assert scores != plain.json("reliability.json", dict)["scores"]
    artifact = bench.workspace.artifact("labelled-teacher")
    networks = [load_network(artifact, file) for file in ("snapshots/2.pt", "snapshots/4.pt", "weights.pt")]
    for image_id, labels in partly.items():
        masks = []
        for network in networks:
            views = predict_probabilities(network, bench.dataset, [image_id], InferenceConfig(), torch.device("cpu"))
            ((_, batch),) = views
            masks.append(respected(batch[0].double().numpy(), labels, "share").argmax(0).ravel())
        *earlier, last = masks
        expected = np.mean([jaccard_score(one, last, average="macro", zero_division=0) for one in earlier])
        assert scores[image_id] == pytest.approx(expected, abs=2e-3)


def test_the_crf_works_on_the_shared_probabilities(bench, partly):
    values = ALL | {"image_labels": "share", "min_class_probability": 0, "stride": 1, "output": "probabilities"}
    bench.run("predict", "for-shared-crf", values, {"data": "partly"})
    inputs = {"data": "partly", "predictions": "for-shared-crf"}
    progress = Notes()
    made = bench.run("crf", "shared-crf", {"labels": "tags", "splits": ["weak"]}, inputs, progress=progress)
    assert not progress.said
    for image_id, labels in partly.items():
        if labels is None:
            continue
        classes = [0, *labels]
        scores = respected(predicted(bench, image_id), labels, "share")[classes].astype(np.float32)
        after = crf_probabilities(bench.dataset.image(image_id), scores, named_parameters("dsrg-test"))
        assert (mask_of(made, image_id) == np.array(classes)[after.argmax(0)]).mean() > 0.995


def test_a_crf_that_leaves_absent_classes_out_of_plain_predictions_says_what_that_does(bench):
    bench.run("predict", "plain-for-crf", {"splits": ["weak"], "output": "probabilities"})
    progress = Notes()
    bench.run("crf", "by-tags", {"labels": "tags"}, {"predictions": "plain-for-crf"}, progress=progress)
    assert [note for note in progress.said if "predict with image_labels=share" in note]


# --- the former key ---


def test_the_former_key_names_the_new_one():
    for config in (PredictConfig, RetrainConfig):
        with pytest.raises(ConfigError, match=r"restrict_to_labels: .* image_labels: exclude .* share"):
            build(config, {"restrict_to_labels": True}, "mine.yaml")


def test_an_artifact_of_the_former_key_is_stale_and_not_damaged(bench):
    bench.run("predict", "former", {"output": "masks"})
    path = bench.workspace.folder("former") / MANIFEST_NAME
    record = json.loads(path.read_text())
    del record["config"]["image_labels"]
    record["config"]["restrict_to_labels"] = False
    path.write_text(json.dumps(record | {"stage_version": 3}))
    state = next(state for state in workspace_states(bench.workspace, {}) if state.name == "former")
    assert state.state == "stale"
    assert "restrict_to_labels" in " ".join(state.reasons)
    assert mask_of(bench.workspace.artifact("former"), bench.dataset.ids("val")[0]).shape
