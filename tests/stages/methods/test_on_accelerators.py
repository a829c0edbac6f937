"""What holds for every method on a GPU, shown without one: one device, no waiting for it, half precision."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from stages.engine.losses import hard_cross_entropy
from stages.engine.training_log import Means
from stages.methods import METHODS
from tests.stages.drawn_training import CASES
from tests.stages.fake_gpu import DataDependentOutputException, FakeTensorMode, fake, move

# no gradient within the losses, no objects that SciPy finds, no noise: a generator of a GPU cannot be faked
OWN_SETTINGS = {"cct": {"decoders": {"vat": 0, "cutout": 0, "feature_noise": 0}}}
NO_FAKE = (
    "vat",  # its direction is a gradient, and autograd asks the driver
    "dsrg",  # waits in every step: the dense CRF and the growing of seeds are on the CPU
    "weclip",  # gradients make its maps, and the boxes around their areas are found on the CPU
)


def moved(batch):
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    tensors = {name: fake(value) for name, value in values.items() if isinstance(value, Tensor)}
    return batch.replace(**tensors, extra={name: fake(value) for name, value in batch.extra.items()})


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NO_FAKE])
def test_a_step_stays_on_its_device_and_never_waits_for_it(name, case):
    settings = {**CASES[name], **OWN_SETTINGS.get(name, {})}
    made, means = case(settings.pop("name"), **settings), Means()
    with FakeTensorMode():
        for network in made.method.networks.values():
            move(network)
        batch = {stream: moved(part) for stream, part in made.batch.items()}
        for step in (0, made.method.setup.iterations - 1):
            losses = made.method.losses(batch, step)
            total = torch.stack(list(losses.values())).sum()
            assert (total.device.type, total.dtype) == ("cuda", torch.float32)
            made.method.after_step(step)
            means.add(step + 1, losses, made.method.observed)


def test_hard_examples_are_found_without_waiting():
    """However many pixels have labels."""
    with FakeTensorMode():
        logits, label = torch.randn(2, 4, 9, 9, device="cuda"), torch.zeros(2, 9, 9, dtype=torch.int64, device="cuda")
        assert hard_cross_entropy(logits, label, 0.7, 20).device.type == "cuda"


def test_waiting_and_mixing_are_seen():
    """The fakes tell what the test above relies on."""
    with FakeTensorMode():
        there = torch.ones(3, device="cuda")
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            there + torch.ones(3)


@pytest.mark.parametrize("variant", CASES)
def test_half_precision_changes_little(variant, case):
    """Losses in single precision, close to those without autocast, and finite gradients."""
    settings = dict(CASES[variant])
    name = settings.pop("name")
    made = case(name, **settings)
    torch.manual_seed(0)
    with torch.no_grad() if name not in ("vat", "cct") else torch.enable_grad():
        full = {term: float(value.detach()) for term, value in made.losses().items()}
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = made.losses()
    assert losses.keys() == full.keys()
    for term, value in losses.items():
        assert value.dtype == torch.float32, term
        assert float(value.detach()) == pytest.approx(full[term], rel=0.05, abs=0.02), term
    sum(losses.values()).backward()
    for parameter in made.method.networks.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
