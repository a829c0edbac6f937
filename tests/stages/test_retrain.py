"""stages/retrain.py: which masks are made, what is trained on them, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.errors import ArtifactError, ConfigError
from artifacts.masks import read_mask
from stages.contract import PlainProgress
from stages.engine.config import InferenceConfig
from stages.engine.inference import predict_probabilities
from stages.localization.crf_parameters import named_parameters
from stages.localization.dense_crf import crf_probabilities
from stages.networks import load_network

TRAINING = {"iterations": 3, "batch_size": 2, "crop_size": 32, "augmentation": {"scale": [1.0, 1.0]}}


def masks(artifact) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path) for path in sorted((artifact.path / "masks").glob("*.png"))}


def by_hand(bench, ids, crf: bool) -> dict[str, np.ndarray]:
    """The same masks, image by image, from the parts."""
    import torch

    network = load_network(bench.workspace.artifact("segmenter"))
    found = {}
    for image_id in ids:
        views = predict_probabilities(network, bench.dataset, [image_id], InferenceConfig(), torch.device("cpu"))
        ((_, batch),) = views
        classes = [0, *bench.dataset.tags(image_id)]
        scores = batch[0].numpy()[classes]
        scores /= scores.sum(0)
        if crf:
            scores = crf_probabilities(bench.dataset.image(image_id), scores, named_parameters("dsrg-test"))
        found[image_id] = np.asarray(classes, np.uint8)[scores.argmax(0)]
    return found


@pytest.mark.parametrize(("name", "crf", "workers"), [("crf", {}, 1), ("plain", None, 1), ("pool", {}, 2)])
def test_masks_are_the_restricted_refined_predictions(bench, name, crf, workers):
    values = {"labels": "oversampled", "crf": crf, "image_labels": "exclude", "training": TRAINING}
    artifact = bench.run("retrain", f"retrain-{name}", values, workers=workers)
    made, ids = masks(artifact), bench.dataset.ids("weak")
    assert sorted(made) == sorted(ids)
    expected = by_hand(bench, ids, crf is not None)
    for image_id in ids:
        assert np.array_equal(made[image_id], expected[image_id]), image_id
        assert set(np.unique(made[image_id])) <= {0, *bench.dataset.tags(image_id)}


def test_damaged_weights_of_the_fresh_network_are_refused_before_images_are_labelled(bench, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"PK no weights")
    network = {"preset": "mobilenet_v2", "weights": str(tmp_path / "net.pth")}
    with pytest.raises(ArtifactError, match=r"net\.pth"):
        bench.run("retrain", "retrain-damaged", {"crf": None, "training": {**TRAINING, "network": network}})
    assert bench.workspace.partials("retrain-damaged") == []


def test_estimated_labels_every_training_image_and_sees_no_mask(bench):
    values = {"labels": "estimated", "splits": ["train", "weak"], "crf": None, "training": TRAINING}
    artifact = bench.run("retrain", "retrain-estimated", values)
    assert sorted(masks(artifact)) == sorted({*bench.dataset.ids("train"), *bench.dataset.ids("weak")})
    assert artifact.summary["images"] == {"weak": 9}
    assert artifact.kind == "segmenter"
    assert load_network(artifact).class_names == bench.dataset.class_names


def test_unsure_pixels_teach_nothing(bench):
    values = {"crf": None, "min_confidence": 0.9, "training": TRAINING}
    made = masks(bench.run("retrain", "retrain-sure", values))
    assert any((mask == 255).any() for mask in made.values())


def test_a_killed_run_keeps_its_masks(bench):
    values = {"crf": None, "training": TRAINING | {"seed": 5}}
    whole = bench.run("retrain", "retrain-whole", values)

    class Stopped(Exception):  # noqa: N818 - stands for a kill
        pass

    class Stop:
        def track(self, total, description, unit="images", done=0):
            if description == "training":
                raise Stopped
            return PlainProgress(1e9).track(total, description, unit, done)

        def note(self, text):
            return None

    with pytest.raises(Stopped):
        bench.run("retrain", "retrain-cut", values, progress=Stop())
    (partial,) = bench.workspace.partials("retrain-cut")
    before = {path.name: path.stat().st_mtime_ns for path in (partial / "masks").glob("*.png")}
    again = bench.run("retrain", "retrain-cut", values)
    after = {path.name: path.stat().st_mtime_ns for path in (again.path / "masks").glob("*.png")}
    assert before == after
    assert again.manifest.content == whole.manifest.content
    assert again.manifest.resumed == 1


def test_start_from_the_segmenter_differs_from_a_fresh_start(bench):
    fresh = bench.run("retrain", "retrain-fresh", {"crf": None, "training": TRAINING})
    going_on = bench.run("retrain", "retrain-on", {"crf": None, "start": "segmenter", "training": TRAINING})
    assert fresh.manifest.content != going_on.manifest.content


def test_what_makes_no_sense_is_refused(bench):
    with pytest.raises(ConfigError, match=r"training\.method cannot be set"):
        bench.run("retrain", "r", {"training": TRAINING | {"method": "cps"}})
    with pytest.raises(ConfigError, match="keeps its exact masks"):
        bench.run("retrain", "r", {"labels": "mixed", "splits": ["train", "weak"], "training": TRAINING})
    bench.add_segmenter("other-classes", ("background", "cat"))
    with pytest.raises(ConfigError, match="the network knows the classes background, cat"):
        bench.run("retrain", "r", {"training": TRAINING}, {"segmenter": "other-classes"})
    with pytest.raises(ArtifactError, match="needs the input 'segmenter'"):
        bench.run("retrain", "r", {"training": TRAINING}, {"segmenter": None})
