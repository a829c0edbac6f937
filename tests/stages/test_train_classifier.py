"""stages/train_classifier.py: what it learns, how it is scored, and that it continues to the same bits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from artifacts.errors import ConfigError, DataError
from stages.evaluation.average_precision import average_precision
from stages.localization.class_scores import BATCH, class_scores
from stages.networks import load_network, normalise
from stages.pipeline.run_stage import run_stage
from stages.train_classifier import STAGE
from tests.stages.drawn_training import StopAt, StoppedError, publish_dataset


def train(training, name, execution, stop=None, **changes):
    execution = dataclasses.replace(execution, checkpoint_every_s=0.0, progress=StopAt(stop))
    config = training.classifier_config(**changes)
    return run_stage(STAGE, config, training.space, name, {"data": "data"}, execution).artifact


def test_a_stopped_training_ends_like_one_that_was_not(training, execution):
    """With dropout 0.5, AdamW and an averaged network."""
    changes = {"iterations": 5, "seed": 4}
    whole = train(training, "classifier-whole", execution, **changes)
    for stop in (1, 4):
        with pytest.raises(StoppedError):
            train(training, "classifier-cut", execution, stop, **changes)
    cut = train(training, "classifier-cut", execution, **changes)
    assert cut.manifest.content == whole.manifest.content
    assert cut.summary["average_precision"] == whole.summary["average_precision"]
    logs = []
    for artifact in (whole, cut):
        lines = [json.loads(line) for line in artifact.file("local/metrics.jsonl").read_text().splitlines()]
        logs.append([{key: value for key, value in line.items() if key != "time"} for line in lines])
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [2, 4, 5]


def test_it_learns_the_drawn_colours(training, execution):
    """Boxes of three colours: 60 steps of a tiny net tell them apart; scored as scikit-learn scores its logits."""
    artifact = train(
        training, "classifier", execution, iterations=60, network={"preset": "tiny", "dropout": 0.0}, ema_decay=None
    )
    assert artifact.kind == "classifier"
    assert artifact.summary["images"] == {"labelled": 11}
    network, dataset = load_network(artifact), training.dataset
    ids = dataset.ids("train")
    scores = class_scores(network, dataset, ids, 33, torch.device("cpu"), workers=2)
    present = np.stack([dataset.tags_vector(image_id) for image_id in ids])
    learned = np.mean([average_precision_score(present[:, k], scores[:, k]) for k in range(3)])
    assert learned > 0.9
    held_out = dataset.ids("val")
    scores = class_scores(network, dataset, held_out, 33, torch.device("cpu"), workers=1)
    present = np.stack([dataset.tags_vector(image_id) for image_id in held_out])
    for k, name in enumerate(("red", "green", "blue")):
        expected = average_precision_score(present[:, k], scores[:, k]) if present[:, k].any() else None
        assert artifact.summary["average_precision"][name] == pytest.approx(expected)


def test_scores_are_those_of_one_image_at_a_time(training, monkeypatch):
    from stages.localization import class_scores as scoring
    from stages.networks import build_classifier
    from stages.networks.config import ClassifierConfig

    network = build_classifier(ClassifierConfig.model_validate("tiny"), 3, seed=0).eval()
    ids = [image_id for split in ("train", "weak", "val") for image_id in training.dataset.ids(split)]
    assert len(ids) < BATCH
    monkeypatch.setattr(scoring, "BATCH", 5)  # three batches, the last one short
    scores = class_scores(network, training.dataset, ids, 40, torch.device("cpu"), workers=2)
    for row, image_id in zip(scores, ids, strict=True):
        image = Image.fromarray(training.dataset.image(image_id)).resize((40, 40), Image.Resampling.BILINEAR)
        with torch.inference_mode():
            alone = network(normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]))[0]
        np.testing.assert_allclose(row, alone.numpy(), rtol=1e-4, atol=1e-5)


def test_masks_are_not_looked_at(own_training, execution):
    folder = own_training.space.folder("data") / "masks"
    before = train(own_training, "with-masks", execution, iterations=2).manifest.content
    for mask in folder.iterdir():
        mask.unlink()
    assert train(own_training, "without-masks", execution, iterations=2).manifest.content == before


def test_images_without_labels_are_counted_and_a_data_set_without_any_is_refused(own_training, execution):
    masks = publish_dataset(own_training.space, untagged=["s1"])
    assert train(own_training, "fewer", execution, iterations=1).summary["without_label"] == 1
    publish_dataset(own_training.space, untagged=list(masks))
    with pytest.raises(DataError, match="has an image-level label"):
        train(own_training, "none", execution, iterations=1, seed=2)


def test_mistakes_are_named(training, execution):
    with pytest.raises(DataError, match="no split 'trian'"):
        train(training, "typo", execution, splits=["trian"])
    with pytest.raises(ConfigError, match=r"network\.weights names /no/weights, which is not there"):
        train(training, "weights", execution, network={"preset": "tiny", "weights": "/no/weights"})


# --- average precision ---


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_average_precision_is_scikit_learns_also_with_ties(pairs):
    scores, present = np.array([p[0] / 3 for p in pairs]), np.array([p[1] for p in pairs])
    found = average_precision(scores, present)
    if not present.any():
        assert found is None
    else:
        assert found == pytest.approx(average_precision_score(present, scores))


def test_average_precision_by_hand():
    """Ranks of the positives: 1, 3, 4. (1/1 + 2/3 + 3/4) / 3."""
    scores, present = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False])
    assert average_precision(scores, present) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
