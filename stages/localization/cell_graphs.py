"""Graphs of the cells of images as sparse matrices, and products with them.

The neighbours of a cell are the cells within a small radius, so that a graph has about 70 numbers per cell. The matrix
of 256 steps of the walk has as many numbers per cell as there are cells: `WalkGraph` computes it for small images
alone, and only if there is no faster way.
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
PRECISE_FACTOR = 1e-7  # the same for the products from which a graph's factor is made
LEAST_EIGENVALUE = 1e-6  # share of the highest one: what single precision tells from 0
COLUMNS = 64  # columns that walk together: bounds the memory
FIRST_COLUMNS, MOST_COLUMNS = 128, 1024  # of a graph's factor: doubled until it is precise
MATRIX_CELLS = 2048  # images of at most so many cells may have a matrix of all steps: 16 MB


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
    """The graph of an image whose edges are the probabilities of a walk; each cell is its own neighbour, too.

    A = B / (the sums of its rows), B = (T^s + (T^s)') / 2 + I; T = W D^-1, W: symmetric weights, D: their sums. T^s =
    D M with the symmetric M = D^-1/2 S^s D^-1/2, S = D^-1/2 W D^-1/2, so that B x = (D M x + M D x) / 2 + x.

    Few eigenvalues of S^s differ from 0 if boundaries are clear: about 70 of 12,000. Then M is F F', F of so many
    columns. Otherwise small images have the matrix B, and large ones a polynomial of S.
    """

    def __init__(
        self,
        weights: sparse.csr_array,
        doublings: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """weights: W (n, n), ones on its diagonal. The walk has 2^doublings steps."""
        self.doublings, cells = doublings, weights.shape[0]
        self.weights = joint([weights], device, dtype)
        self.sums = (self.weights @ torch.ones((cells, 1), device=device, dtype=dtype))[:, 0]
        self.root = self.sums.rsqrt()
        self.factor = self._factor(min(cells // 4, MOST_COLUMNS)) if doublings else None
        self.matrix = self._all_steps() if self.factor is None and cells <= MATRIX_CELLS else None
        self.rows = self._symmetric(torch.ones((1, cells), device=device, dtype=dtype))[0]

    def __call__(self, values: Tensor) -> Tensor:
        """A x of each x of values (C, n)."""
        return self._symmetric(values) / self.rows

    def transposed(self, values: Tensor) -> Tensor:
        """A' x of each x of values (C, n): the gradient of x is A' times the gradient of A x."""
        return self._symmetric(values / self.rows)

    def _symmetric(self, values: Tensor) -> Tensor:
        """B x."""
        if self.matrix is not None:
            return values @ self.matrix
        scaled = torch.cat([values, self.sums * values])
        if self.factor is not None:
            walked = (scaled @ self.factor) @ self.factor.mT
        else:
            walked = self.root * self._walk((self.root * scaled).mT, PRECISE_TO).mT
        there, back = walked.chunk(2)
        return (self.sums * there + back) / 2 + values

    def _factor(self, most: int) -> Tensor | None:
        """F (n, k), k <= most: M from its products with random vectors (Nyström's method); None if k is too small.

        F is exact to PRECISE_TO of the highest value on random vectors that it was not made from.
        """
        draw = torch.Generator().manual_seed(0)

        def random(columns: int) -> Tensor:
            drawn = torch.randn((len(self.sums), columns), generator=draw) / len(self.sums) ** 0.5
            return drawn.to(self.sums)

        unseen = random(8)
        expected, tried, columns = self._walk(unseen, PRECISE_FACTOR), random(0), FIRST_COLUMNS
        walked = tried
        while columns <= most:
            more = random(columns - tried.shape[1])
            tried, walked = torch.cat([tried, more], 1), torch.cat([walked, self._walk(more, PRECISE_FACTOR)], 1)
            values, vectors = torch.linalg.eigh((tried.mT @ walked).double())
            clear = values > LEAST_EIGENVALUE * values[-1]
            factor = walked @ (vectors[:, clear] * values[clear].rsqrt()).to(walked.dtype)
            wrong = (factor @ (factor.mT @ unseen) - expected).abs().max()
            if wrong <= PRECISE_TO * expected.abs().max():
                return self.root[:, None] * factor
            columns *= 2
        return None

    def _walk(self, columns: Tensor, precise_to: float) -> Tensor:
        """S^s of columns (n, C)."""
        parts, steps = columns.split(COLUMNS, 1), 2**self.doublings
        return torch.cat([power_of(self._step, part.contiguous(), steps, precise_to) for part in parts], 1)

    def _step(self, columns: Tensor) -> Tensor:
        root = self.root[:, None]
        return root * (self.weights @ (root * columns))

    def _all_steps(self) -> Tensor:
        """B, by squaring."""
        walk = self.weights.to_dense() / self.sums
        for _ in range(self.doublings):
            walk = walk @ walk
        found = (walk + walk.mT) / 2
        found.diagonal().add_(1)
        return found
