"""stages/features.py: kept features give a training the same bits as the frozen encoder itself."""

from __future__ import annotations

import dataclasses
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.errors import ArtifactError, ConfigError, DataError
from artifacts.feature_maps import FeatureMaps
from artifacts.store import Artifact, Work
from stages.config import build
from stages.contract import Execution
from stages.features import STAGE, FeaturesConfig
from stages.methods import METHODS
from stages.networks import build_segmenter
from stages.networks.backbones import build_backbone
from stages.networks.config import NetworkConfig
from stages.pipeline.run_stage import run_stage
from stages.retrain import STAGE as RETRAIN
from tests.stages.drawn_training import CASES, StopAt, StoppedError
from tests.stages.test_train import log_lines, stop_and_continue, train

VIEWS = {"scale": [0.7, 1.3], "brightness": 0.3, "saturation": 0.2, "views": 3}
TAKING = [variant for variant in CASES if METHODS[CASES[variant]["name"]].as_drawn]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.manual_seed(5)
    checkpoint.save(path, build_backbone("tiny", 8).state_dict())
    return path


def network(weights, **changes):
    return {"preset": "tiny", "weights": str(weights), "freeze": "encoder", "dropout": 0.3} | changes


def make(training, execution, name, values, **changes):
    """The stage `features` on the drawn images."""
    config = build(FeaturesConfig, {"crop_size": 33, "augmentation": VIEWS, "splits": ["train", "weak"]} | values, "t")
    execution = dataclasses.replace(execution, **changes)
    return run_stage(STAGE, config, training.space, name, {"data": "data"}, execution).artifact


@pytest.fixture(scope="module")
def kept(training, weights):
    """Names of features of the drawn images, those of a segmenter's and of a classifier's encoder."""
    execution = Execution(device="cpu", workers=1)
    for of in ("segmenter", "classifier"):
        make(training, execution, f"kept-{of}", {"network": network(weights), "encoder_of": of})
    return {"segmenter": "kept-segmenter", "classifier": "kept-classifier"}


def training_of(training, weights, variant, **changes):
    kind = METHODS[CASES[variant]["name"]].card.output
    head = {"head_channels": 16} if kind == "segmenter" else {}
    return training.config(variant, **{"network": network(weights, **head), "augmentation": VIEWS, "seed": 3} | changes)


@pytest.mark.parametrize("variant", TAKING)
def test_a_training_gives_the_same_bits_with_kept_features(variant, training, execution, weights, kept):
    """Odd sizes, padding, colours, dropout, an averaged predictor."""
    config = training_of(training, weights, variant)
    given = {"features": kept[METHODS[CASES[variant]["name"]].card.output]}
    without = train(training, config, f"without-{variant}", execution)
    taken = train(training, config, f"with-{variant}", execution, inputs=given)
    assert log_lines(taken) == log_lines(without)
    assert taken.manifest.content == without.manifest.content
    assert "features" in taken.manifest.inputs


@pytest.mark.parametrize(
    "head", [{"backbone": "mobilenet_v2", "head": "deeplabv3plus"}, {"backbone": "timm:vit_tiny_patch16_224"}]
)
def test_other_encoders_too(head, training, execution, tmp_path):
    """BatchNorm and a decoder that reads two maps; a transformer with positions."""
    if "timm" in head["backbone"]:
        pytest.importorskip("timm")
    first = {**head, "weights": "none", "freeze_batch_norm": False}
    backbone = build_segmenter(NetworkConfig.model_validate(first), 4, seed=1).backbone
    checkpoint.save(tmp_path / "w.pt", backbone.state_dict())
    values = {**head, "weights": str(tmp_path / "w.pt"), "freeze": "encoder", "head_channels": 16}
    name = f"of-{backbone.__class__.__name__}"
    made = make(training, execution, name, {"network": values, "augmentation": {"mode": "resize", "views": 2}})
    config = training.config("dual-branch", network=values, augmentation={"mode": "resize", "views": 2}, iterations=3)
    without = train(training, config, f"without-{name}", execution)
    taken = train(training, config, f"with-{name}", execution, inputs={"features": name})
    assert taken.manifest.content == without.manifest.content
    assert set(FeatureMaps(made).record.maps) == ({"low", "high"} if "head" in head else {"high"})


def test_a_view_is_what_the_encoder_makes_of_the_image_by_hand(training, weights, kept):
    """Whole images (mode resize): view 1 is the mirror image of view 0."""
    made = make(
        training,
        Execution(device="cpu", workers=1),
        "whole-images",
        {"network": network(weights), "splits": ["val"], "augmentation": {"mode": "resize", "views": 2}},
    )
    dataset, backbone = Dataset(training.space.artifact("data")), build_backbone("tiny", 8).eval()
    backbone.load_state_dict(checkpoint.load(weights))
    image = Image.fromarray(dataset.image("v1")).resize((33, 33), Image.Resampling.BILINEAR)
    for view in range(2):
        pixels = np.array(image)[:, :: -1 if view else 1] / 255
        seen = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.no_grad():
            expected = backbone(torch.from_numpy(seen.transpose(2, 0, 1)[None].copy()).float())["high"][0]
        found = FeatureMaps(made).read("v1", view)
        assert set(found) == {"high"}
        torch.testing.assert_close(torch.from_numpy(found["high"]), expected, rtol=1e-4, atol=1e-5)
    assert made.summary["bytes_per_image"] == 2 * 4 * 96 * 5 * 5


def test_a_stopped_stage_keeps_what_is_whole(training, weights, execution, kept):
    values = {"network": network(weights)}
    with pytest.raises(StoppedError):
        make(training, execution, "cut", values, progress=StopAt(4))
    cut = make(training, execution, "cut", values, progress=(after := StopAt(None)))
    assert len(after.shown) == 11 - 4
    assert cut.manifest.content == training.space.artifact(kept["segmenter"]).manifest.content


def test_two_ranks_give_what_one_gives(training, weights, execution, kept, monkeypatch):
    config = build(
        FeaturesConfig,
        {"crop_size": 33, "augmentation": VIEWS, "splits": ["train", "weak"], "network": network(weights)},
        "test",
    )
    one = training.space.artifact(kept["segmenter"])
    with training.space.writing("by-two", Work("features", 1, "features", "0" * 64, {}, {}, {})) as writer:
        for rank in (1, 0):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            STAGE.run(config, STAGE.open({"data": training.space.artifact("data")}), writer, execution)
            made = {path.name for path in (writer.path / "features").glob("*.h5")}
            assert len(made) == (5 if rank else 11)
        for item in one.manifest.items:
            assert (writer.path / item).read_bytes() == one.file(item).read_bytes(), item
        writer.discard()


def test_retrain_takes_features(training, execution, weights, kept):
    config = {
        "labels": "mixed",
        "training": {
            **training.values(network=network(weights), augmentation=VIEWS),
            "iterations": 2,
        },
    }
    del config["training"]["method"]
    config = build(RETRAIN.config, config, "test")
    inputs = {"data": "data", "weak_labels": "weak-labels"}
    without = run_stage(RETRAIN, config, training.space, "again", inputs, execution).artifact
    taken = run_stage(RETRAIN, config, training.space, "kept", inputs | {"features": "kept-segmenter"}, execution)
    assert taken.artifact.manifest.content == without.manifest.content


# --- refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 41}, "crop_size: 33, here 41"),
        ({"augmentation": VIEWS | {"views": None}}, "augmentation.views: 3, here None"),
        ({"augmentation": VIEWS | {"scale": [0.5, 2]}}, r"augmentation.scale: \[0.7, 1.3\], here \[0.5, 2.0\]"),
        ({"precision": "bf16"}, "precision: fp32, here bfloat16"),
        ({"output_stride": 16}, "network.output_stride: 8, here 16"),
        ({"freeze": "none"}, "set network.freeze to encoder"),
        ({"head": "deeplabv3plus"}, "lack the maps low"),
    ],
)
def test_features_of_other_settings_are_refused(changes, message, training, execution, weights, kept):
    parts = {key: changes[key] for key in ("output_stride", "freeze", "head") if key in changes}
    others = {key: value for key, value in changes.items() if key not in parts}
    config = training_of(training, weights, "supervised", network=network(weights, **parts), **others)
    with pytest.raises((ConfigError, DataError)) as raised:
        train(training, config, "refused", execution, inputs={"features": kept["segmenter"]})
    assert re.search(message, f"{raised.value.message} {raised.value.hint}")
    assert "refused" not in training.space.names()


def test_features_of_other_weights_and_other_images_are_refused(training, execution, weights, kept, tmp_path):
    state = checkpoint.load(weights)
    next(iter(state.values())).view(-1)[0] += 1e-6
    checkpoint.save(tmp_path / "other.pt", state)
    config = training_of(training, weights, "supervised", network=network(tmp_path / "other.pt"))
    with pytest.raises(ConfigError, match=r"network\.weights: other values"):
        train(training, config, "refused", execution, inputs={"features": kept["segmenter"]})
    make(training, execution, "few", {"network": network(weights), "splits": ["train"]})
    config = training_of(training, weights, "supervised")
    with pytest.raises(DataError, match="5 of 11 images have no features in 'few': w0, w1"):
        train(training, config, "refused", execution, inputs={"features": "few"})


def test_a_method_that_changes_its_images_takes_no_features(training, execution, weights, kept):
    config = training_of(training, weights, "fixmatch")
    with pytest.raises(ConfigError, match="method fixmatch shows its networks images") as raised:
        train(training, config, "refused", execution, inputs={"features": kept["segmenter"]})
    assert "supervised" in raised.value.hint


def test_random_weights_are_refused_with_a_cure_that_helps(training, execution):
    with pytest.raises(ConfigError, match="random weights are not worth keeping") as raised:
        make(training, execution, "refused", {"network": "tiny"})
    assert raised.value.hint.startswith("set network.weights to a file, or")
    assert "freeze" not in raised.value.hint


def test_views_must_be_fixed(training, execution, weights):
    with pytest.raises(ConfigError, match="each sample would be a new view"):
        make(training, execution, "refused", {"network": network(weights), "augmentation": {"views": None}})


@pytest.mark.parametrize("damage", ["missing", "cut", "bytes", "shape", "schema"])
def test_damaged_features_are_named(damage, training, execution, kept, tmp_path):
    made = training.space.artifact(kept["segmenter"])
    shutil.copytree(made.path, tmp_path / "copy")
    path = tmp_path / "copy" / "features" / "s3.h5"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "bytes":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        with h5py.File(path, "r+") as file:
            if damage == "schema":
                file.attrs["schema"] = 2
            else:
                del file["high"]
                file["high"] = np.zeros((3, 96, 5, 4), np.float32)
    maps = FeatureMaps(Artifact(tmp_path / "copy"))
    with pytest.raises(ArtifactError, match="s3"):
        [maps.read("s3", view) for view in range(3)]
    assert maps.read("s4", 0)["high"].shape == (96, 5, 5)


def test_a_training_with_features_continues_to_the_same_bits(training, execution, weights, kept):
    config = training_of(training, weights, "dual-branch")

    def given(config):
        return {"data": "data", "weak_labels": "weak-labels", "features": kept["segmenter"]}

    class WithFeatures:
        space, inputs = training.space, staticmethod(given)

    cut = stop_and_continue(WithFeatures, config, "cut-with", execution, steps=(2, 5))
    whole = train(WithFeatures, config, "whole-with", execution)
    assert cut.manifest.content == whole.manifest.content
