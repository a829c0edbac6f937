from __future__ import annotations

import subprocess
import sys
from typing import Any

import pydantic
import pytest

from artifacts.errors import ConfigError
from stages.config import Config, build
from stages.networks.config import CLASSIFIER_PRESETS, PRESETS, ClassifierConfig, NetworkConfig


class Owner(Config):
    network: NetworkConfig = NetworkConfig.model_validate("tiny")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_given_by_its_name(name: str) -> None:
    config = build(Owner, {"network": name}, "test").network
    for field, value in PRESETS[name].items():
        assert getattr(config, field) == value


@pytest.mark.parametrize("name", CLASSIFIER_PRESETS)
def test_a_classifier_preset_is_given_by_its_name(name: str) -> None:
    assert ClassifierConfig.model_validate(name).backbone == CLASSIFIER_PRESETS[name]["backbone"]


@pytest.mark.parametrize("key", ["preset", "="])  # "=": a recipe's `network: tiny` changed by `--set network.dropout=0`
def test_fields_beside_a_preset_override_it(key: str) -> None:
    config = build(
        Owner, {"network": {key: "deeplab-largefov-vgg16", "weights": "none", "neck_layers": 2}}, "t"
    ).network
    assert (config.head, config.head_channels, config.weights, config.neck_layers) == ("largefov", 1024, "none", 2)


def test_a_resolved_config_is_read_back_as_itself() -> None:
    config = NetworkConfig.model_validate({"preset": "deeplabv2-resnet101", "atrous_rates": [6, 12]})
    assert NetworkConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            "deeplab-largefov-vgg",
            ["'deeplab-largefov-vgg' is not a network preset", "did you mean 'deeplab-largefov-vgg16'"],
        ),
        ({"preset": "tiny", "output_stride": 32}, ["tiny has output_stride 8 or 16, not 32"]),
        ({"preset": "tiny", "weights": "imagenet"}, ["tiny has no ImageNet weights"]),
        ({"preset": "tiny", "head_channels": 0}, ["fcn needs at least 1"]),
        ({"preset": "tiny", "head": "largefov", "atrous_rates": [6, 12]}, ["largefov has one atrous rate"]),
        ({"preset": "tiny", "atrous_rates": [0]}, ["atrous_rates must be whole numbers from 1 on"]),
        ({"preset": "tiny", "hed": "fcn"}, ["network.hed", "did you mean 'head'"]),
        ({"preset": "tiny", "neck_layers": 4}, ["network.neck_layers"]),
    ],
)
def test_a_mistake_is_named(values: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Owner, {"network": values}, "recipe.yaml")
    for word in words:
        assert word in str(caught.value)


def test_the_rates_of_the_sources() -> None:
    assert NetworkConfig.model_validate("deeplab-aspp-vgg16").rates() == (6, 12, 18, 24)
    assert NetworkConfig.model_validate("deeplab-largefov-vgg16").rates() == (12,)
    assert NetworkConfig.model_validate("deeplabv3plus-resnet50").rates() == (6, 12, 18)
    assert NetworkConfig.model_validate({"preset": "deeplabv3plus-resnet50", "output_stride": 8}).rates() == (
        12,
        24,
        36,
    )


def test_a_missing_weights_file_is_found_before_work_starts(tmp_path: Any) -> None:
    config = NetworkConfig.model_validate({"preset": "mobilenet_v2", "weights": str(tmp_path / "nothing.pth")})
    with pytest.raises(ConfigError, match=r"there is no file .*nothing\.pth") as caught:
        config.check()
    assert caught.value.hint
    assert config.weights_file() == tmp_path / "nothing.pth"
    assert NetworkConfig.model_validate("mobilenet_v2").weights_file() is None


def test_freezing_statistics_of_no_data_is_refused() -> None:
    config = NetworkConfig.model_validate({"preset": "deeplabv2-resnet101", "weights": "none"})
    with pytest.raises(ConfigError, match="no statistics worth freezing"):
        config.check()
    NetworkConfig.model_validate({**config.model_dump(), "freeze_batch_norm": False}).check()
    NetworkConfig.model_validate({"preset": "deeplab-aspp-vgg16", "weights": "none"}).check()


def test_a_config_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        NetworkConfig.model_validate("tiny").head = "fcn"  # type: ignore[misc]


def test_reading_a_config_loads_no_torch() -> None:
    code = "import sys, stages.networks.config, stages.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("preset", ["deeplabv3plus-resnet50", "deeplabv3plus-resnet101"])
def test_deeplabv3plus_of_the_semi_supervised_codes_has_no_dropout(preset):
    """It would be in the labels that cps, fixmatch and unimatch make in train mode."""
    config = NetworkConfig.model_validate(preset)
    assert (config.dropout, config.freeze_batch_norm, config.head_norm) == (0.0, False, "batch")
