"""stages/networks/affinity.py: any backbone with three levels, at stride 8, and what of it learns."""

from __future__ import annotations

import pytest
import torch

from artifacts.errors import ConfigError
from stages.networks import build_classifier, parameter_groups
from stages.networks.affinity import AffinityNetwork, build_affinity_network
from stages.networks.config import CLASSIFIER_PRESETS, ClassifierConfig
from stages.networks.resnet38 import ResNet38

FREE = {"weights": "none", "freeze_batch_norm": False, "freeze_stages": 0}


def config(preset: str) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"preset": preset, **FREE})


@pytest.mark.parametrize("preset", [name for name in CLASSIFIER_PRESETS if name not in ("resnet101", "resnet38")])
def test_any_backbone_gives_features_at_stride_8_and_all_of_it_learns(preset):
    network = build_affinity_network(config(preset), seed=0)
    features = network(torch.rand(2, 3, 61, 67))
    assert features.shape == (2, 448, 8, 9)
    features.square().sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    assert network.pretrained == ()


def test_resnet38_is_read_as_psa_reads_it(monkeypatch):
    """conv4, conv5 and conv6, without GroupNorm; a narrow one, as the published has 137 million parameters."""
    monkeypatch.setattr("stages.networks.backbones.ResNet38", lambda stride: ResNet38(stride, width=2))
    network = build_affinity_network(config("resnet38"), seed=0).eval()
    x = torch.rand(1, 3, 56, 72)
    assert network(x).shape == (1, 448, 7, 9)
    assert [branch[0].in_channels for branch in network.branches] == [16, 32, 128]
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in network.modules())


def test_by_the_layers_written_out():
    """VGG16: conv4_3 and conv5_3 behind their ReLU, fc7 of conv5_3; each 1x1, GroupNorm, ELU; together 1x1, ELU."""
    network = build_affinity_network(config("vgg16-sec"), seed=3).eval()
    x = maps = torch.rand(1, 3, 40, 56)
    levels = []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for index in block:
            layer, dilation = network.backbone.features[index], 2 if index >= 24 else 1
            maps = torch.nn.functional.conv2d(maps, layer.weight, layer.bias, padding=dilation, dilation=dilation)
            maps = maps.relu()
        levels.append(maps)
        maps = torch.nn.functional.max_pool2d(maps, 3, stride=2 if block[0] < 17 else 1, padding=1)
    fc6, fc7 = network.last.fc6, network.last.fc7
    maps = torch.nn.functional.conv2d(levels[-1], fc6.weight, fc6.bias, padding=4, dilation=4).relu()
    levels.append(torch.nn.functional.conv2d(maps, fc7.weight, fc7.bias).relu())
    read = [torch.nn.functional.elu(branch(level)) for branch, level in zip(network.branches, levels[-3:], strict=True)]
    expected = torch.nn.functional.elu(network.joint(torch.cat(read, 1)))
    torch.testing.assert_close(network(x), expected)


def test_frozen_stages_and_the_speeds_of_pretrained_and_new_layers(tmp_path):
    """conv1 and conv2 of VGG16 keep their weights; fc6 and fc7 come from the ImageNet classifier, thinned out."""
    state = build_affinity_network(config("vgg16-sec"), 1).backbone.features.state_dict()
    published = {f"features.{name}": value for name, value in state.items()}
    # all units alike, which takes 4096 times less space
    published["classifier.0.weight"] = torch.randn(512 * 7 * 7).expand(4096, -1)
    published["classifier.3.weight"] = torch.randn(4096).expand(4096, -1)
    published |= {"classifier.0.bias": torch.randn(4096), "classifier.3.bias": torch.randn(4096)}
    torch.save(published, tmp_path / "vgg16.pth")
    given = {"preset": "vgg16-sec", "weights": str(tmp_path / "vgg16.pth"), "freeze_stages": 2}
    network = build_affinity_network(ClassifierConfig.model_validate(given), seed=0)
    frozen = [name for name, value in network.named_parameters() if not value.requires_grad]
    assert frozen == [f"backbone.features.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")]
    weight = published["classifier.0.weight"][20].view(512, 7, 7)
    assert torch.equal(network.last.fc6.weight[5, 7], weight[7][[0, 3, 6]][:, [0, 3, 6]])
    assert torch.equal(network.last.fc7.bias, published["classifier.3.bias"][::4])
    groups = {group["name"]: len(group["params"]) for group in parameter_groups(network, network.pretrained)}
    assert groups == {"pretrained.weights": 11, "pretrained.biases": 11, "new.weights": 4, "new.biases": 6}


def test_the_backbone_of_a_classifier_is_taken_and_its_batch_norm_stays():
    classifier = build_classifier(config("mobilenet_v2"), 3, seed=5)
    given = ClassifierConfig.model_validate({"preset": "mobilenet_v2", "weights": "none"})
    network = build_affinity_network(given, 0, classifier.state_dict()).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in classifier.backbone.state_dict().items())
    assert network.pretrained == ("backbone.",)
    network(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    with pytest.raises(ConfigError, match="the input 'initial'"):
        build_affinity_network(config("tiny"), 0, classifier.state_dict())
    with pytest.raises(ConfigError, match="no statistics worth freezing"):
        build_affinity_network(given, 0)


def test_what_is_saved_builds_the_network_again():
    network = build_affinity_network(config("tiny"), seed=1).eval()
    spec = network.spec(("background", "cat"))
    again = AffinityNetwork.from_spec(spec).eval()
    again.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 40, 40)
    assert spec["kind"] == "affinity"
    assert torch.equal(network(x), again(x))
