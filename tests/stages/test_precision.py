"""precision on a CPU: bf16 trains, continues to the same bits and predicts as fp32 does; what is said of devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifacts.errors import ConfigError
from artifacts.masks import read_mask
from stages.engine.device import autocast_dtype, has_bf16
from stages.networks import load_network
from tests.stages.data.conftest import Notes
from tests.stages.test_train import stop_and_continue, train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MOBILENET = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False, "head_channels": 16}


def test_a_training_in_bf16_continues_to_the_same_bits_and_ends_near_that_in_fp32(training, execution):
    """With the network of small recipes, whose depthwise convolutions have gradients of their own."""
    made = {}
    for precision in ("fp32", "bf16"):
        config = training.config("supervised", seed=3, iterations=4, network=MOBILENET, precision=precision)
        made[precision] = train(training, config, f"whole-{precision}", execution)
    cut = stop_and_continue(training, config, "cut", execution, steps=(2, 3))
    assert cut.manifest.content == made["bf16"].manifest.content != made["fp32"].manifest.content
    losses = [artifact.manifest.summary["losses"]["cross_entropy"] for artifact in made.values()]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    weights = [load_network(artifact).state_dict() for artifact in made.values()]
    assert {value.dtype for value in weights[1].values()} == {torch.float32, torch.int64}


def test_masks_in_bf16_are_nearly_those_in_fp32(bench):
    masks = {}
    for precision in ("fp32", "bf16"):
        made = bench.run("predict", f"in-{precision}", {"splits": ["val", "train", "weak"], "precision": precision})
        masks[precision] = np.concatenate([read_mask(file).ravel() for file in sorted(made.path.glob("masks/*.png"))])
    assert len(np.unique(masks["fp32"])) > 2
    assert 0.97 < (masks["fp32"] == masks["bf16"]).mean() < 1


@pytest.mark.parametrize(
    ("precision", "device", "instructions", "expected", "notes"),
    [
        ("auto", CPU, True, None, 0),
        ("auto", CPU, False, None, 0),
        ("fp32", CPU, False, None, 0),
        ("bf16", CPU, True, torch.bfloat16, 0),
        ("bf16", CPU, False, torch.bfloat16, 1),
        ("auto", GPU, True, torch.bfloat16, 0),
        ("auto", GPU, False, None, 0),
        ("bf16", GPU, False, torch.bfloat16, 1),
        ("fp16", GPU, False, torch.float16, 0),
    ],
)
def test_the_arithmetic_of_every_precision_and_device(precision, device, instructions, expected, notes, monkeypatch):
    """A GPU before Ampere only emulates bf16, which torch counts as support unless it is asked otherwise."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or instructions
    )
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    progress = Notes()
    assert autocast_dtype(precision, device, progress.note) == expected
    assert len(progress.said) == notes


def test_a_processor_says_whether_it_has_bf16():
    assert isinstance(has_bf16(CPU), bool)


def test_fp16_without_a_gpu_is_refused(bench, training, execution):
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        bench.run("predict", "none", {"precision": "fp16"})
    config = training.config("supervised", precision="fp16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        train(training, config, "none", execution)
