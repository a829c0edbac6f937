"""The multi-way cut of a graph: every node gets one of the classes that it may have. Loads no torch.

Nodes have weights for classes, and pairs of nodes have weights. A weight for a class is kept where the node gets this
class, that of a pair where both get the same class; all others are cut. The cut is to cost as little as possible.

cut = multiway_cut(weights, edges, strengths)      # cut.labels: (N,)

Nodes that have the same class in some best cut, whatever the rest of the graph gets, are decided first. What is left
falls into connected parts. Each of them is an integer program, solved exactly by branch and bound (HiGHS), or, where it
is large, by its linear relaxation (Calinescu, Karloff & Rabani, 1998), of which each node gets the highest class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import LinearConstraint, milp
from scipy.sparse.csgraph import connected_components

Solver = Literal["auto", "exact", "relaxation"]


@dataclass(frozen=True)
class Cut:
    """A multi-way cut of N nodes.

    Attributes:
        labels: int64 (N,), the class of each node.
        cost: the sum of the weights that are cut.
        bound: no cut costs less; equal to `cost` where the cut is the best one.
        undecided: nodes that were left to the solver.
        relaxed: those of them whose part was solved by the linear relaxation.
    """

    labels: NDArray[np.int64]
    cost: float
    bound: float
    undecided: int
    relaxed: int


def multiway_cut(
    weights: NDArray, edges: NDArray[np.int64], strengths: NDArray, solver: Solver = "auto", most_exact: int = 500
) -> Cut:
    """The cheapest cut, or a cheap one with a bound.

    Args:
        weights: (N, K), not negative; -inf where a node may not have a class. Each node may have at least one.
        edges: (E, 2), each pair of nodes once; strengths: (E,), positive.
        solver: of connected parts. "exact", "relaxation"; "auto": exact up to `most_exact` nodes.
    """
    labels, gains = decided(weights, edges, strengths)
    open_nodes = np.flatnonzero(labels < 0)
    between = (labels[edges] < 0).all(1)
    cost_of_parts = bound_of_parts = 0.0
    relaxed = 0
    for nodes, own in _parts(open_nodes, edges[between], len(labels)) if len(open_nodes) else ():
        exact = solver == "exact" or (solver == "auto" and len(nodes) <= most_exact)
        chosen, kept, at_most = _solved(gains[nodes], own, strengths[between][own.rows], exact)
        labels[nodes] = chosen
        cost_of_parts, bound_of_parts = cost_of_parts - kept, bound_of_parts - at_most
        relaxed += 0 if exact else len(nodes)
    cost = cut_cost(labels, weights, edges, strengths)
    gap = max(cost_of_parts - bound_of_parts, 0.0)
    return Cut(labels, cost, max(cost - gap, 0.0), len(open_nodes), relaxed)


def cut_cost(labels: NDArray[np.int64], weights: NDArray, edges: NDArray[np.int64], strengths: NDArray) -> float:
    """The sum of all weights that the labels cut."""
    possible = np.where(np.isfinite(weights), weights, 0).sum()
    kept = weights[np.arange(len(labels)), labels].sum()
    return float(possible - kept + strengths.astype(np.float64)[labels[edges[:, 0]] != labels[edges[:, 1]]].sum())


def decided(weights: NDArray, edges: NDArray[np.int64], strengths: NDArray) -> tuple[NDArray[np.int64], NDArray]:
    """Labels of nodes whose best class leads by at least the weights between them and undecided nodes; else -1.

    Such a node has this class in a best cut. What it is linked to gains this class, and may be decided next. Returns
    the weights (N, K) with what the nodes have gained, too.
    """
    gains, count = weights.astype(np.float64), len(weights)
    links = sparse.coo_array(
        (np.tile(strengths, 2).astype(np.float64), (edges.T.ravel(), edges[:, ::-1].T.ravel())), shape=(count, count)
    ).tocsr()
    labels = np.full(count, -1)
    while True:
        free = (labels < 0).astype(np.float64)
        ranked = np.sort(gains, axis=1)
        lead = ranked[:, -1] - ranked[:, -2] if gains.shape[1] > 1 else np.full(count, np.inf)
        new = np.flatnonzero((labels < 0) & (lead >= links @ free))
        if not len(new):
            return labels, gains
        labels[new] = gains[new].argmax(1)
        chosen = sparse.csr_array((np.ones(len(new)), (new, labels[new])), shape=gains.shape)
        gains += (links @ chosen).toarray()


@dataclass(frozen=True)
class _Links:
    """The edges inside a part: pairs (E, 2) of its nodes, by their place in the part, and their rows in all edges."""

    pairs: NDArray[np.int64]
    rows: NDArray[np.int64]


def _parts(nodes: NDArray[np.int64], edges: NDArray[np.int64], count: int) -> list[tuple[NDArray[np.int64], _Links]]:
    """The connected parts of the graph of `nodes`."""
    place = np.full(count, -1)
    place[nodes] = np.arange(len(nodes))
    pairs = place[edges]  # (E, 2)
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(nodes), len(nodes)))
    number, part = connected_components(graph, directed=False)
    by_part = np.argsort(part, kind="stable")
    members = np.split(by_part, np.cumsum(np.bincount(part, minlength=number))[:-1])
    part_of_edge = part[pairs[:, 0]]
    rows = np.split(
        np.argsort(part_of_edge, kind="stable"), np.cumsum(np.bincount(part_of_edge, minlength=number))[:-1]
    )
    within = np.empty(len(nodes), np.int64)
    found = []
    for own, links in zip(members, rows, strict=True):
        within[own] = np.arange(len(own))
        found.append((nodes[own], _Links(within[pairs[links]], links)))
    return found


def _solved(gains: NDArray, links: _Links, strengths: NDArray, exact: bool) -> tuple[NDArray[np.int64], float, float]:
    """Labels of one part, the weight that they keep, and the most that any labels keep.

    x_ic: node i has class c, exactly one of its classes; y_ec: both ends of edge e have class c, y_ec <= x_ic, x_jc.
    """
    nodes, classes = np.nonzero(np.isfinite(gains))
    number = np.full(gains.shape, -1)
    number[nodes, classes] = np.arange(len(nodes))
    one, other = number[links.pairs[:, 0]], number[links.pairs[:, 1]]  # (E, K)
    edge, shared = np.nonzero((one >= 0) & (other >= 0))
    first, count = len(nodes), len(edge)
    ys = first + np.arange(count)
    one_class = sparse.coo_array((np.ones(first), (nodes, np.arange(first))), shape=(len(gains), first + count))
    rows = np.arange(2 * count)
    ends = np.concatenate([one[edge, shared], other[edge, shared]])
    below = sparse.coo_array(
        (np.repeat([1.0, -1.0], 2 * count), (np.tile(rows, 2), np.concatenate([ys, ys, ends]))),
        shape=(2 * count, first + count),
    )
    objective = -np.concatenate([gains[nodes, classes], strengths[edge]])
    constraints = [LinearConstraint(one_class.tocsc(), 1, 1)]
    if count:
        constraints.append(LinearConstraint(below.tocsc(), -np.inf, 0))
    whole = np.zeros(first + count)
    whole[:first] = exact
    result = milp(objective, integrality=whole, bounds=(0, 1), constraints=constraints, options={"mip_rel_gap": 0})
    if result.x is None:
        raise RuntimeError(f"HiGHS found no multi-way cut: {result.message}")  # there is always one
    shares = np.full(gains.shape, -1.0)
    shares[nodes, classes] = result.x[:first]
    labels = shares.argmax(1)
    same = labels[links.pairs[:, 0]] == labels[links.pairs[:, 1]]
    kept = float(gains[np.arange(len(gains)), labels].sum() + strengths[same].sum())
    return labels, kept, -float(result.mip_dual_bound if exact else result.fun)
