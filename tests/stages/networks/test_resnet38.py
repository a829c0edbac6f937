"""stages/networks/resnet38.py against the network written out by functions of torch, in narrow variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artifacts.errors import ConfigError, DataError
from stages.localization.activation_maps import gradient_magnitudes
from stages.networks import build_classifier
from stages.networks.blocks import initialise_scores
from stages.networks.config import ClassifierConfig, NetworkConfig
from stages.networks.folding import for_inference
from stages.networks.freezing import freeze
from stages.networks.resnet38 import ResNet38
from stages.networks.weights import load_pretrained
from tests.stages.networks.test_mxnet_params import file_bytes

# stages at output stride 8: units, (stride, dilation of the first kernel, of the others) of the first unit, of the rest
STRIDED = ((2, 1, 1), (1, 1, 1))
PLAIN = {"b2": (3, STRIDED), "b3": (3, STRIDED), "b4": (6, STRIDED), "b5": (3, ((1, 1, 2), (1, 2, 2)))}


def narrow(output_stride: int = 8, width: int = 4) -> ResNet38:
    torch.manual_seed(0)
    backbone = ResNet38(output_stride, width)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return backbone.eval()


def written_out(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """What b3, b4, b5, b6 read, and the output."""

    def norm_relu(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)

    levels = []
    x = F.conv2d(x, state["conv1a.weight"], padding=1)
    for stage, (count, rates) in PLAIN.items():
        for number in range(count):
            unit = f"{stage}_{number}" if number else stage
            stride, first, second = rates[number > 0]
            entered = norm_relu(f"{unit}.bn_branch2a", x)
            if stage != "b2" and number == 0:
                levels.append(entered)
            y = F.conv2d(entered, state[f"{unit}.conv_branch2a.weight"], None, stride, first, first)
            y = norm_relu(f"{unit}.bn_branch2b1", y)
            y = F.conv2d(y, state[f"{unit}.conv_branch2b1.weight"], None, 1, second, second)
            x = y + (x if number else F.conv2d(entered, state[f"{unit}.conv_branch1.weight"], None, stride))
    for unit in ("b6", "b7"):
        entered = norm_relu(f"{unit}.bn_branch2a", x)
        if unit == "b6":
            levels.append(entered)
        y = norm_relu(f"{unit}.bn_branch2b1", F.conv2d(entered, state[f"{unit}.conv_branch2a.weight"]))
        y = F.conv2d(y, state[f"{unit}.conv_branch2b1.weight"], None, 1, 4, 4)
        y = F.conv2d(norm_relu(f"{unit}.bn_branch2b2", y), state[f"{unit}.conv_branch2b2.weight"])
        x = y + F.conv2d(entered, state[f"{unit}.conv_branch1.weight"])
    return [*levels, norm_relu("bn7", x)]


@pytest.mark.parametrize("size", [(64, 64), (71, 58)])
def test_levels_are_those_of_the_network_written_out(size: tuple[int, int]) -> None:
    backbone, images = narrow().double(), torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        found, expected = backbone.levels(images), written_out(backbone.state_dict(), images)
        features = backbone(images)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert [level.shape[1] for level in found] == list(backbone.level_channels) == [8, 16, 32, 64, 256]
    assert backbone.level_strides == (2, 4, 8, 8, 8)
    assert torch.equal(features["low"], found[1])
    assert torch.equal(features["high"], found[-1])


def test_as_published_it_has_105_million_parameters() -> None:
    with torch.device("meta"):
        backbone = ResNet38(8)
    shapes = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 105_070_912
    assert backbone.level_channels == (128, 256, 512, 1024, 4096)
    assert shapes["conv1a.weight"] == (64, 3, 3, 3)
    assert shapes["b4_5.conv_branch2a.weight"] == (512, 512, 3, 3)
    assert shapes["b5.conv_branch1.weight"] == (1024, 512, 1, 1)
    assert shapes["b6.conv_branch2b1.weight"] == (1024, 512, 3, 3)
    assert shapes["b7.conv_branch2b2.weight"] == (4096, 2048, 1, 1)
    assert shapes["bn7.running_var"] == (4096,)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_samples_the_strided_network_more_densely(stride: int) -> None:
    strided, dilated = narrow(32).double(), narrow(stride).double()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 129, 97, dtype=torch.float64)
    with torch.no_grad():
        for number, (coarse, fine) in enumerate(zip(strided.levels(images), dilated.levels(images), strict=True)):
            step = strided.level_strides[number] // dilated.level_strides[number]
            torch.testing.assert_close(fine[..., ::step, ::step], coarse)
    assert (strided.level_strides, dilated.level_strides[-1]) == ((2, 4, 8, 16, 32), stride)


def mxnet_arrays(backbone: ResNet38) -> dict[str, np.ndarray]:
    """A backbone's weights by the names of the published file, with its classifier."""
    roles = {"running_mean": "moving_mean", "running_var": "moving_var", "bias": "beta"}
    arrays = {}
    for name, value in backbone.state_dict().items():
        layer, _, role = name.rpartition(".")
        if role == "num_batches_tracked":
            continue
        unit, _, part = layer.partition(".")  # b4_2, bn_branch2a
        kind, _, branch = part.partition("_")
        stage, _, number = unit.partition("_")
        place = f"{stage[1:]}{f'b{number}' if number else 'a'}"
        whole = {"": unit, "conv": f"res{place}_{branch}", "bn": f"bn{place}_{branch}"}[kind]
        is_weight = kind == "conv" or unit == "conv1a"
        ending = "weight" if is_weight else roles.get(role, "gamma")
        arrays[f"{'aux' if role.startswith('running') else 'arg'}:{whole}_{ending}"] = value.numpy()
    return arrays | {"arg:linear1000_weight": np.zeros((10, 16), "f4"), "arg:linear1000_bias": np.zeros(10, "f4")}


def from_file(file: Path) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"preset": "resnet38", "weights": str(file)})


def test_the_names_of_mxnet_are_those_of_the_published_file() -> None:
    names = mxnet_arrays(narrow(width=2))
    assert len(names) == 193  # with the classifier
    for name in ("arg:conv1a_weight", "arg:bn2a_branch2a_beta", "aux:bn4b5_branch2b1_moving_var", "arg:bn7_gamma"):
        assert name in names
    for name in ("arg:res2a_branch1_weight", "arg:res5b2_branch2b1_weight", "arg:res7a_branch2b2_weight"):
        assert name in names


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_file_of_mxnet_is_loaded_whole(tmp_path: Path, version: int) -> None:
    source = narrow(width=2)
    (tmp_path / "net.params").write_bytes(file_bytes(mxnet_arrays(source), version))
    backbone = ResNet38(8, width=2)
    unused = load_pretrained(backbone, from_file(tmp_path / "net.params"))
    assert set(unused) == {"linear1000_weight", "linear1000_bias"}
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    arrays = mxnet_arrays(narrow(width=2))
    del arrays["aux:bn4b2_branch2a_moving_var"]
    arrays["arg:res6a_branch1_weight"] = np.zeros((3, 3, 1, 1), "f4")
    arrays["arg:bn7_beta"] = np.full_like(arrays["arg:bn7_beta"], np.nan)
    arrays["arg:fc1_weight"] = np.zeros(1, "f4")
    (tmp_path / "net.params").write_bytes(file_bytes(arrays))
    with pytest.raises(ConfigError) as caught:
        load_pretrained(ResNet38(8, width=2), from_file(tmp_path / "net.params"))
    message = caught.value.message
    assert "1 missing: b4_2.bn_branch2a.running_var" in message
    assert "1 unexpected: fc1_weight" in message
    assert "1 of a different shape: b6.conv_branch1.weight (3, 3, 1, 1) instead of (64, 32, 1, 1)" in message
    assert "1 with values that are not finite numbers: bn7.bias" in message


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.params").write_bytes(file_bytes(mxnet_arrays(narrow(width=2)))[:-100_000])
    with pytest.raises(DataError, match=r"net\.params is damaged or no \.params file"):
        load_pretrained(ResNet38(8, width=2), from_file(tmp_path / "net.params"))


def test_the_state_dicts_of_psa_and_seam_load_without_their_heads(tmp_path: Path) -> None:
    source = narrow(width=2).state_dict()
    heads = {f"{name}.weight": torch.zeros(1) for name in ("fc8", "f8_3", "f8_4", "f8_5", "f9")}
    torch.save({**source, **heads}, tmp_path / "seam.pth")
    backbone = ResNet38(8, width=2)
    assert load_pretrained(backbone, from_file(tmp_path / "seam.pth")).keys() == heads.keys()
    assert all(torch.equal(value, source[name]) for name, value in backbone.state_dict().items())


def test_the_preset_freezes_what_psa_and_seam_freeze() -> None:
    backbone = narrow(width=2)
    freeze(backbone, ClassifierConfig.model_validate("resnet38"))
    backbone.train()
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    expected = {
        name
        for name, _ in backbone.named_parameters()
        if ".conv_" in name and name.partition(".")[0] not in ("b2", "b2_1", "b2_2")
    }
    assert learning == expected
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in backbone.modules() if isinstance(m, nn.Dropout2d))


def test_channels_are_dropped_whole_in_b6_and_b7() -> None:
    backbone = narrow(width=2).train()
    rates = {name: m.p for name, m in backbone.named_modules() if isinstance(m, nn.Dropout2d) and m.p}
    assert rates == {"b6.dropout": 0.3, "b7.dropout": 0.5}
    with torch.device("meta"):
        config = {"backbone": "resnet38", "freeze_batch_norm": False}
        classifier = build_classifier(ClassifierConfig.model_validate(config), 3, seed=0)
    assert isinstance(classifier.extra.dropout, nn.Dropout2d)
    assert classifier.extra.dropout.p == 0.5
    seen: list[Tensor] = []
    hook = backbone.b7.conv_branch2b1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.randn(2, 3, 64, 64))
    hook.remove()
    dropped = (seen[0] == 0).all(dim=3).all(dim=2)
    assert 0.3 < dropped.float().mean() < 0.7


class Maps(nn.Module):
    """The smallest thing with activation maps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = narrow(width=2)
        self.scores = nn.Conv2d(128, 3, 1, bias=False)
        initialise_scores(self.scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.backbone(images)["high"])


def test_the_copy_for_inference_has_fewer_batch_norms_and_the_same_maps() -> None:
    network, images = Maps().eval(), torch.randn(2, 3, 40, 48)
    quick = for_inference(network, torch.device("cpu"))
    count: Any = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (network, quick)]
    assert count == [37, 18]  # the first of a unit stands before its convolution, so does the last of all
    with torch.no_grad():
        torch.testing.assert_close(quick(images), network(images), rtol=1e-4, atol=1e-5)


def test_the_gradient_cue_is_read_at_stride_8() -> None:
    network = Maps().eval()
    layer = network.backbone.get_submodule(network.backbone.gradient_layer)
    found = gradient_magnitudes(network, layer, torch.randn(1, 3, 41, 33))  # type: ignore[arg-type]
    assert found.shape == (1, 6, 5)
    assert (found > 0).all()


def test_presets() -> None:
    config = NetworkConfig.model_validate("deeplab-largefov-resnet38")
    assert (config.backbone, config.head, config.output_stride, config.rates()) == ("resnet38", "largefov", 8, (12,))
    with pytest.raises(ConfigError, match="no statistics worth freezing") as caught:
        ClassifierConfig.model_validate("resnet38").check()
    assert caught.value.hint == "set network.weights to a file, or network.freeze_batch_norm to false"
    with pytest.raises(ValueError, match="resnet38 has no ImageNet weights to download: use weights none or a file"):
        ClassifierConfig.model_validate({"backbone": "resnet38", "weights": "imagenet"})
