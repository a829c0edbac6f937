"""What holds for every semi-supervised method (handbook-semi A21), whatever its idea is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from stages.engine.config import HardExamples
from stages.engine.method import segment
from stages.methods import METHODS

# Methods whose segmenter learns from exact masks in a term of its own, and the weight of that term.
SUPERVISED = {
    name: 0.5 if name in ("fixmatch", "unimatch", "unimatch-v2") else 1.0
    for name, settings in METHODS.items()
    if "labelled_share" in settings.model_fields and settings.hard_examples and name != "mlmt"
}
# One mean over masks and other labels.
ONE_MEAN = ("self-training", "st-plus-plus", "dmt")
# What takes away everything but the masks.
ALONE = {name: {"weight": 0.0} for name in (*SUPERVISED, *ONE_MEAN)} | {
    "gct": {"weight": 0.0, "flaw_correction": 0.0},
    "advsemseg": {"weight": 0.0, "adversarial": 0.0, "adversarial_unlabelled": 0.0},
    "s4gan": {"weight": 0.0, "feature_matching": 0.0},
    "dmt": {"weight": 0.0, "labelled_share": 0.5},
}
WITH_STATISTICS = {
    "preset": "tiny",
    "backbone": "mobilenet_v2",
    "freeze_batch_norm": False,
    "output_stride": 16,
    "head_norm": "batch",
    "head_channels": 8,
    "dropout": 0.0,
}


@pytest.mark.parametrize("name", ALONE)
def test_without_unlabelled_pictures_it_is_supervised_to_the_bit(name, case):
    """Gradients, and BatchNorm's statistics: no pass over an unlabelled picture is made."""
    made = case(name, network=WITH_STATISTICS, **ALONE[name])
    alone = case("supervised", batch_size=2, network=WITH_STATISTICS)
    assert made.batch["strong"].ids == alone.batch["strong"].ids
    found, expected = made.gradients(), alone.gradients()
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient), key
    for key, buffer in alone.method.networks.named_buffers():
        assert torch.equal(made.method.networks.get_buffer(key), buffer), key


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_supervised_term_is_the_cross_entropy_of_the_masks(name, case):
    """Beside the unlabelled terms, too, which have their published weights."""
    made = case(name)
    strong, networks = made.batch["strong"], made.method.networks
    two = {"supervised_1": "segmenter", "supervised_2": "second"}
    expected = {
        term: SUPERVISED[name] * F.cross_entropy(segment(networks[network], strong), strong.label, ignore_index=255)
        for term, network in (two if "second" in networks else {"supervised": "segmenter"}).items()
    }
    found = {term: value for term, value in made.losses().items() if term.startswith("supervised")}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SUPERVISED)
def test_hard_examples_act_on_the_supervised_terms_alone(name, case):
    plain, hard = case(name), case(name)
    hard.method.setup = dataclasses.replace(hard.method.setup, hard_examples=HardExamples(threshold=0.1, min_kept=5))
    losses = []
    for made in (plain, hard):
        torch.manual_seed(0)  # of s4gan's dropout
        losses.append(made.losses())
    before, after = losses
    for term, value in before.items():
        if term.startswith("supervised"):
            assert after[term] > 1.2 * value
        else:
            assert torch.equal(after[term], value), term


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_a_label_and_a_valid_pixel_teaches_nothing_wrong(name, case):
    made = case(name)
    for stream, batch in made.batch.items():
        nothing = torch.zeros_like(batch.valid)
        made.batch[stream] = batch.replace(valid=nothing, label=torch.full_like(batch.label, 255))
    losses = made.losses()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert all(value == 0 for term, value in losses.items() if term.startswith(("supervised", "cross_entropy")))
    gradients = made.gradients()
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
