"""stages/engine/batch_norm.py in one process; two are compared with it in test_distributed.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stages.engine.batch_norm import JointBatchNorm, join_batch_norm
from stages.networks import build_segmenter
from stages.networks.config import NetworkConfig
from tests.stages.engine import joint_batch_norm as script


def test_one_process_uses_the_plain_layer_to_the_bit():
    plain, joint = script.network(), join_batch_norm(script.network())
    for name, expected in script.computed(plain, slice(0, 8)).items():
        assert torch.equal(script.computed(join_batch_norm(script.network()), slice(0, 8))[name], expected), name
    assert [type(module) for module in joint.modules()].count(JointBatchNorm) == 2


def test_a_converted_network_keeps_names_weights_and_frozen_layers():
    config = {"backbone": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False, "head_norm": "batch"}
    network = build_segmenter(NetworkConfig.model_validate(config), 4, seed=0)
    network.backbone.freeze_batch_norm()
    expected, parameters = copy.deepcopy(network.state_dict()), dict(network.named_parameters())
    converted = join_batch_norm(network).train()
    assert list(converted.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in converted.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in converted.named_parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    frozen = [module for module in converted.backbone.modules() if isinstance(module, JointBatchNorm)]
    assert len(frozen) > 50
    assert not any(module.training or module.weight.requires_grad for module in frozen)
    assert any(module.training for module in converted.head.modules() if isinstance(module, JointBatchNorm))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="2 dimensions"):
        JointBatchNorm(3)(torch.zeros(4, 3))
