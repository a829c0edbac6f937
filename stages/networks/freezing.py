"""What of a backbone does not learn: its first stages, its BatchNorm."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from artifacts.errors import ConfigError
from stages.networks.blocks import Backbone
from stages.networks.config import BackboneConfig


def freeze(backbone: Backbone, config: BackboneConfig) -> None:
    """Freeze what the config says. ConfigError: the backbone has fewer stages."""
    if config.freeze_stages:
        _freeze_stages(backbone, config.freeze_stages)
    if config.freeze_batch_norm:
        backbone.freeze_batch_norm(statistics=config.freeze_batch_norm != "affine")


def _freeze_stages(backbone: Backbone, count: int) -> None:
    """Whatever the first `count` levels are made by keeps its weights (no gradient) and its BatchNorm's statistics.

    Which parameters these are is told by the levels' gradients.
    """
    if count > len(backbone.level_strides):
        raise ConfigError(
            f"network.freeze_stages: found {count}, the backbone has {len(backbone.level_strides)} stages",
            f"give a number from 0 to {len(backbone.level_strides)}",
        )
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    side, training = 2 * max(backbone.level_strides), backbone.training
    with torch.enable_grad():
        levels = backbone.eval().levels(torch.zeros(1, 3, side, side, device=learning[0].device))[:count]
    gradients = torch.autograd.grad([level.sum() for level in levels], learning, allow_unused=True)
    frozen = {id(parameter) for parameter, found in zip(learning, gradients, strict=True) if found is not None}
    for parameter in learning:
        parameter.requires_grad_(id(parameter) not in frozen)
    backbone.frozen_norms = {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, _BatchNorm) and id(module.weight) in frozen
    }
    backbone.train(training)
