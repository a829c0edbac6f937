"""Weighted means of linked nodes in graphs with few links, as products with sparse matrices.

links = Links(linked, device)                    # linked: bool (N, N)
means = links.means(attention, values)           # attention: (heads, L, N), values: (heads, N, C)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.localization.cell_graphs import csr_tensor


class Links:
    """The links of N nodes as lists of one length L, that of the node with the most links.

    Attributes:
        nodes: int64 (L, N), in column i the nodes that i is linked to, and some that it is not linked to, in order.
        linked: bool (L, N), which of them it is linked to.
    """

    def __init__(self, linked: NDArray[np.bool_], device: torch.device) -> None:
        """linked: (N, N), the j that each i is linked to; at least one."""
        length = int(linked.sum(1).max())
        first = np.argsort(~linked, axis=1, kind="stable")[:, :length]  # those that it is linked to come first
        nodes = np.sort(first, axis=1)
        self.nodes = torch.from_numpy(nodes.T.copy()).to(device)
        self.linked = torch.from_numpy(np.take_along_axis(linked, nodes, 1).T.copy()).to(device)
        self._blocks: dict[int, _Blocks] = {}

    def means(self, attention: Tensor, values: Tensor) -> Tensor:
        """Sums over the lists of the attention (heads, L, N) times the values (heads, N, C) of the nodes."""
        heads = len(values)
        if heads not in self._blocks:
            self._blocks[heads] = _Blocks(self.nodes, heads)
        found: Tensor = _Means.apply(attention.mT.flatten(), values.flatten(0, 1), self._blocks[heads])
        return found.view_as(values)

    def of_each(self, values: Tensor) -> Tensor:
        """The values (heads, N) of the nodes, (heads, L, N)."""
        return values.index_select(1, self.nodes.flatten()).view(-1, *self.nodes.shape)


class _Blocks:
    """The places of weights (heads, N, L) in a sparse matrix with a block (N, N) for each head."""

    def __init__(self, nodes: Tensor, heads: int) -> None:
        length, count = nodes.shape
        self.size = heads * count
        numbers = torch.arange(self.size + 1, device=nodes.device)
        self.rows = numbers * length
        self.columns = (nodes.T + count * numbers[:heads, None, None]).flatten()
        self.order = self.columns.argsort(stable=True)  # column by column
        self.back_rows = torch.bincount(self.columns, minlength=self.size).cumsum(0)
        self.back_rows = torch.cat([numbers[:1], self.back_rows])
        self.back_columns = self.order // length

    def matrix(self, weights: Tensor) -> Tensor:
        return csr_tensor(self.rows, self.columns, weights, (self.size, self.size))

    def transposed(self, weights: Tensor) -> Tensor:
        return csr_tensor(self.back_rows, self.back_columns, weights[self.order], (self.size, self.size))


class _Means(torch.autograd.Function):
    """A sparse matrix with the given weights times values; the gradients are sparse products, too."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, blocks: _Blocks) -> Tensor:
        ctx.save_for_backward(weights, values)
        ctx.blocks = blocks
        return blocks.matrix(weights) @ values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, values = ctx.saved_tensors
        places = ctx.blocks.matrix(torch.zeros_like(weights))
        products = torch.sparse.sampled_addmm(places, gradient, values.mT, beta=0.0).values()
        return products, ctx.blocks.transposed(weights) @ gradient, None
