"""stages/networks/freezing.py: the first stages of any backbone keep weights and statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from artifacts.errors import ConfigError
from stages.engine.batch_norm import join_batch_norm
from stages.networks import Classifier, Segmenter, build_segmenter
from stages.networks.backbones import build_backbone
from stages.networks.config import ClassifierConfig, NetworkConfig
from stages.networks.freezing import freeze


def config(stages: int, batch_norm: bool | str = False) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"freeze_stages": stages, "freeze_batch_norm": batch_norm})


FIRST_STAGES = {
    ("tiny", 1): ("stem.",),
    ("tiny", 2): ("stem.", "stage8."),
    ("resnet50", 1): ("conv1.", "bn1."),
    ("resnet50", 2): ("conv1.", "bn1.", "layer1."),
    ("mobilenet_v2", 1): ("features.0.", "features.1."),
    ("vgg16", 2): ("features.0.", "features.2.", "features.5.", "features.7."),  # conv1 and conv2
}


@pytest.mark.parametrize(("name", "count"), FIRST_STAGES)
def test_the_first_stages_do_not_learn_and_the_others_do(name: str, count: int) -> None:
    backbone = build_backbone(name, 16)
    state = copy.deepcopy(backbone.state_dict())
    freeze(backbone, config(count))
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in backbone.named_parameters() if n.startswith(FIRST_STAGES[name, count])}
    assert frozen
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)  # finding out changes nothing
    assert backbone.training


def test_statistics_of_frozen_stages_stay_also_in_copies_and_joint_layers() -> None:
    backbone = build_backbone("mobilenet_v2", 16)
    freeze(backbone, config(2))
    for network in (backbone, copy.deepcopy(backbone), join_batch_norm(copy.deepcopy(backbone))):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()(torch.randn(2, 3, 64, 64))["high"].square().sum().backward()
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        stages = {int(name.split(".")[1]) for name in changed}
        assert stages == set(range(4, 18))  # features.0 to 3 are the first two stages
        norms = [m for m in network.features[:4].modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # type: ignore[index]
        assert norms
        assert not any(norm.training for norm in norms)


def test_networks_are_frozen_as_their_configs_say() -> None:
    values = {"backbone": "resnet50", "freeze_stages": 2, "freeze_batch_norm": "affine"}
    with torch.device("meta"):
        networks = (
            Classifier(ClassifierConfig.model_validate(values), 3),
            Segmenter(NetworkConfig.model_validate(values), 4),
        )
    for network in networks:
        learning = {n for group in network.parameter_groups() for n in map(id, group["params"])}
        names = {name for name, parameter in network.backbone.named_parameters() if id(parameter) in learning}
        assert {name.partition(".")[0] for name in names} == {"layer2", "layer3", "layer4"}
        assert not any("bn" in name or "downsample.1" in name for name in names)
        network.train()
        assert not network.backbone.bn1.training
        assert network.backbone.layer2[0].bn1.training


def test_more_stages_than_there_are_is_one_clear_error(tmp_path) -> None:
    file = tmp_path / "tiny.pth"
    torch.save(build_backbone("tiny", 8).state_dict(), file)
    with pytest.raises(ConfigError, match=r"network\.freeze_stages: found 4, the backbone has 3 stages") as caught:
        build_segmenter(
            NetworkConfig.model_validate({"preset": "tiny", "weights": str(file), "freeze_stages": 4}), 3, seed=0
        )
    assert caught.value.hint == "give a number from 0 to 3"


def test_freezing_random_weights_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="tiny with weights none and freeze_stages 1: random weights are not"
    ) as caught:
        ClassifierConfig.model_validate({"preset": "tiny", "freeze_stages": 1}).check()
    assert caught.value.hint == "set network.weights to a file, or network.freeze_stages to 0"
