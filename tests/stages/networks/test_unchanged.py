"""Names, initial weights and outputs of the named networks, as they were before `levels` and timm:NAME came.

Weights that somebody trained must load and mean the same: a change here makes trained networks useless.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from stages.networks import build_classifier, build_segmenter
from stages.networks.config import ClassifierConfig, NetworkConfig

# by backbone, output stride and head: digest of the names, sum of all weights, sum of |logits|
V3 = "deeplabv3plus"
SEGMENTERS: dict[tuple[str, int, str, int], tuple[str, float, float]] = {
    ("tiny", 16, "fcn", 128): ("48b9ca6e9378d35a", 474.6503, 14.2134643),
    ("tiny", 8, V3, 128): ("baef9463e6b38059", 1274.8988, 196.4544983),
    ("vgg16", 8, "largefov", 64): ("fe07f7d7426555d7", -13.2379, 40.3691256),
    ("vgg16", 16, "fcn", 128): ("0b7e6690bff36f81", 92.8598, 13.7889833),
    ("vgg16", 32, V3, 128): ("057897256a8bb077", 1086.9814, 158.7125422),
    ("resnet50", 8, V3, 128): ("c2c5ad39e7619f53", 54152.8746, 147.2604650),
    ("resnet50", 16, V3, 128): ("c2c5ad39e7619f53", 54152.8746, 151.0448716),
    ("resnet50", 32, V3, 128): ("c2c5ad39e7619f53", 54152.8746, 154.7391269),
    ("mobilenet_v2", 8, V3, 128): ("d2bed56c5654ccd8", 32599.2627, 200.5758680),
    ("mobilenet_v2", 16, V3, 128): ("d2bed56c5654ccd8", 32599.2627, 200.5776259),
    ("hrnet_w18_small", 4, "fcn", 128): ("c29d5cfb3b4d5f99", 6805.8872, 117.7884410),
    ("hrnet_w18_small", 4, V3, 128): ("1c7a83b3adb5f162", 7759.9261, 145.6477728),
    ("dinov2_small", 14, "dpt", 32): ("4c7eb598f0890576", 9520.3257, 44.5542469),
}
CLASSIFIERS = {
    "tiny": ("75725af0598077d7", 358.6061, 0.4238551),
    "vgg16": ("5f1cbc4d41fd4908", 27.3385, 4.6975750),
    "resnet50": ("fd6ff9ffda73e2ec", 53102.7425, 77.7080946),
    "mobilenet_v2": ("f70b800e3cafebd2", 34139.2618, None),  # random features fade to nothing
}


def images() -> torch.Tensor:
    return torch.randn(2, 3, 71, 58, generator=torch.Generator().manual_seed(5))


def compare(network: Any, names: str, weights: float, logits: float | None) -> None:
    state = network.state_dict()
    assert hashlib.sha256("\n".join(state).encode()).hexdigest()[:16] == names
    assert sum(value.double().sum().item() for value in state.values()) == pytest.approx(weights, abs=1e-3)
    with torch.inference_mode():
        found = network.eval()(images()).double().abs().sum().item()
    assert logits is None or found == pytest.approx(logits, rel=1e-3)


@pytest.mark.parametrize("case", SEGMENTERS, ids=lambda case: "-".join(map(str, case[:3])))
def test_a_segmenter_is_what_it_was(case: tuple[str, int, str, int]) -> None:
    backbone, output_stride, head, channels = case
    if backbone.startswith(("hrnet", "dinov2")):
        pytest.importorskip("timm")
    values = {"backbone": backbone, "output_stride": output_stride, "head": head, "head_channels": channels}
    config = NetworkConfig.model_validate({**values, "freeze_batch_norm": False})
    compare(build_segmenter(config, 5, seed=3), *SEGMENTERS[case])


@pytest.mark.parametrize("backbone", CLASSIFIERS)
def test_a_classifier_is_what_it_was(backbone: str) -> None:
    config = ClassifierConfig.model_validate({"backbone": backbone, "freeze_batch_norm": False})
    compare(build_classifier(config, 4, seed=3), *CLASSIFIERS[backbone])
