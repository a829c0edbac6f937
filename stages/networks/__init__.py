"""Networks: backbones, necks and heads, built from a config.

Neither the config (`stages.networks.config`) nor this module loads torch before one of its names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.networks.blocks import upsample
    from stages.networks.classifier import Classifier, build_classifier
    from stages.networks.loading import load_network
    from stages.networks.normalisation import normalise
    from stages.networks.registry import CamNetwork, GroupCamNetwork, network_kind, network_spec
    from stages.networks.segmenter import Segmenter, build_segmenter, make_head, parameter_groups

_HOMES = {
    "CamNetwork": "registry",
    "GroupCamNetwork": "registry",
    "Classifier": "classifier",
    "build_classifier": "classifier",
    "on_cells": "heads",
    "upsample": "blocks",
    "load_network": "loading",
    "network_kind": "registry",
    "network_spec": "registry",
    "normalise": "normalisation",
    "Segmenter": "segmenter",
    "build_segmenter": "segmenter",
    "make_head": "segmenter",
    "parameter_groups": "segmenter",
}

__all__ = [
    "CamNetwork",
    "Classifier",
    "GroupCamNetwork",
    "Segmenter",
    "build_classifier",
    "build_segmenter",
    "load_network",
    "make_head",
    "network_kind",
    "network_spec",
    "normalise",
    "on_cells",
    "parameter_groups",
    "upsample",
]


def __getattr__(name: str) -> Any:
    # on first use, so that reading a config (stages.networks.config) does not import torch
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
