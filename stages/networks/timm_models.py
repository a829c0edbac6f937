"""Networks of timm (PyTorch Image Models), an optional dependency: built, and their ImageNet weights, by name."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from artifacts.errors import ConfigError
from stages.networks.config import TIMM_INSTALL

IMAGENET_WEIGHTS = {
    "hrnet_w18_small": "hrnet_w18_small.ms_in1k",  # Microsoft's, those of the papers
    "hrnet_w48": "hrnet_w48.ms_in1k",
}


def create(name: str, **changes: Any) -> nn.Module:
    """timm's network with random weights (from torch's global generator). ConfigError where timm is not installed."""
    return _timm().create_model(name, pretrained=False, **changes)


def imagenet_state(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of a backbone by timm's names, from its cache or by its download."""
    tag = IMAGENET_WEIGHTS[name]
    try:
        return dict(_timm().create_model(tag, pretrained=True).state_dict())
    except ConfigError:
        raise
    except Exception as error:  # what a download can raise is a matter of the hub's client and its HTTP library
        raise ConfigError(
            f"timm's ImageNet weights {tag} could not be loaded: {error}",
            f"where there is a network: torch.save(timm.create_model('{tag}', pretrained=True).state_dict(), FILE); "
            "then set network.weights to that file's path, or to none",
        ) from error


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(f"timm could not be imported: {error}", TIMM_INSTALL) from error
