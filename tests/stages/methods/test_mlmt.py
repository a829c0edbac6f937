"""stages/methods/mlmt.py: the loss against numpy and torch; the schedule; the average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.engine.method import Setup
from stages.methods.mlmt import classes_of_masks, cosine_distance
from stages.methods.parts.views import strong_view

NOW = {"start": 0.0, "ramp": 0.0}


@pytest.fixture
def made(case):
    return lambda **settings: case("mlmt", **NOW | settings)


def test_the_labels_are_the_classes_of_the_crops_masks(made):
    """Not those of the whole image, and column k is class k + 1."""
    example = made()
    batch = example.batch["strong"]
    logits = example.method.networks["classifier"](batch.image)
    present = [[float((label == c).any()) for c in (1, 2, 3)] for label in batch.label.numpy()]
    assert 0 < np.mean(present) < 1
    expected = F.binary_cross_entropy(logits.sigmoid(), torch.tensor(present))
    torch.testing.assert_close(example.losses()["labelled"], expected)


def test_crops_of_unknown_pixels_alone_say_nothing():
    logits = torch.randn(3, 2, requires_grad=True)
    label = torch.full((3, 4, 4), 255)
    label[1, 0, 0] = 2
    loss = classes_of_masks(logits, label)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[1], torch.tensor([0.0, 1.0])))
    nothing = classes_of_masks(logits, torch.full((3, 4, 4), 255))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


def test_the_distance_is_torchs_cosine_embedding_loss():
    found, target = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    loss = cosine_distance(found, target)
    torch.testing.assert_close(loss, F.cosine_embedding_loss(found, target, torch.ones(4)))
    loss.backward()
    assert target.grad is None
    assert cosine_distance(found, 3 * found).item() == pytest.approx(0, abs=1e-6)


def test_the_student_sees_a_strong_view_and_the_teacher_the_image(made):
    example = made(weight=0.7)
    with torch.no_grad():
        for parameter in example.method.networks["teacher"].parameters():
            parameter.mul_(1.1)
    networks, batch = example.method.networks, example.batch["unlabelled"]
    strong = strong_view(batch, example.method.settings.strong, 0, 0)
    assert not torch.equal(strong.image, batch.image)
    found, target = networks["classifier"](strong.image), networks["teacher"].network(batch.image)
    expected = 0.7 * F.cosine_embedding_loss(found, target, torch.ones(len(batch)))
    torch.testing.assert_close(example.losses()["consistency"], expected)


def test_the_student_may_see_a_mirrored_image_where_the_teacher_sees_it_as_it_is(made):
    """As in the authors' code, where two views of an image are mirrored one by one."""
    apart = {}
    for share in (0.0, 0.5, 1.0):
        example, seen = made(mirror=share), []
        classifier, batch = example.method.networks["classifier"], example.batch["unlabelled"]
        hook = classifier.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        for step in range(8):
            example.method.losses(example.batch, step)
        hook.remove()
        views = [strong_view(batch, example.method.settings.strong, 0, step).image for step in range(8)]
        turned = [
            torch.equal(mine, own.flip(-1))
            for images, view in zip(seen[1::2], views, strict=True)
            for mine, own in zip(images, view, strict=True)
        ]
        assert all(
            flipped or torch.equal(mine, own)
            for flipped, mine, own in zip(turned, torch.cat(seen[1::2]), torch.cat(views), strict=True)
        )
        apart[share] = sum(turned) / len(turned)
    assert apart[0.0] == 0
    assert apart[1.0] == 1
    assert 0.2 < apart[0.5] < 0.8


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"start": 0.5}])
def test_without_consistency_the_gradient_is_that_of_the_labelled_term(settings, made):
    none, whole = made(**settings), made()
    expected, found = whole.gradients("labelled"), none.gradients()
    assert list(none.losses()) == ["labelled"]
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]) if gradient is not None else name.startswith("teacher.")


def test_the_weight_rises_as_published(case):
    """100 epochs: 0 up to the tenth, then (e - 10) * 2 / 100, 1 from the sixtieth on."""
    method = case("mlmt").method
    method.setup = Setup(method.setup.network, 4, seed=0, iterations=100)
    found = [method.weight(epoch) for epoch in (0, 9, 10, 11, 35, 60, 99)]
    assert found == pytest.approx([0, 0, 0, 0.02, 0.5, 1, 1])


def test_the_teacher_is_the_average_and_gets_no_gradient(made):
    example = made(teacher={"decay": 0.75})
    networks = example.method.networks
    assert example.method.predictor is networks["teacher"].network
    assert all(gradient is None for name, gradient in example.gradients().items() if name.startswith("teacher."))
    start = [parameter.clone() for parameter in networks["classifier"].parameters()]
    with torch.no_grad():
        for parameter in networks["classifier"].parameters():
            parameter += 1
    example.method.after_step(0)  # copies
    with torch.no_grad():
        for parameter in networks["classifier"].parameters():
            parameter += 1
    example.method.after_step(9)
    for old, average in zip(start, networks["teacher"].parameters(), strict=True):
        torch.testing.assert_close(average, old + 1.25)


def test_the_network_is_a_classifier_of_the_backbone(made):
    """No head of a segmenter, and loadable: the exported config is a classifier's."""
    network = made().method.predictor
    assert network(torch.zeros(2, 3, 33, 33)).shape == (2, 3)
    assert set(network.spec(("background", "a", "b", "c"))["network"]) == {
        "backbone",
        "weights",
        "freeze_batch_norm",
        "freeze_stages",
        "freeze",
        "dropout",
    }
