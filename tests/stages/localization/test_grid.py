from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stages.engine.interpolation import interpolation_matrix
from stages.localization.grid import cells, resize_maps
from stages.networks import upsample


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    stride=st.sampled_from([1, 4, 8, 16]),
    seed=st.integers(0, 999),
)
def test_maps_grow_as_the_networks_grow_their_logits_and_as_scipy_interpolates(size, stride, seed):
    maps = np.random.default_rng(seed).random((2, cells(size[0], stride), cells(size[1], stride)), dtype=np.float32)
    grown = resize_maps(maps, size, stride)
    assert grown.shape == (2, *size)
    np.testing.assert_allclose(grown, upsample(torch.from_numpy(maps)[None], size, stride)[0].numpy(), atol=1e-5)
    rows, columns = np.meshgrid(np.arange(size[0]) / stride, np.arange(size[1]) / stride, indexing="ij")
    expected = [ndimage.map_coordinates(plane, [rows, columns], order=1, mode="nearest") for plane in maps]
    np.testing.assert_allclose(grown, expected, atol=1e-5)


def test_positions_outside_take_the_outermost_cell():
    matrix = interpolation_matrix(np.array([-3.0, 0.0, 6.0, 8.0, 99.0]), stride=4, count=3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]])
