"""Graphs of the cells of images as sparse matrices, and products with them.

The neighbours of a cell are the cells within a small radius, so that a graph has about 70 numbers per cell. The matrix
of 256 steps of the walk has as many numbers per cell as there are cells: `WalkGraph` computes it for small images,
where it is the fastest way, and only applies it for all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from stages.localization.pairs import Offset
from stages.localization.random_walk import power_of

PRECISE_TO = 1e-4  # share of the highest value: the precision of a walk in single precision
COLUMNS = 64  # columns that walk together: bounds the memory
MATRIX_CELLS = 2048  # images of at most so many cells have a matrix of all steps: 16 MB


def pair_matrix(weights: Mapping[Offset, NDArray], size: tuple[int, int]) -> sparse.csr_array:
    """The symmetric matrix (h w, h w) of the weights of pairs; its diagonal is empty.

    weights: for each offset (dy, dx) the weights of all its pairs within the map (h, w), as in `boundary_affinities`.
    """
    numbers = np.arange(size[0] * size[1]).reshape(size)
    found = sparse.csr_array((numbers.size, numbers.size))
    if not weights:
        return found
    first = [numbers[: size[0] - dy, max(-dx, 0) : size[1] - max(dx, 0)].ravel() for dy, dx in weights]
    second = [numbers[dy:, max(dx, 0) : size[1] - max(-dx, 0)].ravel() for dy, dx in weights]
    values = np.concatenate([weight.ravel() for weight in weights.values()])
    places = (np.concatenate(first), np.concatenate(second))
    half = sparse.coo_array((values, places), shape=found.shape)
    return sparse.csr_array(half + half.T)


def joint(matrices: Sequence[sparse.csr_array], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrices of several images as one, block by block, on the device."""
    blocks = sparse.csr_array(sparse.block_diag(matrices, format="csr"))
    rows, columns = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (blocks.indptr, blocks.indices))
    return csr_tensor(rows, columns, torch.from_numpy(blocks.data).to(device, dtype), blocks.shape)


def csr_tensor(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix: where each row begins, the column of each value, and the values."""
    with warnings.catch_warnings():  # that CSR tensors are in beta, which does not help people who run this
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(rows, columns, values, size=size, check_invariants=False)


class WalkGraph:
    """The graph of images whose edges are the probabilities of a walk; each cell is its own neighbour, too.

    A = B / (the sums of its rows), B = (T^s + (T^s)') / 2 + I; T = W D^-1, W: symmetric weights, D: their sums. T^s =
    D M with the symmetric M = D^-1/2 (D^-1/2 W D^-1/2)^s D^-1/2, so that B x = (D M x + M D x) / 2 + x: sparse products
    alone.
    """

    def __init__(
        self,
        weights: Sequence[sparse.csr_array],
        doublings: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """weights: of each image W (n, n), ones on its diagonal. The walk has 2^doublings steps."""
        self.doublings, self.images, self.cells = doublings, len(weights), weights[0].shape[0]
        self.matrices: Tensor | None = None
        if self.cells <= MATRIX_CELLS:
            dense = torch.stack([torch.from_numpy(each.toarray()).to(device, dtype) for each in weights])
            self.matrices = _all_steps(dense, doublings)
        else:
            self.weights = joint(weights, device, dtype)
            self.sums = self.weights @ torch.ones((self.images * self.cells, 1), device=device, dtype=dtype)
            self.root = self.sums.rsqrt()
        self.rows = self._symmetric(torch.ones((self.images, 1, self.cells), device=device, dtype=dtype))

    def __call__(self, values: Tensor) -> Tensor:
        """A x of each x of values (B, C, n)."""
        return self._symmetric(values) / self.rows

    def transposed(self, values: Tensor) -> Tensor:
        """A' x of each x of values (B, C, n): the gradient of x is A' times the gradient of A x."""
        return self._symmetric(values / self.rows)

    def _symmetric(self, values: Tensor) -> Tensor:
        """B x."""
        if self.matrices is not None:
            return values @ self.matrices
        columns = values.mT.flatten(0, 1)  # (B n, C)
        scaled = torch.cat([columns, self.sums * columns], 1) * self.root
        there, back = (self._walk(scaled) * self.root).chunk(2, 1)
        found = (self.sums * there + back) / 2 + columns
        return found.view(self.images, self.cells, -1).mT.contiguous()

    def _walk(self, columns: Tensor) -> Tensor:
        parts, steps = columns.split(COLUMNS, 1), 2**self.doublings
        return torch.cat([power_of(self._step, part.contiguous(), steps, PRECISE_TO) for part in parts], 1)

    def _step(self, columns: Tensor) -> Tensor:
        return self.root * (self.weights @ (self.root * columns))


def _all_steps(weights: Tensor, doublings: int) -> Tensor:
    """B of dense weights (B, n, n), by squaring."""
    walk = weights / weights.sum(1, keepdim=True)
    for _ in range(doublings):
        walk = walk @ walk
    found = (walk + walk.mT) / 2
    found.diagonal(dim1=1, dim2=2).add_(1)
    return found
