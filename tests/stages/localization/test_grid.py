from __future__ import annotations

import tracemalloc

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from artifacts.cells import cells, on_copy
from stages.engine.inference import _to_image
from stages.engine.interpolation import interpolation_matrix
from stages.localization.grid import cell_means, resize_maps
from stages.networks import upsample


@settings(max_examples=60, derandomize=True)
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


@settings(max_examples=60, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    view=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    stride=st.sampled_from([4, 8]),
    seed=st.integers(0, 999),
)
def test_maps_of_a_copy_grow_alike_with_torch_without_it_and_in_a_plain_loop(size, view, stride, seed):
    """Whoever reads maps of an image at another size: predict, seeds and crf."""
    maps = np.random.default_rng(seed).random((1, cells(view[0], stride), cells(view[1], stride)), dtype=np.float32)
    rows, columns = (
        interpolation_matrix(on_copy(np.arange(side), side, seen), stride, count)
        for side, seen, count in zip(size, view, maps.shape[1:], strict=True)
    )
    found = rows @ maps @ columns.T
    np.testing.assert_allclose(_to_image(torch.from_numpy(maps)[None], size, view, stride)[0], found, atol=2e-5)
    np.testing.assert_allclose(resize_maps(maps, view, stride, seen=size), found, atol=1e-5)
    for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)):
        # the middle of a pixel is as far along the image as along its copy
        place = [((p + 0.5) / side * seen - 0.5) / stride for p, side, seen in zip((y, x), size, view, strict=True)]
        expected = ndimage.map_coordinates(maps[0], np.array(place)[:, None], order=1, mode="nearest")
        np.testing.assert_allclose(found[0, y, x], expected[0], atol=1e-5)


def test_cells_cover_every_pixel():
    for stride in (1, 4, 8, 14):
        for side in range(1, 60):
            assert cells(side, stride) == len(range(0, side, stride))


def test_positions_outside_take_the_outermost_cell():
    matrix = interpolation_matrix(np.array([-3.0, 0.0, 6.0, 8.0, 99.0]), stride=4, count=3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]])


@settings(max_examples=40, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), stride=st.sampled_from([1, 4, 8]), seed=st.integers(0, 9)
)
def test_a_cell_has_the_mean_of_the_pixels_nearest_to_it(size, stride, seed):
    """Pixels as far from the cell before as from the one behind belong to the latter."""
    maps = np.random.default_rng(seed).random((2, *size), dtype=np.float32)
    rows, columns = (
        np.array([max(range(cells(side, stride)), key=lambda c: (-abs(stride * c - p), c)) for p in range(side)])
        for side in size
    )
    expected = [
        [[plane[rows == y][:, columns == x].mean() for x in range(columns.max() + 1)] for y in range(rows.max() + 1)]
        for plane in maps
    ]
    np.testing.assert_allclose(cell_means(maps, stride), expected, atol=1e-5)


def test_matrices_of_many_sizes_are_not_all_kept():
    tracemalloc.start()
    for length in range(400, 500):
        resize_maps(np.zeros((1, cells(length, 4), 1)), (length, 1), 4)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 35 * 500 * 125 * 4  # all: 20 MB
