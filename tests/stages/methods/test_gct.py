"""stages/methods/gct.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from stages.engine.config import OptimizerConfig
from stages.engine.method import segment
from stages.engine.optimizers import build_optimizers
from stages.engine.teacher import sigmoid_ramp
from stages.methods.parts.flaw_maps import flaw_target, less_flawed, tidy

SMALL = {"flaw_detector": {"channels": [4, 4]}, "visible": 0.0}


@pytest.fixture
def made(case):
    """Builds a case whose first unlabelled image is padded below row 20; its detector sees flaws."""

    def build(**settings):
        example = case("gct", **SMALL | settings)
        batch = example.batch["unlabelled"]
        valid = batch.valid.clone()
        valid[0, 20:] = False
        example.batch["unlabelled"] = batch.replace(valid=valid, image=batch.image * valid[:, None])
        if "flaw_detector" in example.method.networks:
            with torch.no_grad():
                example.method.networks["flaw_detector"].flaws.bias.fill_(0.5)
        return example

    return build


def test_swapped_networks_swap_the_losses(made):
    example = made(ramp=0.0)
    before, networks = example.losses(), example.method.networks
    networks["segmenter"], networks["second"] = networks["second"], networks["segmenter"]
    after = example.losses()
    assert len(before) == 8
    for term in ("supervised", "flaw_correction", "consistency", "flaw_detector"):
        assert before[f"{term}_1"] != before[f"{term}_2"], term
        torch.testing.assert_close(after[f"{term}_1"], before[f"{term}_2"])
        torch.testing.assert_close(after[f"{term}_2"], before[f"{term}_1"])


def test_each_term_by_plain_formulas(made):
    """Pixel by pixel over boolean masks, from what networks and detector say."""
    example = made(ramp=0.5, weight=50.0, flaw_correction=3.0, threshold=0.4, detector_weight=7.0, mu=0.6)
    labelled, unlabelled = example.batch["strong"], example.batch["unlabelled"]
    images, valid = (torch.cat([getattr(b, part) for b in (labelled, unlabelled)]) for part in ("image", "valid"))
    assert not valid.all()
    networks = example.method.networks
    logits = [segment(networks[name], labelled.replace(image=images)) for name in ("segmenter", "second")]
    found = [(scores.softmax(1) * valid[:, None]).detach() for scores in logits]
    raw = [networks["flaw_detector"](images, p)[:, 0].detach() for p in found]
    flaws = [tidy(said, valid, 0.0) for said in raw]
    losses = example.method.losses(example.batch, 1)  # of 6: the ramp ends at 3
    bad = (flaws[0] > 0.4) & (flaws[1] > 0.4) & valid
    assert 0 < bad.sum() < valid.sum()
    for own, other, number in ((0, 1, 1), (1, 0, 2)):
        expected = 3.0 * (raw[own][bad] ** 2).sum() / valid.sum()
        torch.testing.assert_close(losses[f"flaw_correction_{number}"], expected)
        target = less_flawed(found[own], found[other], flaws[own], flaws[other], 0.4)
        squares = ((found[own] - target) ** 2).permute(0, 2, 3, 1)[valid]
        expected = 50.0 * sigmoid_ramp(1, 3) * squares.mean()
        assert expected > 0
        torch.testing.assert_close(losses[f"consistency_{number}"], expected)
        known = labelled.label != 255
        truth = flaw_target(found[own][:2], labelled.label, 0.6, 1)
        expected = 0.5 * 7.0 * ((raw[own][:2] - truth)[known] ** 2).mean()
        torch.testing.assert_close(losses[f"flaw_detector_{number}"], expected)


@pytest.mark.parametrize(("threshold", "bad"), [(1.0, False), (0.4, True)])
def test_at_a_threshold_of_1_nothing_is_bad(threshold, bad, made):
    """Nor where a flaw map reaches 1: two equal networks have the same maps, whose highest flaw is 1."""
    example = made(threshold=threshold, flaw_correction=3.0)
    networks = example.method.networks
    networks["second"].load_state_dict(networks["segmenter"].state_dict())
    losses = example.losses()
    for number in ("1", "2"):
        term = f"flaw_correction_{number}"
        assert (losses[term].item() > 0) == bad
        gradients = [gradient for gradient in example.gradients(term).values() if gradient is not None]
        assert gradients
        assert any(gradient.any() for gradient in gradients) == bad


def test_each_network_learns_from_its_own_terms_alone(made):
    """The consistency pulls a network towards the other without gradient to that; the detector is frozen for both."""
    example = made(ramp=0.0)
    for term, taught in (
        ("supervised_1", "segmenter"),
        ("flaw_correction_1", "segmenter"),
        ("consistency_1", "segmenter"),
        ("consistency_2", "second"),
        ("flaw_detector_1", "flaw_detector"),
        ("flaw_detector_2", "flaw_detector"),
    ):
        gradients = example.gradients(term)
        assert all(name.startswith(f"{taught}.") for name, gradient in gradients.items() if gradient is not None), term
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values()), term


def test_the_detector_has_an_optimiser_of_its_own_and_its_rate_is_applied(made):
    """Traps: a rate that is computed and never used, an optimiser that is not saved (the resume test of all cases)."""
    values = {"channels": [4, 4], "optimizer": {"name": "adam", "lr": 7e-4, "new_lr_factor": 1.0}}
    method = made(flaw_detector=values).method
    optimizers = build_optimizers(OptimizerConfig(), method.optimizers(), method.parameter_groups())
    assert {group["lr"] for group in optimizers["flaw_detector"].param_groups} == {7e-4}
    learned = sum(len(group["params"]) for group in optimizers["flaw_detector"].param_groups)
    assert learned == len(list(method.networks["flaw_detector"].parameters()))
