"""Networks of timm (PyTorch Image Models), an optional dependency: built, and their published weights, by name."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.config import TIMM_INSTALL

WEIGHTS = {
    "hrnet_w18_small": "hrnet_w18_small.ms_in1k",  # Microsoft's, those of the papers
    "hrnet_w48": "hrnet_w48.ms_in1k",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
}


def create(name: str, **changes: Any) -> nn.Module:
    """timm's network with random weights (from torch's global generator). ConfigError where timm is not installed."""
    return _timm().create_model(name, pretrained=False, **changes)


def pretrained_state(name: str) -> dict[str, Tensor]:
    """The published weights of a backbone by timm's names, from its cache or by its download."""
    tag = WEIGHTS[name]
    try:
        return dict(_timm().create_model(tag, pretrained=True).state_dict())
    except ConfigError:
        raise
    except Exception as error:  # what a download can raise is a matter of the hub's client and its HTTP library
        raise ConfigError(
            f"timm's weights {tag} could not be loaded: {error}",
            f"where there is a network: torch.save(timm.create_model('{tag}', pretrained=True).state_dict(), FILE); "
            "then set network.weights to that file's path, or to none",
        ) from error


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(f"timm could not be imported: {error}", TIMM_INSTALL) from error
