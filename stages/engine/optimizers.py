"""Optimisers over a method's parameter groups, and the schedule of their learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stages.engine.config import OptimizerConfig, ScheduleConfig

MAIN = "training"  # the optimiser of all networks without one of their own


def learning_rate_factor(config: ScheduleConfig, step: int, iterations: int) -> float:
    """The factor on every group's learning rate at `step` (0-based) of `iterations`."""
    warm = min((step + 1) / config.warmup, 1.0) if config.warmup else 1.0
    if config.name == "poly":
        return warm * (1 - step / iterations) ** config.power
    if config.name == "cosine":
        return warm * (config.last + (1 - config.last) * (1 + math.cos(math.pi * step / iterations)) / 2)
    if config.name == "step":
        return warm * config.gamma ** sum(step >= round(m * iterations) for m in config.milestones)
    return warm


def build_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """The optimiser over a method's parameter groups, each with its learning rate and decay.

    A group may have an `lr_factor` of its own.
    """
    prepared = []
    for group in groups:
        name = group["name"]
        biases = name.endswith("biases")
        lr = config.lr * (config.new_lr_factor if ".new." in f".{name}." else 1.0) * group.get("lr_factor", 1.0)
        prepared.append(
            {
                "params": group["params"],
                "name": name,
                "lr": lr * (config.bias_lr_factor if biases else 1.0),
                "weight_decay": config.weight_decay if config.decay_biases or not biases else 0.0,
            }
        )
    if config.name == "sgd":
        return torch.optim.SGD(prepared, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(prepared, lr=config.lr, betas=config.betas, fused=fused)


def build_optimizers(
    config: OptimizerConfig, own: Mapping[str, OptimizerConfig], groups: list[dict[str, Any]]
) -> dict[str, torch.optim.Optimizer]:
    """The training's optimiser (`MAIN`), and one for each network in `own`; groups are named "network.origin.role".

    All step at once, from the gradients of one backward pass: in an adversarial pair each learns against the other
    as it was before the step, as in the published codes.
    """
    shares: dict[str, list[dict[str, Any]]] = {MAIN: [], **{name: [] for name in own}}
    for group in groups:
        network = group["name"].partition(".")[0]
        shares[network if network in own else MAIN].append(group)
    return {name: build_optimizer(own.get(name, config), share, fused=True) for name, share in shares.items()}


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """ValueError if the state of a parameter does not have its shape (nor is a single number), or is not
    finite: a fused optimiser would read beyond the end of a smaller tensor.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape not in (parameter.shape, ()) or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} {tuple(value.shape)} for a parameter {tuple(parameter.shape)}, or not finite")


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives the state of each parameter the parameter's own strides.

    Checkpoints hold contiguous tensors, and a fused optimiser walks through parameter, gradient and state by their
    addresses: without this a resumed training with channels_last weights would mix up its moments, silently.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
