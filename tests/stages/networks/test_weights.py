from __future__ import annotations

import json
import os
import random
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError
from stages.networks import Classifier, Segmenter, build_classifier, build_segmenter, load_network
from stages.networks.config import ClassifierConfig, NetworkConfig
from stages.networks.segmenter import _decimate_vgg
from tests.fuzz.artifact_bytes import WEIGHTS_FORGERIES, forge_weights, read_weights, tiny_module

NAMES = ("background", "cat", "cow")


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)  # not the seed of any network below
    return torchvision.models.mobilenet_v2(weights=None).state_dict()


def _config(file: Path, **changes: Any) -> NetworkConfig:
    return NetworkConfig.model_validate({"preset": "mobilenet_v2", "weights": str(file), **changes})


def test_a_torchvision_state_dict_is_loaded_whole(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    torch.save(mobilenet, tmp_path / "net.pth")
    network = build_segmenter(_config(tmp_path / "net.pth"), 3, seed=0)
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, mobilenet[key]), key
    classifier = build_classifier(_config(tmp_path / "net.pth"), 2, seed=0)
    loaded = classifier.backbone.state_dict()
    assert set(mobilenet) - set(loaded) == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(value, mobilenet[key]) for key, value in loaded.items())
    assert {g["name"] for g in network.parameter_groups()} == {"pretrained.weights", "new.weights", "new.biases"}


def test_another_classifier_or_none_is_no_obstacle(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    state = {k: v for k, v in mobilenet.items() if not k.startswith("classifier.")}
    torch.save({**state, "classifier.1.weight": torch.zeros(5, 1280)}, tmp_path / "net.pth")
    build_segmenter(_config(tmp_path / "net.pth"), 3, seed=0)


def test_files_of_before_the_batch_counters_load(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    state = {k: v for k, v in mobilenet.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    build_segmenter(_config(tmp_path / "old.pth"), 3, seed=0)


def test_every_key_that_does_not_fit_is_named(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    state = dict(mobilenet)
    del state["features.3.conv.2.weight"], state["features.9.conv.3.running_mean"]
    state["features.0.0.weight"] = torch.zeros(32, 4, 3, 3)
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ConfigError) as caught:
        build_segmenter(_config(tmp_path / "net.pth"), 3, seed=0)
    message = caught.value.message
    assert "2 missing: features.3.conv.2.weight, features.9.conv.3.running_mean" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of a different shape: features.0.0.weight (32, 4, 3, 3) instead of (32, 3, 3, 3)" in message
    assert str(tmp_path / "net.pth") in message
    assert caught.value.hint


def test_weights_of_another_network_are_refused(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    torch.save(mobilenet, tmp_path / "net.pth")
    config = NetworkConfig.model_validate({"preset": "deeplabv3plus-resnet50", "weights": str(tmp_path / "net.pth")})
    with pytest.raises(ConfigError, match=r"missing: conv1\.weight"):
        build_segmenter(config, 3, seed=0)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"net\.pth"):
        build_segmenter(_config(tmp_path / "net.pth"), 3, seed=0)


def test_of_a_training_checkpoint_the_network_is_taken(tmp_path: Path, mobilenet: dict[str, torch.Tensor]) -> None:
    """{"model": ...} is how many networks are published; DistributedDataParallel puts module. before every name."""
    wrapped = {f"module.{key}": value for key, value in mobilenet.items()}
    torch.save({"state_dict": wrapped, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "net.pth")
    loaded = build_segmenter(_config(tmp_path / "net.pth"), 3, seed=0).backbone.state_dict()
    assert all(torch.equal(value, mobilenet[key]) for key, value in loaded.items())
    torch.save({"network": mobilenet, "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="not a state dict"):
        build_segmenter(_config(tmp_path / "other.pth"), 3, seed=0)


def test_a_safetensors_file_is_loaded_and_a_damaged_one_named(
    tmp_path: Path, mobilenet: dict[str, torch.Tensor]
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(mobilenet, tmp_path / "net.safetensors")
    loaded = build_segmenter(_config(tmp_path / "net.safetensors"), 3, seed=0).backbone.state_dict()
    assert all(torch.equal(value, mobilenet[key]) for key, value in loaded.items())
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"torn\.safetensors is damaged or not a safetensors file"):
        build_segmenter(_config(tmp_path / "torn.safetensors"), 3, seed=0)


def test_without_a_network_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first request
    with pytest.raises(ConfigError) as caught:
        build_segmenter(NetworkConfig.model_validate("mobilenet_v2"), 3, seed=0)
    assert "mobilenet_v2 could not be loaded" in caught.value.message
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value.hint)


def test_a_wrong_file_in_torchvisions_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "mobilenet_v2-b0353104.pth").write_bytes(b"an interrupted download")
    with pytest.raises(ConfigError, match="mobilenet_v2 could not be loaded"):
        build_segmenter(NetworkConfig.model_validate("mobilenet_v2"), 3, seed=0)


def test_fc6_and_fc7_are_decimated_from_vgg16() -> None:
    """Every fourth neuron and every third position of 7 x 7, from weights that name their own row or column."""
    network = build_segmenter(_vgg(neck_layers=0), 2, seed=0)
    branch: Any = network.head.branches[0]  # type: ignore[index,union-attr]  # nn.Module types attributes as tensors or modules
    rows, columns = torch.arange(4096.0), torch.arange(512 * 49.0)
    state = {
        "classifier.0.weight": columns.expand(4096, -1),
        "classifier.0.bias": rows,
        "classifier.3.weight": rows.expand(4096, -1),
        "classifier.3.bias": rows,
    }
    assert _decimate_vgg(network, state) == ["head.branches.0.fc6.", "head.branches.0.fc7."]
    assert branch.fc6.weight[3, 5].tolist() == [[5 * 49 + 7 * y + x for x in (0, 3, 6)] for y in (0, 3, 6)]
    assert branch.fc6.bias[3] == branch.fc7.bias[3] == 12
    assert branch.fc7.weight[3, 7, 0, 0] == 28
    _decimate_vgg(network, {**state, "classifier.0.weight": rows[:, None].expand(-1, 512 * 49)})
    assert branch.fc6.weight[3].unique() == 12
    network.pretrained = ("backbone.", "head.branches.0.fc6.", "head.branches.0.fc7.")
    groups = {g["name"]: g["params"] for g in network.parameter_groups()}
    new = {id(p) for name in ("new.weights", "new.biases") for p in groups[name]}
    assert new == {id(p) for p in branch.fc8.parameters()}
    # behind a neck fc6 would see other features; another classifier than ImageNet's has nothing to give
    assert _decimate_vgg(build_segmenter(_vgg(neck_layers=1), 2, seed=0), state) == []
    assert _decimate_vgg(network, {**state, "classifier.3.weight": torch.zeros(20, 4096)}) == []


def _vgg(**changes: Any) -> NetworkConfig:
    return NetworkConfig.model_validate({"preset": "deeplab-largefov-vgg16", "weights": "none", **changes})


def _publish(network: Segmenter | Classifier, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_text(json.dumps(network.spec(NAMES)))
    checkpoint.save(folder / "weights.pt", network.state_dict())
    return folder


@pytest.mark.parametrize("kind", ["segmenter", "classifier", "frozen"])
def test_a_network_comes_back_from_its_artifact(tmp_path: Path, kind: str, mobilenet: dict[str, torch.Tensor]) -> None:
    network: Segmenter | Classifier
    if kind == "segmenter":
        network = build_segmenter(NetworkConfig.model_validate({"preset": "tiny", "neck_layers": 1}), 3, seed=5)
    elif kind == "classifier":
        network = build_classifier(ClassifierConfig.model_validate("tiny"), 2, seed=5)
    else:
        torch.save(mobilenet, tmp_path / "net.pth")
        network = build_segmenter(_config(tmp_path / "net.pth"), 3, seed=5)
    again = load_network(_publish(network, tmp_path / "run"))
    assert type(again) is type(network)
    assert not again.training
    assert again.class_names == NAMES
    assert again.pretrained == network.pretrained
    images = torch.randn(1, 3, 40, 33)
    assert torch.equal(again(images), network.eval()(images))
    assert str(tmp_path) not in (tmp_path / "run" / "network.json").read_text()  # no path of this machine


def test_a_trained_classifier_gives_a_segmenter_its_backbone(tmp_path: Path) -> None:
    classifier = build_classifier(ClassifierConfig.model_validate("tiny"), 2, seed=0)
    folder = _publish(classifier, tmp_path / "run")
    config = NetworkConfig.model_validate({"preset": "tiny", "weights": str(folder / "weights.pt")})
    network = build_segmenter(config, 3, seed=9)
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, classifier.backbone.state_dict()[key])


def test_an_artifact_that_is_not_whole_is_named(tmp_path: Path) -> None:
    network = build_segmenter(NetworkConfig.model_validate("tiny"), 3, seed=0)
    with pytest.raises(ArtifactError, match=r"has no network\.json"):
        load_network(tmp_path)
    folder = _publish(network, tmp_path / "run")
    spec = json.loads((folder / "network.json").read_text())

    (folder / "network.json").write_text(json.dumps({**spec, "num_classes": 4, "class_names": [*"abcd"]}))
    with pytest.raises(ArtifactError, match=r"of a different shape: head\.scores\.weight"):
        load_network(folder)
    (folder / "network.json").write_text(json.dumps({**spec, "schema": 99}))
    with pytest.raises(ArtifactError, match="schema 99"):
        load_network(folder)
    (folder / "network.json").write_text(json.dumps({**spec, "network": {"backbone": "alexnet"}}))
    with pytest.raises(ArtifactError, match="does not describe a network"):
        load_network(folder)
    (folder / "network.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        load_network(folder)
    (folder / "network.json").write_text(json.dumps(spec))
    (folder / "weights.pt").write_bytes((folder / "weights.pt").read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"weights\.pt"):
        load_network(folder)
    (folder / "weights.pt").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.pt is missing"):
        load_network(folder)


@pytest.mark.parametrize("name", WEIGHTS_FORGERIES)
def test_forged_weights_are_refused(tmp_path: Path, name: str) -> None:
    """All-NaN weights were loaded and scored, a compressed part of 4 GB was inflated."""
    forge_weights(tmp_path / "weights.pt", name, random.Random(0))
    with pytest.raises((ArtifactError, ConfigError)) as caught:
        read_weights(tmp_path / "weights.pt")
    assert str(tmp_path / "weights.pt") in caught.value.message
    assert caught.value.hint


def test_the_forger_writes_what_is_read_where_it_forges_nothing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "weights.pt", tiny_module().state_dict())
    found = read_weights(tmp_path / "weights.pt").state_dict()
    assert all(torch.equal(value, found[key]) for key, value in tiny_module().state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * float("nan"), "with values that are not finite numbers"),
        (lambda value: value.half(), r"of a different type: .* torch\.float16 instead of torch\.float32"),
        (lambda value: value.double(), r"of a different type: .* torch\.float64 instead of torch\.float32"),
    ],
)
def test_weights_of_an_artifact_are_finite_and_of_the_networks_type(tmp_path: Path, change: Any, message: str) -> None:
    network = build_segmenter(NetworkConfig.model_validate("tiny"), 3, seed=0)
    folder = _publish(network, tmp_path / "run")
    state = network.state_dict()
    spoilt = {key: change(value) if value.is_floating_point() else value for key, value in state.items()}
    checkpoint.save(folder / "weights.pt", spoilt)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_network(folder)
    assert "head.scores.weight" in caught.value.message


def test_pretrained_weights_in_half_precision_are_taken_and_those_that_are_not_finite_are_not(
    tmp_path: Path, mobilenet: dict[str, torch.Tensor]
) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in mobilenet.items()}
    torch.save(half, tmp_path / "half.pth")
    network = build_segmenter(_config(tmp_path / "half.pth"), 3, seed=0)
    assert torch.equal(network.backbone.state_dict()["features.0.0.weight"], half["features.0.0.weight"].float())
    for number, spoilt in enumerate((float("nan"), float("inf"), 1e300)):
        state = {**mobilenet, "features.0.0.weight": mobilenet["features.0.0.weight"].double() * spoilt}
        torch.save(state, tmp_path / f"{number}.pth")
        with pytest.raises(ConfigError, match=r"1 with values that are not finite numbers: features\.0\.0\.weight"):
            build_segmenter(_config(tmp_path / f"{number}.pth"), 3, seed=0)
    torch.save({**mobilenet, "features.0.0.weight": torch.ones(32, 3, 3, 3, dtype=torch.long)}, tmp_path / "int.pth")
    with pytest.raises(ConfigError, match=r"of a different type: features\.0\.0\.weight torch\.int64"):
        build_segmenter(_config(tmp_path / "int.pth"), 3, seed=0)


def test_a_name_for_each_class_is_asked_for() -> None:
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        build_segmenter(NetworkConfig.model_validate("tiny"), 3, seed=0).spec(["background", "cat"])


@pytest.mark.real
def test_real_imagenet_weights_load_strictly() -> None:
    folder = os.environ.get("SEMISEG_TEST_DATA")
    if not folder:
        pytest.skip("SEMISEG_TEST_DATA names no folder with real weights")
    file = Path(folder) / "weights" / "mobilenet_v2_in1k_tv_fp32.pth"
    reference = torchvision.models.mobilenet_v2(weights=None)
    reference.load_state_dict(torch.load(file, weights_only=True))
    network = build_classifier(
        ClassifierConfig.model_validate({"preset": "mobilenet_v2", "weights": str(file)}), 5, seed=0
    )
    plain = NetworkConfig.model_validate({"preset": "mobilenet_v2", "weights": str(file), "output_stride": 32})
    segmenter = build_segmenter(plain, 6, seed=0).eval()
    assert len(network.backbone.state_dict()) == len(reference.state_dict()) - 2
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = reference.eval().features[:18](images)
        assert torch.equal(segmenter.backbone(images)["high"], expected)
