"""What of a backbone does not learn: all of it, its first stages, its BatchNorm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from artifacts.errors import ConfigError
from stages.networks.blocks import Backbone, Features
from stages.networks.config import BackboneConfig


def freeze(backbone: Backbone, config: BackboneConfig) -> None:
    """Freeze what the config says. ConfigError: the backbone has fewer stages."""
    if config.freeze == "encoder":
        backbone.frozen = True
        backbone.requires_grad_(False).eval()
        return
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


def encode(backbone: Backbone, images: Tensor, known: Features | None = None) -> Features:
    """The features of normalised images (B, 3, H, W); on a CPU a frozen backbone sees one image after the other.

    So the features of an image are the same, to the bit, in every batch, and kept ones can stand for them.

    Args:
        known: the features of the first images, where they are kept; the others are computed.
    """
    alone = backbone.frozen and images.device.type == "cpu"
    if not known and not alone:
        return backbone(images)
    rest = images[len(known["high"]) if known else 0 :]
    parts = rest.split(1 if alone else max(len(rest), 1)) if len(rest) else ()
    return joined([*([known] if known else []), *map(backbone, parts)])


def joined(parts: Sequence[Features]) -> Features:
    """The features of several batches in one, in the maps that the first part has, with channels_last memory."""
    return {
        name: torch.cat([part[name] for part in parts]).contiguous(memory_format=torch.channels_last)
        for name in parts[0]
    }


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and statistics: names, shapes, types and values."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not name.endswith(".num_batches_tracked"):  # they have no influence
            found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
