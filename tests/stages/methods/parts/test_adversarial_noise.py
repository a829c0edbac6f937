"""stages/methods/parts/adversarial_noise.py, against the second derivative computed in double precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.engine.inference import evaluating
from stages.methods.parts.adversarial_noise import adversarial_direction, kl_divergence, unit_length


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1))


@pytest.fixture
def inputs():
    random = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 4, 5, generator=random), torch.rand(2, 3, 4, 5, generator=random) - 0.5


def curvature(network, x):
    """The second derivative of the distance at no noise, for one image: (n, n), double precision."""
    double, x = copy.deepcopy(network).double(), x.double()
    clean = double(x).softmax(1).detach()

    def distance(noise):
        return kl_divergence(double(x + noise.view_as(x)), clean)

    return torch.autograd.functional.hessian(distance, torch.zeros(x.numel(), dtype=torch.float64))


def test_kl_divergence_is_torchs():
    logits, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4).softmax(1)
    expected = F.kl_div(logits.log_softmax(1), target, reduction="sum")
    torch.testing.assert_close(kl_divergence(logits, target), expected)
    certain = torch.tensor([[[1.0], [0.0]]])
    assert kl_divergence(torch.zeros(1, 2, 1), certain).item() == pytest.approx(math.log(2))


def test_one_iteration_multiplies_by_the_second_derivative(network, inputs):
    x, start = inputs
    found = adversarial_direction(network, x, start, xi=1e-2)
    for number in range(2):
        product = curvature(network, x[number : number + 1]) @ start[number].double().flatten()
        torch.testing.assert_close(found[number].double().flatten(), product / product.norm(), rtol=0.02, atol=2e-3)


def test_many_iterations_find_the_largest_eigenvector(network, inputs):
    x, start = inputs
    found = adversarial_direction(network, x, start, xi=1e-2, iterations=60)
    for number in range(2):
        vectors = torch.linalg.eigh(curvature(network, x[number : number + 1])).eigenvectors
        assert abs(float(found[number].double().flatten() @ vectors[:, -1])) > 0.999


def test_images_are_independent_of_each_other(network, inputs):
    x, start = inputs
    together = adversarial_direction(network, x, start, xi=torch.tensor([0.01, 0.03]).view(2, 1, 1, 1))
    alone = [adversarial_direction(network, x[i : i + 1], start[i : i + 1], xi) for i, xi in enumerate((0.01, 0.03))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-4)  # rounding, over xi
    torch.testing.assert_close(together.flatten(1).norm(dim=1), torch.ones(2))


def test_no_parameter_gets_a_gradient_and_the_noise_has_no_graph(network, inputs):
    x, start = inputs
    found = adversarial_direction(network, x.requires_grad_(), start, xi=1e-2)
    assert not found.requires_grad
    assert x.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_single_precision_is_kept_under_autocast(network, inputs):
    x, start = inputs
    expected = adversarial_direction(network, x, start, xi=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        found = adversarial_direction(network, x, start, xi=1e-2)
    assert torch.equal(found, expected)


def test_a_flat_prediction_gives_no_noise(inputs):
    """A gradient of exactly zero has no direction; it must not become NaN."""
    x, start = inputs
    assert (adversarial_direction(lambda x: x * 0, x, start, xi=1e-2) == 0).all()
    assert (unit_length(torch.zeros(2, 3)) == 0).all()


def test_evaluating_restores_every_mode():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    module[1].eval()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, False]
