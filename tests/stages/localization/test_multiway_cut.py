"""stages/localization/multiway_cut.py: against every labelling of tiny graphs, by hand, and its bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.localization.multiway_cut import cut_cost, decided, multiway_cut

IMPOSSIBLE = -np.inf
NO_EDGES = np.zeros((0, 2), np.int64)


def draw(seed: int, nodes: int, num_classes: int, strong: float):
    """A random graph in which every node may have class 0 and some others."""
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((nodes, num_classes)) < 0.7, rng.random((nodes, num_classes)), IMPOSSIBLE)
    weights[:, 0] = rng.random(nodes)
    pairs = np.array(list(itertools.combinations(range(nodes), 2)), np.int64).reshape(-1, 2)
    edges = pairs[rng.random(len(pairs)) < 0.6]
    return weights, edges, rng.random(len(edges)) * strong


def by_loops(labels, weights, edges, strengths) -> float:
    cost = 0.0
    for node, label in enumerate(labels):
        cost += sum(value for c, value in enumerate(weights[node]) if c != label and value > 0)
    for (one, other), strength in zip(edges, strengths, strict=True):
        cost += strength if labels[one] != labels[other] else 0
    return cost


def cheapest(weights, edges, strengths) -> float:
    possible = [np.flatnonzero(np.isfinite(row)) for row in weights]
    return min(by_loops(labels, weights, edges, strengths) for labels in itertools.product(*possible))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    nodes=st.integers(1, 6),
    num_classes=st.integers(1, 4),
    strong=st.sampled_from([0.2, 1]),
)
def test_no_labelling_is_cheaper(seed, nodes, num_classes, strong):
    graph = draw(seed, nodes, num_classes, strong)
    best = cheapest(*graph)
    exact = multiway_cut(*graph, solver="exact")
    assert exact.cost == pytest.approx(best)
    assert exact.bound == pytest.approx(best)
    assert exact.cost == pytest.approx(by_loops(exact.labels, *graph)) == pytest.approx(cut_cost(exact.labels, *graph))
    relaxed = multiway_cut(*graph, solver="relaxation")
    assert relaxed.bound <= best + 1e-6
    assert relaxed.cost >= best - 1e-6
    assert np.isfinite(graph[0][np.arange(nodes), relaxed.labels]).all()


def test_by_hand():
    """Node 1 leans to class 1 by .1, its two neighbours of class 2 hold it with .3 each; node 3 stands alone."""
    weights = np.array([[0, 0, 0.9], [0, 0.5, 0.4], [0, 0, 0.9], [0.6, 0.5, IMPOSSIBLE]])
    edges, strengths = np.array([[0, 1], [1, 2]]), np.array([0.3, 0.3])
    cut = multiway_cut(weights, edges, strengths)
    assert cut.labels.tolist() == [2, 2, 2, 0]
    assert cut.cost == pytest.approx(0.5 + 0.5)  # of node 1 and of node 3
    assert multiway_cut(weights, edges, strengths / 10).labels.tolist() == [2, 1, 2, 0]


def test_a_class_that_a_node_cannot_have_is_never_its_class():
    weights = np.array([[0.0, 1.0], [0.0, IMPOSSIBLE], [0.0, 1.0]])
    cut = multiway_cut(weights, np.array([[0, 1], [1, 2]]), np.array([5.0, 5.0]), solver="exact")
    assert cut.labels.tolist() == [0, 0, 0]  # 2 is cut; with 1, 0, 1 it would be 10


def test_what_is_decided_first_is_in_a_best_cut():
    for seed in range(20):
        weights, edges, strengths = draw(seed, 6, 3, 0.5)
        labels, _ = decided(weights, edges, strengths)
        held = np.where((labels[:, None] < 0) | (np.arange(3) == labels[:, None]), weights, IMPOSSIBLE)
        lost = weights[np.isfinite(weights) & ~np.isfinite(held)].clip(min=0).sum()
        assert cheapest(held, edges, strengths) + lost == pytest.approx(cheapest(weights, edges, strengths))


def test_a_graph_that_the_relaxation_splits():
    """Three nodes, each with another pair of three classes, all linked: the relaxation takes halves, and costs less."""
    weights = np.array([[0, 0, IMPOSSIBLE], [0, IMPOSSIBLE, 0], [IMPOSSIBLE, 0, 0]], float)
    edges, strengths = np.array([[0, 1], [1, 2], [0, 2]]), np.ones(3)
    exact, relaxed = (multiway_cut(weights, edges, strengths, solver) for solver in ("exact", "relaxation"))
    assert exact.cost == exact.bound == pytest.approx(2)
    assert relaxed.bound == pytest.approx(1.5)
    assert (exact.relaxed, relaxed.relaxed, exact.undecided) == (0, 3, 3)
    assert multiway_cut(weights, edges, strengths, "auto", most_exact=2).relaxed == 3
    assert multiway_cut(weights, edges, strengths, "auto", most_exact=3).relaxed == 0


@pytest.mark.parametrize("nodes", [0, 3])
def test_without_edges_each_node_has_its_highest_class(nodes):
    weights = np.array([[0.1, 0.2], [0.3, 0.2], [0.5, IMPOSSIBLE]])[:nodes]
    cut = multiway_cut(weights, NO_EDGES, np.zeros(0))
    assert cut.labels.tolist() == [1, 0, 0][:nodes]
    assert cut.bound == cut.cost
