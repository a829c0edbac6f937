"""stages/networks/hrnet.py; timm's own network is the independent reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch

from artifacts.errors import ConfigError
from stages.networks import build_segmenter, load_network, make_head, timm_models
from stages.networks.config import NetworkConfig
from stages.networks.hrnet import HRNet
from stages.networks.segmenter import seeded

timm = pytest.importorskip("timm")
SMALL = {"preset": "hrnet-w18-small", "weights": "none"}


@pytest.fixture(scope="module")
def small() -> HRNet:
    with seeded(0):
        return HRNet("hrnet_w18_small").eval()


@pytest.fixture(scope="module")
def reference(small: HRNet) -> Any:
    """timm's network with the same weights; its features are the four branches."""
    net = timm.create_model("hrnet_w18_small", head="").eval()
    net.load_state_dict(small.state_dict())
    return net


def test_branches_are_timms(small: HRNet, reference: Any) -> None:
    """Upsampling keeps every cell of a coarser branch in its place: cell i of stride 32 is cell 8 i of stride 4."""
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features, branches = small(images), reference.forward_features(images)
    assert features["low"].shape == (2, 128, 16, 24)
    assert features["high"].shape == (2, 16 + 32 + 64 + 128, 16, 24)
    parts = features["high"].split([16, 32, 64, 128], dim=1)
    for part, branch, factor in zip(parts, branches, (1, 2, 4, 8), strict=True):
        torch.testing.assert_close(part[..., ::factor, ::factor], branch)


@pytest.mark.parametrize("size", [(33, 33), (48, 70), (97, 31)])
def test_maps_of_any_size_are_those_of_the_padded_image(small: HRNet, size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, *(-(-side // 32) * 32 for side in size))
    padded[..., : size[0], : size[1]] = images
    rows, columns = (-(-side // 4) for side in size)
    with torch.inference_mode():
        found, expected = small(images), small(padded)
    for name in ("low", "high"):
        assert found[name].shape[-2:] == (rows, columns)
        torch.testing.assert_close(found[name], expected[name][..., :rows, :columns])


def test_w48_has_the_published_size() -> None:
    """The paper's segmenter has 65.9 M parameters with its head of two 1x1 convolutions (Table 3)."""
    with torch.device("meta"):
        backbone = HRNet("hrnet_w48")
    assert (backbone.low_channels, backbone.high_channels, backbone.stride) == (256, 720, 4)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    head = 720 * 720 + 720 + 2 * 720 + 720 * 19 + 19
    assert round((count + head) / 1e6, 1) == 65.9


@pytest.mark.parametrize("head", ["fcn", "aspp", "largefov", "deeplabv3plus"])
def test_every_head_fits(head: str) -> None:
    config = NetworkConfig.model_validate({**SMALL, "head": head, "head_channels": 8})
    network = build_segmenter(config, 5, seed=0)
    features = network.trunk(torch.randn(2, 3, 33, 47))
    assert network.stride == 4
    logits = network.head(features)
    assert logits.shape == make_head(config, 5, seed=1)(features).shape == (2, 5, 9, 12)
    logits.sum().backward()
    assert network.backbone.conv1.weight.grad.abs().sum() > 0


def test_the_head_of_deeplab_sees_as_far_as_at_stride_16() -> None:
    config = NetworkConfig.model_validate({**SMALL, "head": "deeplabv3plus"})
    assert config.rates() == (24, 48, 72)


def test_presets() -> None:
    config = NetworkConfig.model_validate("hrnet-w48")
    assert (config.backbone, config.head, config.weights, config.output_stride) == ("hrnet_w48", "fcn", "imagenet", 4)
    with pytest.raises(pydantic.ValidationError, match="hrnet_w48 has output_stride 4, not 16"):
        NetworkConfig.model_validate({"preset": "hrnet-w48", "output_stride": 16})


def test_random_weights_without_normalisation_are_refused() -> None:
    with pytest.raises(ConfigError, match="no statistics worth freezing"):
        NetworkConfig.model_validate({**SMALL, "freeze_batch_norm": True}).check()


def test_a_state_dict_of_timm_is_loaded_whole(tmp_path: Path) -> None:
    """Also its classifier's layers are accounted for: what is left over is named and nothing else is."""
    torch.manual_seed(5)  # not the seed of the network below
    state = timm.create_model("hrnet_w18_small").state_dict()
    torch.save(state, tmp_path / "hrnet.pth")
    network = build_segmenter(
        NetworkConfig.model_validate({**SMALL, "weights": str(tmp_path / "hrnet.pth")}), 3, seed=0
    )
    own = network.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    assert {name.split(".")[0] for name in set(state) - set(own)} == {
        *("incre_modules", "downsamp_modules", "final_layer", "classifier")
    }
    assert network.pretrained == ("backbone.",)
    del state["stage4.0.branches.0.0.conv1.weight"]
    torch.save(state, tmp_path / "torn.pth")
    torn = NetworkConfig.model_validate({**SMALL, "weights": str(tmp_path / "torn.pth")})
    with pytest.raises(ConfigError, match=r"1 missing: stage4\.0\.branches\.0\.0\.conv1\.weight"):
        build_segmenter(torn, 3, seed=0)


def test_a_trained_network_comes_back(tmp_path: Path) -> None:
    import json

    network = build_segmenter(NetworkConfig.model_validate(SMALL), 3, seed=0)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "network.json").write_text(json.dumps(network.spec(("background", "cat", "cow"))))
    images = torch.randn(1, 3, 33, 40)
    assert torch.equal(load_network(tmp_path)(images), network.eval()(images))


def test_the_weights_are_those_of_the_seed() -> None:
    first, again, other = (build_segmenter(NetworkConfig.model_validate(SMALL), 3, seed) for seed in (0, 0, 1))
    name = "backbone.stage2.0.branches.0.0.conv1.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what Python does for a module that cannot be imported
    with pytest.raises(ConfigError, match="timm could not be imported") as caught:
        timm_models.create("hrnet_w48")
    assert caught.value.hint == "pip install 'semiseg[timm]'"
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ConfigError, match="hrnet_w18_small is built by timm, which is not installed") as caught:
        NetworkConfig.model_validate(SMALL).check()
    assert caught.value.hint == "pip install 'semiseg[timm]'"


def test_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants  # of the hub's client, which timm uses

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"timm's weights hrnet_w18_small\.ms_in1k could not") as caught:
        build_segmenter(NetworkConfig.model_validate("hrnet-w18-small"), 3, seed=0)
    assert "set network.weights to that file's path" in caught.value.hint
