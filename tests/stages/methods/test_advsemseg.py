"""stages/methods/advsemseg.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.config import OptimizerConfig
from stages.engine.method import segment
from stages.engine.optimizers import build_optimizers

SMALL = {"discriminator": {"channels": [4, 4, 4, 4]}}
SEGMENTER = ("supervised", "adversarial", "adversarial_unlabelled", "pseudo")


@pytest.fixture
def made(case):
    """Builds a case whose first unlabelled image is padded below row 20."""

    def build(**settings):
        example = case("advsemseg", **SMALL | settings)
        batch = example.batch["unlabelled"]
        valid = batch.valid.clone()
        valid[0, 20:] = False
        example.batch["unlabelled"] = batch.replace(valid=valid, image=batch.image * valid[:, None])
        return example

    return build


def maps(made):
    """Logits, and D's scores of the predictions with padding and unknown pixels zeroed, by stream."""
    segmenter, discriminator = made.method.networks["segmenter"], made.method.networks["discriminator"]
    found = {}
    for name, batch in made.batch.items():
        counted = batch.label != 255 if name == "strong" else batch.valid
        logits = segment(segmenter, batch)
        found[name] = logits, discriminator(logits.softmax(1) * counted[:, None])[:, 0], counted
    return found


def test_each_term_by_plain_formulas(made):
    """BCE of sigmoids in float64, pixel by pixel with numpy."""
    example = made(adversarial=0.3, adversarial_unlabelled=0.2, weight=0.7, start=0.0, threshold=0.5)
    discriminator = example.method.networks["discriminator"]
    found, losses = maps(example), example.losses()

    def mean_of(scores, counted, real):
        sigmoid = 1 / (1 + np.exp(-scores.detach().double().numpy()))
        return -np.log(sigmoid if real else 1 - sigmoid)[counted.numpy()].mean()

    strong, weak = found["strong"], found["unlabelled"]
    assert losses["adversarial"].item() == pytest.approx(0.3 * mean_of(*strong[1:], True), rel=1e-5)
    assert losses["adversarial_unlabelled"].item() == pytest.approx(0.2 * mean_of(*weak[1:], True), rel=1e-5)
    label = example.batch["strong"].label
    planes = torch.stack([(label == c).float() for c in range(4)], 1)
    assert (planes.sum(1) == 0).any()  # unknown pixels: no class, and not asked for
    real = mean_of(discriminator(planes)[:, 0], label != 255, True)
    fake = mean_of(torch.cat([strong[1], weak[1]]), torch.cat([strong[2], weak[2]]), False)
    assert losses["discriminator"].item() == pytest.approx(0.5 * (real + fake), rel=1e-5)
    pseudo = weak[0].argmax(1)
    pseudo[(weak[1].sigmoid() < 0.5) | ~weak[2]] = 255
    assert 0 < (pseudo != 255).sum() < weak[2].sum()  # some pixels pass
    expected = F.cross_entropy(weak[0], pseudo, ignore_index=255)
    torch.testing.assert_close(losses["pseudo"], 0.7 * expected)


def test_each_network_learns_from_its_own_terms_alone(made):
    example = made(start=0.0)
    for terms, taught in ((SEGMENTER, "segmenter"), (("discriminator",), "discriminator")):
        gradients = example.gradients(*terms)
        for name, gradient in gradients.items():
            assert (gradient is not None) == name.startswith(f"{taught}."), name
    gradients = example.gradients("adversarial_unlabelled")
    assert all(
        gradient.abs().sum() > 0
        for name, gradient in gradients.items()
        if name.endswith("scores.weight") and gradient is not None
    )


def test_the_adversarial_term_pulls_towards_what_the_discriminator_takes_for_real(made):
    """A step of the segmenter down that term's gradient alone makes the discriminator's scores higher."""
    example = made()
    scores = maps(example)["unlabelled"]
    before = scores[1][scores[2]].mean().item()
    example.gradients("adversarial_unlabelled")
    with torch.no_grad():
        for parameter in example.method.networks["segmenter"].parameters():
            if parameter.grad is not None:
                parameter -= 100 * parameter.grad
    scores = maps(example)["unlabelled"]
    assert scores[1][scores[2]].mean().item() > before


def test_pseudo_labels_begin_after_their_share_of_the_iterations(made):
    example = made(start=0.5, threshold=0.0)  # 6 iterations
    values = [example.method.losses(example.batch, step)["pseudo"].item() for step in range(6)]
    assert values[:3] == [0, 0, 0]
    assert min(values[3:]) > 0


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_extreme_thresholds_take_every_valid_pixel_or_none(threshold, made):
    example = made(threshold=threshold, start=0.0, weight=1.0)
    logits, _, valid = maps(example)["unlabelled"]
    expected = F.cross_entropy(logits, logits.argmax(1).masked_fill(~valid, 255), ignore_index=255)
    assert not valid.all()
    torch.testing.assert_close(example.losses()["pseudo"], expected * (threshold == 0))


def test_the_discriminator_sees_class_planes_alone(made):
    """Unlike s4GAN's, which sees the image too."""
    assert made().method.networks["discriminator"].features[0].in_channels == 4


def test_the_discriminator_has_the_published_optimiser(made):
    method = made().method
    optimizers = build_optimizers(OptimizerConfig(), method.optimizers(), method.parameter_groups())
    learned = {id(parameter) for group in optimizers["discriminator"].param_groups for parameter in group["params"]}
    assert learned == {id(parameter) for parameter in method.networks["discriminator"].parameters()}
    assert {(g["lr"], g["betas"], g["weight_decay"]) for g in optimizers["discriminator"].param_groups} == {
        (1e-4, (0.9, 0.99), 0.0)
    }
