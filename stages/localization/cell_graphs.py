"""Graphs of the cells of images as sparse matrices, and differentiable products with them.

The neighbours of a cell are the cells within a small radius, so that a graph has about 70 numbers per cell. The matrix
of 256 steps of the walk would have as many numbers per cell as there are cells: `WalkGraph` never computes it, it only
applies it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.localization.pairs import Offset
from stages.localization.random_walk import power_of

PRECISE_TO = 1e-4  # share of the highest value: the precision of a walk in single precision
COLUMNS = 64  # columns that walk together: bounds the memory


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
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (blocks.indptr, blocks.indices))
    values = torch.from_numpy(blocks.data).to(dtype)
    with warnings.catch_warnings():  # that CSR tensors are in beta, which does not help people who run this
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(rows, columns, values, size=blocks.shape, device=device, check_invariants=False)


class _Symmetric(torch.autograd.Function):
    """A product with a symmetric matrix: the gradient of its input is its product with the gradient of its output."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.product = product
        return product(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.product(gradient.contiguous()), None


def symmetric_product(product: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """product(values), a product of a symmetric matrix with the columns of values (n, C)."""
    found: Tensor = _Symmetric.apply(values, product)
    return found


class WalkGraph:
    """The graph whose edges are the probabilities of a walk; each cell is its own neighbour, too.

    A = (T^s + (T^s)') / 2 + I, each row divided by its sum; T = W D^-1, W: symmetric weights, D: their sums. T^s = D M
    with the symmetric M = D^-1/2 (D^-1/2 W D^-1/2)^s D^-1/2, so that A x, before the division, is
    (D M x + M D x) / 2 + x: sparse products alone.
    """

    def __init__(self, weights: Tensor, steps: int) -> None:
        """weights: W (n, n), CSR, ones on its diagonal."""
        self.weights, self.steps = weights, steps
        self.sums = weights @ torch.ones_like(weights.values()[:1]).expand(weights.shape[0], 1).contiguous()  # (n, 1)
        self.root = self.sums.rsqrt()
        self.rows = self._unnormalised(torch.ones_like(self.sums))

    def __call__(self, values: Tensor) -> Tensor:
        """A x of each column x of values (n, C)."""
        return self._unnormalised(values) / self.rows

    def _unnormalised(self, values: Tensor) -> Tensor:
        scaled = torch.cat([values, self.sums * values], 1) * self.root
        walked = symmetric_product(self._walk, scaled) * self.root
        there, back = walked.chunk(2, 1)
        return (self.sums * there + back) / 2 + values

    def _walk(self, values: Tensor) -> Tensor:
        parts = values.split(COLUMNS, 1)
        return torch.cat([power_of(self._step, part.contiguous(), self.steps, PRECISE_TO) for part in parts], 1)

    def _step(self, values: Tensor) -> Tensor:
        return self.root * (self.weights @ (self.root * values))
