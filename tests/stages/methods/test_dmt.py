"""stages/methods/dmt.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.confidence import probability_of_index
from artifacts.errors import ConfigError
from stages.engine.method import segment
from stages.methods.dmt import Dmt, dynamic_weight
from stages.methods.settings.dmt import DmtSettings


def test_the_weights_by_hand():
    """Agreeing: .6^5. Differing and this model surer (.7 > .5): 0. Differing and less sure (.7 <= .8): .2^3. 255: 0."""
    probabilities = torch.tensor([[0.6, 0.2, 0.2, 0.6], [0.3, 0.7, 0.7, 0.3], [0.1, 0.1, 0.1, 0.1]])[None, :, None]
    label = torch.tensor([[[0, 0, 0, 255]]])
    confidence = torch.tensor([[[0.9, 0.5, 0.8, 1.0]]])
    weight = dynamic_weight(probabilities, label, confidence, 5.0, 3.0)
    torch.testing.assert_close(weight, torch.tensor([[[0.6**5, 0.0, 0.2**3, 0.0]]]))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 5.0]), st.sampled_from([0.0, 2.0, 5.0]))
def test_the_weights_pixel_by_pixel(seed, agree, differ):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(2, 4, 3, 3, generator=generator).softmax(1)
    label = torch.randint(0, 5, (2, 3, 3), generator=generator)
    label[label == 4] = 255
    confidence = torch.rand(2, 3, 3, generator=generator)
    found = dynamic_weight(probabilities, label, confidence, agree, differ)
    for b in range(2):
        for y in range(3):
            for x in range(3):
                p, c = probabilities[b, :, y, x].tolist(), float(confidence[b, y, x])
                own, given_label = max(range(4), key=p.__getitem__), int(label[b, y, x])
                if given_label == 255:
                    expected = 0.0
                elif own == given_label:
                    expected = p[given_label] ** agree
                else:
                    expected = p[given_label] ** differ if max(p) <= c else 0.0
                assert float(found[b, y, x]) == pytest.approx(expected, rel=1e-5)


def test_the_sum_is_divided_by_all_labelled_pixels_not_by_the_weights(case):
    made = case("dmt", batch_size=4, labelled_share=0.25)
    labelled, pseudo = made.batch["strong"], made.batch["unlabelled"]
    assert (len(labelled), len(pseudo)) == (1, 3)
    network = made.method.networks["segmenter"]
    total, count = 0.0, 0
    for batch in (labelled, pseudo):
        log = segment(network, batch).detach().log_softmax(1)
        for b, y, x in zip(*torch.nonzero(batch.label != 255, as_tuple=True), strict=True):
            label, p = int(batch.label[b, y, x]), log[b, :, y, x].exp()
            weight = 1.0
            if batch is pseudo:
                c = 1 - (1 - float(batch.extra["confidence"][b, y, x]) / 255) ** 4
                weight = float(p[label] ** 5) if int(p.argmax()) == label or float(p.max()) <= c else 0.0
            total, count = total - weight * float(log[b, label, y, x]), count + 1
    assert made.losses()["cross_entropy"].item() == pytest.approx(total / count, rel=1e-4)


def by_hand(made):
    """CE and weight (gammas 5) of every pixel, labelled images before pseudo-labelled ones; the number of labels."""
    labelled, pseudo = made.batch["strong"], made.batch["unlabelled"]
    logits = [segment(made.method.networks["segmenter"], batch) for batch in (labelled, pseudo)]
    label = torch.cat([labelled.label, pseudo.label])
    confidence = probability_of_index(pseudo.extra["confidence"].float())
    dynamic = dynamic_weight(logits[1].detach().softmax(1), pseudo.label, confidence, 5.0, 5.0)
    pixels = F.cross_entropy(torch.cat(logits), label, ignore_index=255, reduction="none")
    return pixels, torch.cat([torch.ones_like(labelled.label), dynamic]), (label != 255).sum()


def test_the_weights_pass_no_gradient(case):
    """The gradient is that of weights that are constants. Through p^5 it would be another one."""
    made = case("dmt", labelled_share=0.5)
    found = made.gradients()
    made.method.networks.zero_grad()
    pixels, weight, count = by_hand(made)
    assert ((weight[2:] > 0.01) & (weight[2:] < 0.99)).sum() > 100  # where the slope of p^5 would be felt
    ((pixels * weight).sum() / count).backward()
    for name, parameter in made.method.networks.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_weight_acts_on_pseudo_labelled_pixels_alone(weight, case):
    """The number of pixels by which the sum is divided stays."""
    made = case("dmt", labelled_share=0.5, weight=weight)
    pixels, dynamic, count = by_hand(made)
    labelled, pseudo = (part.sum() for part in (pixels * dynamic).split(2))
    assert labelled > 0
    assert pseudo > 0
    torch.testing.assert_close(made.losses()["cross_entropy"], (labelled + weight * pseudo) / count)


def test_it_says_what_makes_the_confidences(training):
    sources = dataclasses.replace(training.sources, available=frozenset({"masks", "weak_labels"}))
    with pytest.raises(ConfigError, match="confidences") as caught:
        Dmt.streams(DmtSettings(), sources, 8)
    assert "pseudo-labels" in caught.value.hint
