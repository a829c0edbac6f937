"""stages/methods/s4gan.py: what is particular to it, against loops and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.engine.config import OptimizerConfig
from stages.engine.method import segment
from stages.engine.optimizers import build_optimizers
from stages.methods.s4gan import between_0_and_1, mean_difference

SMALL = {"discriminator": {"channels": [4, 4, 4, 6]}, "dropout": 0.0}
NOW = {"threshold": 0.0, "weight": 1.0}


@pytest.fixture
def made(case):
    """Builds a case whose first unlabelled image is padded below row 20."""

    def build(batch_size=4, **values):
        example = case("s4gan", batch_size, **SMALL | values)
        batch = example.batch["unlabelled"]
        valid = batch.valid.clone()
        valid[0, 20:] = False
        example.batch["unlabelled"] = batch.replace(valid=valid, image=batch.image * valid[:, None])
        return example

    return build


def scale(image):
    """Min-max of one image with numpy."""
    array = image.numpy()
    return torch.from_numpy((array - array.min()) / (array.max() - array.min()))


def judged(made):
    """Logits of the unlabelled images, and D's scores and features of predictions and masks, image by image."""
    discriminator, labelled, unlabelled = (
        made.method.networks["discriminator"],
        made.batch["strong"],
        made.batch["unlabelled"],
    )
    logits = segment(made.method.networks["segmenter"], unlabelled)
    fakes = [
        discriminator((p.softmax(0) * v)[None], scale(x)[None])
        for p, v, x in zip(logits, unlabelled.valid, unlabelled.image, strict=True)
    ]
    masks = torch.stack([(labelled.label == c).float() for c in range(4)], 1)
    reals = [discriminator(m[None], scale(x)[None]) for m, x in zip(masks, labelled.image, strict=True)]
    joined = [[torch.cat(parts) for parts in zip(*pairs, strict=True)] for pairs in (fakes, reals)]
    return logits, *joined


def test_each_term_by_plain_formulas(made):
    example = made(batch_size=8, feature_matching=0.3, weight=0.7, threshold=0.5)
    logits, (fake, fake_features), (real, real_features) = judged(example)
    with torch.no_grad():  # half of the images pass
        example.method.networks["discriminator"].score.bias -= fake.sort().values[1:3].mean()
    logits, (fake, fake_features), (real, real_features) = judged(example)
    losses = example.losses()
    sigmoid = [1 / (1 + np.exp(-scores.detach().double().numpy())) for scores in (fake, real)]
    expected = 0.5 * (-np.log(1 - sigmoid[0]).mean() - np.log(sigmoid[1]).mean())
    assert losses["discriminator"].item() == pytest.approx(expected, rel=1e-5)
    means = [features.detach().numpy().mean(0) for features in (real_features, fake_features)]
    assert losses["feature_matching"].item() == pytest.approx(0.3 * np.abs(means[0] - means[1]).mean(), rel=1e-4)
    chosen = [index for index in range(4) if sigmoid[0][index] > 0.5]
    assert 0 < len(chosen) < 4
    label = logits.argmax(1).masked_fill(~example.batch["unlabelled"].valid, 255)
    expected = F.cross_entropy(logits[chosen], label[chosen], ignore_index=255)
    torch.testing.assert_close(losses["pseudo"], 0.7 * expected)


def test_padding_of_a_chosen_image_does_not_teach(made):
    """Trap: the published code labels padding, too."""
    example = made(**NOW)
    logits, *_ = judged(example)
    valid = example.batch["unlabelled"].valid
    assert not valid[0].all()
    pixels = F.cross_entropy(logits, logits.argmax(1), reduction="none")
    torch.testing.assert_close(example.losses()["pseudo"], pixels[valid].mean())


@pytest.mark.parametrize("gives", ["real", "fake"])
def test_images_are_taken_whole_or_not_at_all(gives, made):
    example = made(threshold=0.6, weight=1.0)
    with torch.no_grad():
        example.method.networks["discriminator"].score.bias.fill_(9.0 if gives == "real" else -9.0)
    loss = example.losses()["pseudo"].item()
    assert (loss > 0) == (gives == "real")


def test_no_image_is_chosen_while_the_discriminator_warms_up(made):
    example = made(warmup=0.5, **NOW)  # 6 iterations
    losses = [example.method.losses(example.batch, step) for step in range(6)]
    assert [step["pseudo"].item() > 0 for step in losses] == [False] * 3 + [True] * 3
    assert all(step["discriminator"].item() > 0 and step["feature_matching"].item() > 0 for step in losses)


def test_each_network_learns_from_its_own_terms_alone(made):
    example = made(**NOW)
    for terms, taught in (
        (("supervised", "feature_matching", "pseudo"), "segmenter"),
        (("discriminator",), "discriminator"),
    ):
        for name, gradient in example.gradients(*terms).items():
            assert (gradient is not None) == name.startswith(f"{taught}."), name
    assert example.gradients("feature_matching")["segmenter.head.scores.weight"].abs().sum() > 0


def test_the_discriminator_sees_class_planes_and_the_image(made):
    """Trap: C + 3 planes, where AdvSemSeg's has C."""
    assert made().method.networks["discriminator"].features[0].in_channels == 4 + 3


def test_an_image_is_scaled_by_its_own_values():
    """Trap: the published code takes the minimum and maximum of another batch."""
    images = torch.randn(3, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 0.1]).view(
        3, 1, 1, 1
    )
    scaled = between_0_and_1(images)
    for index in range(3):
        torch.testing.assert_close(scaled[index], scale(images[index]))
        assert torch.equal(between_0_and_1(images[index : index + 1])[0], scaled[index])
    assert between_0_and_1(torch.full((1, 3, 2, 2), 4.0)).abs().max() == 0


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
def test_the_mean_difference_is_that_of_numpy(seed, first, second):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(first, 7)), random.normal(size=(second, 7))
    found = mean_difference(torch.from_numpy(a), torch.from_numpy(b))
    assert found.item() == pytest.approx(np.abs(a.mean(0) - b.mean(0)).mean(), rel=1e-4, abs=1e-6)


def test_the_gradient_of_the_mean_difference_is_that_of_the_absolute_value():
    a, b = torch.randn(3, 5), torch.randn(4, 5, requires_grad=True)
    (found,) = torch.autograd.grad(mean_difference(a, b), b)
    (expected,) = torch.autograd.grad((a.mean(0) - b.mean(0)).abs().mean(), b)
    torch.testing.assert_close(found, expected)


def test_dropout_is_the_discriminators_own_setting(made):
    """Published: .5, after three of four layers."""
    rates = [m.p for m in made(dropout=0.5).method.networks["discriminator"].modules() if hasattr(m, "p")]
    assert rates == [0.5] * 3
    method = made().method
    assert "discriminator" in build_optimizers(OptimizerConfig(), method.optimizers(), method.parameter_groups())
