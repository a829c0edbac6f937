"""Chooses the network of a plan: a row of NETWORKS, where its weights come from, and how it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from artifacts.text import did_you_mean
from stages.networks.config import BACKBONES, PRESETS
from stages.planning import rules
from stages.planning.records import Choice, Machine, Wishes
from stages.planning.rules import NETWORKS, NetworkRule

PUBLISHED = ("imagenet", "pretrained")


@dataclass(frozen=True)
class ChosenNetwork:
    """A row of NETWORKS with the preset that is taken, where its weights come from, the reasons, and remarks."""

    rule: NetworkRule
    weights: str
    choices: tuple[Choice, ...]
    remarks: tuple[str, ...]


def choose_network(machine: Machine, wishes: Wishes) -> ChosenNetwork:
    """What was wished for, else the first network that suits the machine and has weights. ConfigError without any."""
    given, file = wishes.network, "" if wishes.weights in ("", *PUBLISHED, "none") else wishes.weights
    if given and given not in PRESETS:
        meant = did_you_mean(given, PRESETS, list_known=False)
        raise ConfigError(f"{wishes.named('network', given)}: not a preset{meant}", f"one of {', '.join(PRESETS)}")
    if file and not Path(file).expanduser().is_file():
        raise ConfigError(
            f"{wishes.named('weights', file)}: there is no such file", "a file of weights, imagenet (downloads) or none"
        )
    backbone = PRESETS[given]["backbone"] if given else _backbone_of(Path(file).name) if file else ""
    if file and not backbone:
        raise ConfigError(
            f"the name of {file} does not say which network the weights are of",
            "name it: " + wishes.named("network", ", ".join(rule.preset for rule in NETWORKS[:-1])),
        )
    rule = _rule(machine, wishes, backbone)
    rule = replace(rule, preset=given or rule.preset)
    weights, why, remarks = _weights(rule, machine, wishes, file)
    reason, source = ("as given", "--network") if given else (rule.reason, rule.source)
    if file and not given:
        reason, source = f"the weights are of {backbone}", "--weights"
    where = Choice("weights", weights, why, "--weights" if wishes.weights else rules.OWN_DATA)
    return ChosenNetwork(rule, weights, (Choice("network", rule.preset, reason, source), where), remarks)


def _rule(machine: Machine, wishes: Wishes, backbone: str) -> NetworkRule:
    """The row for a given backbone; else the first one that suits the machine and has the weights that are wanted."""
    if backbone:
        like = next((rule for rule in NETWORKS if rule.backbone == backbone), NETWORKS[0])
        return like if like.backbone == backbone else replace(like, backbone=backbone, classifier=None)
    fitting = [rule for rule in NETWORKS if rule.holds(machine)]
    if wishes.weights == "imagenet":
        return fitting[0]
    has = [rule for rule in fitting if rule.backbone in machine.cached] if wishes.weights == "" else []
    return has[0] if has else NETWORKS[-1]


def _backbone_of(file: str) -> str:
    """The backbone that a file of weights is named after; "" if none."""
    plain = file.lower().replace("-", "").replace("_", "")
    found = [name for name in BACKBONES if name != "tiny" and name.replace("_", "") in plain]
    return max(found, key=len, default="")


def _weights(rule: NetworkRule, machine: Machine, wishes: Wishes, file: str) -> tuple[str, str, tuple[str, ...]]:
    """What network.weights says, why, and remarks."""
    if file:
        return str(Path(file).expanduser().absolute()), "as given", ()
    if rule.backbone in machine.cached and wishes.weights in ("", "imagenet"):
        return "imagenet", "in torchvision's cache already: nothing is downloaded", ()
    if wishes.weights in PUBLISHED:
        return wishes.weights, "as given; they are downloaded once", ()
    if wishes.weights == "none":
        return "none", "as given", ()
    if rule.backbone == "tiny":
        remark = "random weights: with few masks a network with pretrained weights makes a much better start "
        hint = f"({wishes.named('weights', 'FILE')}, or imagenet, which downloads them)"
        return "none", "no pretrained weights were found on this machine", (remark + hint,)
    raise ConfigError(
        f"no weights of {rule.backbone} were found on this machine",
        f"{wishes.named('weights', 'FILE')}, imagenet (downloads them) or none",
    )


def optimizer_for(base: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """sgd: the learning rate follows the batch. adamw: the same rate was measured with batches of 8 and 16."""
    if base["name"] != "sgd":
        return dict(base)
    return {**base, "lr": float(f"{base['lr'] * batch / rules.SGD_BATCH:.4g}")}


def optimizer_choice(network: NetworkRule, optimizer: Mapping[str, Any]) -> Choice:
    reason = "the same for batches of 8 and 16" if optimizer["name"] != "sgd" else "lr follows the batch"
    if optimizer["new_lr_factor"] != 1:
        reason += f"; new layers learn {optimizer['new_lr_factor']} times as fast as pretrained ones"
    return Choice("optimizer", f"{optimizer['name']}, lr {optimizer['lr']:g}", reason, network.optimizer_source)
