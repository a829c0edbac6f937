"""Affinities of features against plain loops, their gradient against torch's own, the losses by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.localization.pair_learning import affinity_losses, displacement_losses, feature_affinities, feature_affinity
from stages.localization.pairs import offsets


@settings(max_examples=15)
@given(seed=st.integers(0, 999), radius=st.integers(2, 4), more=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_the_affinity_of_two_cells_is_that_of_their_features(seed, radius, more):
    rim = radius - 1
    height, width = radius + more[0], 2 * rim + 1 + more[1]
    features = np.random.default_rng(seed).normal(size=(2, 3, height, width))
    inner = feature_affinity(torch.from_numpy(features), radius)
    assert inner.shape == (2, len(offsets(radius)), height - rim, width - 2 * rim)
    everywhere = feature_affinities(torch.from_numpy(features), radius)
    pairs = 0
    for y in range(height):
        for x in range(width):
            for number, (dy, dx) in enumerate(offsets(radius)):
                if not (y + dy < height and 0 <= x + dx < width):
                    continue
                pairs += 1
                for image in (0, 1):
                    difference = np.abs(features[image, :, y, x] - features[image, :, y + dy, x + dx])
                    expected = math.exp(-difference.sum() / 3)
                    assert float(everywhere[dy, dx][image, y, x - max(-dx, 0)]) == pytest.approx(expected)
                    if y < height - rim and rim <= x < width - rim:
                        assert float(inner[image, number, y, x - rim]) == pytest.approx(expected)
    assert pairs == sum(values[0].numel() for values in everywhere.values())


def test_the_gradient_is_that_of_the_differences():
    torch.manual_seed(0)
    values = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    values[:, :, 2] = values[:, :, 3]  # pairs without a difference have no slope
    wanted = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    gradients = []
    for affinity in (lambda x: feature_affinity(x, 3), by_torch_alone):
        features = values.clone().requires_grad_()
        (affinity(features) * wanted).sum().backward()
        gradients.append(features.grad)
    assert gradients[1].abs().max() > 0.1
    torch.testing.assert_close(*gradients)


def by_torch_alone(features: torch.Tensor) -> torch.Tensor:
    first = features[:, :, :3, 2:6]
    second = [features[:, :, dy : dy + 3, 2 + dx : 6 + dx] for dy, dx in offsets(3)]
    return torch.stack([(-(first - other).abs().mean(1)).exp() for other in second], 1)


def test_the_losses_by_hand():
    """Radius 2, one cell with partners: (0, 1) with (0, 2), (1, 0), (1, 1) and (1, 2)."""
    labels = torch.tensor([[[9, 0, 0], [0, 3, 255]], [[9, 2, 2], [0, 2, 255]]])
    affinity = torch.tensor([[0.5, 0.25, 0.75, 0.9], [0.6, 0.1, 0.2, 0.9]])[:, :, None, None]
    found = affinity_losses(affinity, labels, 2)
    assert float(found["background"]) == pytest.approx(-(math.log(0.50001) + math.log(0.25001)) / 2 / 4, rel=1e-5)
    assert float(found["foreground"]) == pytest.approx(-(math.log(0.60001) + math.log(0.20001)) / 2 / 4, rel=1e-5)
    assert float(found["different"]) == pytest.approx(-(math.log(0.25001) + math.log(0.90001)) / 2 / 2, rel=1e-5)


def test_labels_without_any_pair_give_no_loss_and_a_gradient_of_0():
    features = torch.randn(1, 4, 6, 9, requires_grad=True)
    losses = affinity_losses(feature_affinity(features, 3), torch.full((1, 6, 9), 255), 3)
    sum(losses.values()).backward()
    assert all(float(value.detach()) == 0 for value in losses.values())
    assert torch.equal(features.grad, torch.zeros_like(features))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), radius=st.integers(2, 4))
def test_the_loss_of_displacements_is_the_mean_over_pairs(seed, radius):
    rng = np.random.default_rng(seed)
    rim = radius - 1
    height, width = radius + rng.integers(0, 4), 2 * rim + 1 + rng.integers(0, 4)
    displacement = rng.normal(size=(2, 2, height, width)) * 3
    labels = rng.choice([0, 1, 2, 255], p=[0.4, 0.3, 0.1, 0.2], size=(2, height, width))
    terms: dict[str, list[float]] = {"displaced_background": [], "displaced_foreground": []}
    for image in (0, 1):
        for y in range(height - rim):
            for x in range(rim, width - rim):
                for dy, dx in offsets(radius):
                    label, second = labels[image, y, x], labels[image, y + dy, x + dx]
                    if label != second or label == 255:
                        continue
                    change = displacement[image, :, y, x] - displacement[image, :, y + dy, x + dx]
                    if label == 0:
                        terms["displaced_background"].append(np.abs(change).mean() / 2)
                    else:
                        terms["displaced_foreground"].append(np.abs(change - (dy, dx)).mean() / 2)
    found = displacement_losses(torch.from_numpy(displacement), torch.from_numpy(labels), radius)
    for name, values in terms.items():
        assert float(found[name]) == pytest.approx(np.mean(values) if values else 0.0, rel=1e-6)


def test_displacements_to_one_point_cost_nothing_on_foreground_and_constant_ones_nothing_on_background():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    labels = torch.ones(1, 6, 9, dtype=torch.long)
    to_a_point = torch.stack([2.5 - y, 4 - x])[None]
    assert float(displacement_losses(to_a_point, labels, 3)["displaced_foreground"]) == 0
    moved = displacement_losses(to_a_point + torch.tensor([1.0, 7.0])[None, :, None, None], labels, 3)
    assert float(moved["displaced_foreground"]) == 0  # differences alone count, hence the mean is subtracted later
    still = displacement_losses(torch.ones(1, 2, 6, 9), labels * 0, 3)
    assert {name: float(value) for name, value in still.items()} == {
        "displaced_foreground": 0.0,
        "displaced_background": 0.0,
    }
