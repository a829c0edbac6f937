"""Confidences in 8 bits: nearest index, order, and a share of the most confident pixels of a network that is sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifacts.confidence import index_of_doubt, lowest_index, probability_of_index

TABLE = [1 - (1 - k / 255) ** 4 for k in range(256)]
doubts = st.floats(0, 1)


@given(doubts)
def test_the_index_is_the_nearest_on_the_scale_of_fourth_roots(doubt):
    index = float(index_of_doubt(np.array([doubt]))[0])
    distances = [abs((1 - p) ** 0.25 - doubt**0.25) for p in TABLE]
    assert distances[int(index)] == pytest.approx(min(distances), abs=1e-9)
    assert float(probability_of_index(np.array([index]))[0]) == pytest.approx(TABLE[int(index)], abs=1e-12)


@given(doubts, doubts)
def test_who_is_surer_has_no_lower_index(one, other):
    first, second = index_of_doubt(np.array([min(one, other), max(one, other)]))
    assert 0 <= second <= first <= 255


@given(st.integers(0, 255))
def test_an_index_comes_back(index):
    for made in (np.array([index], np.float64), torch.tensor([float(index)], dtype=torch.float64)):
        assert index_of_doubt(1 - probability_of_index(made)).tolist() == [index]


@given(st.floats(0, 1))
def test_the_lowest_index_of_a_probability(probability):
    lowest = lowest_index(probability)
    assert 0 <= lowest <= 255
    assert TABLE[lowest] >= probability - 1e-9
    assert lowest == 0 or TABLE[lowest - 1] < probability


@pytest.mark.parametrize(("probability", "step"), [(0.5, 0.0094), (0.9, 0.0028), (0.99, 0.0005), (0.9999, 0.000016)])
def test_steps_are_as_described(probability, step):
    k = round(255 * (1 - (1 - probability) ** 0.25))
    assert TABLE[k + 1] - TABLE[k] == pytest.approx(step, rel=0.15)


@pytest.mark.parametrize("spread", [4.0, 8.0, 16.0])
def test_a_share_of_the_pixels_of_a_network_that_is_sure_can_be_told(spread):
    """In equal steps of 1/255 more than half of such pixels would have the last index."""
    logits = torch.randn(200_000, 6, generator=torch.Generator().manual_seed(0)) * spread
    probabilities = logits.softmax(1)
    highest, classes = probabilities.max(1)
    indices = index_of_doubt(probabilities.scatter(1, classes[:, None], 0.0).sum(1)).numpy()
    for share in (0.2, 0.4, 0.6):
        least = np.sort(indices)[::-1][int(share * len(indices)) - 1]
        kept = (indices >= least).mean()
        assert share <= kept < share + 0.04
    if spread == 16.0:
        assert ((highest * 255).round() == 255).float().mean() > 0.5
