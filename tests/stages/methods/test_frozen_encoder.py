"""`network.freeze: encoder` in every method: the encoder stays, everything else learns."""

from __future__ import annotations

import pytest
import torch

from artifacts import checkpoint
from artifacts.errors import ConfigError
from stages.methods import METHODS
from stages.networks import build_segmenter
from stages.networks.backbones import build_backbone
from stages.networks.config import NetworkConfig
from tests.stages.drawn_training import CASES
from tests.stages.test_train import stop_and_continue, train


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with weights of the backbone tiny, the same for segmenters and classifiers."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.manual_seed(5)
    checkpoint.save(path, build_backbone("tiny", 8).state_dict())
    return path


VARIANTS = [variant for variant, settings in CASES.items() if not METHODS[settings["name"]].own_network]


def frozen(weights, **changes):
    return {"preset": "tiny", "dropout": 0.3, "weights": str(weights), "freeze": "encoder"} | changes


def backbones(networks):
    """The parameters and statistics of all backbones, by name."""
    return {name: value.clone() for name, value in networks.state_dict().items() if ".backbone." in f".{name}"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_rest_of_the_networks_learns(variant, case, weights):
    settings = dict(CASES[variant])
    made = case(settings.pop("name"), network=frozen(weights), **settings)
    method = made.method
    trained = {id(parameter) for group in method.parameter_groups() for parameter in group["params"]}
    names = {name for name, parameter in method.networks.named_parameters() if id(parameter) in trained}
    assert names
    assert not [name for name in names if "backbone." in name]
    for step in (0, method.setup.iterations - 1):
        method.networks.zero_grad(set_to_none=True)
        sum(method.losses(made.batch, step).values()).backward()
        learned = {name for name, value in method.networks.named_parameters() if value.grad is not None}
        assert learned == names
    for name, module in method.networks.named_modules():
        assert not (module.training and "backbone" in name.split(".")), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_training_ends_like_one_that_was_not_with_the_weights_it_was_given(
    variant, training, execution, weights
):
    kind = METHODS[CASES[variant]["name"]].card.output
    head = {"head_channels": 16} if kind == "segmenter" else {}
    config = training.config(variant, network=frozen(weights, **head), iterations=3, log_every=1)
    whole = train(training, config, f"frozen-{variant}", execution)
    cut = stop_and_continue(training, config, f"frozen-cut-{variant}", execution, steps=(2,))
    assert cut.manifest.content == whole.manifest.content
    given, found = checkpoint.load(weights), checkpoint.load(whole.file("weights.pt"))
    assert all(torch.equal(found[f"backbone.{name}"], value) for name, value in given.items())


def test_statistics_stay_and_dropped_paths_do_not_drop():
    backbone = {"backbone": "mobilenet_v2", "freeze_batch_norm": False, "output_stride": 16}
    network = build_segmenter(NetworkConfig.model_validate(backbone | {"freeze": "none"}), 3, seed=0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network = type(network)(NetworkConfig.model_validate(backbone | {"freeze": "encoder"}), 3).train()
    network.load_state_dict(state)
    images = torch.randn(3, 3, 33, 47).contiguous(memory_format=torch.channels_last)
    network(images).sum().backward()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items() if "backbone" in name)
    alone = network.trunk(images[1:2])
    assert all(torch.equal(maps[1:2], alone[name]) for name, maps in network.trunk(images).items())
    assert not network.trunk(images)["high"].requires_grad


def test_random_weights_are_not_frozen():
    with pytest.raises(ConfigError, match="weights none and freeze encoder") as raised:
        build_segmenter(NetworkConfig.model_validate({"preset": "tiny", "freeze": "encoder"}), 3, seed=0)
    assert "network.freeze to none" in raised.value.hint
