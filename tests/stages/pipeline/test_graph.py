"""Order and cycles."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stages.pipeline.graph import find_cycle, topological_order, upstream


def test_a_chain_is_ordered_from_its_inputs() -> None:
    assert topological_order({"c": ["b"], "b": ["a"], "a": []}) == ["a", "b", "c"]


def test_independent_nodes_keep_the_order_they_were_written_in() -> None:
    assert topological_order({"z": [], "a": [], "m": ["z"]}) == ["z", "a", "m"]


def test_a_cycle_is_named_with_its_first_node_at_both_ends() -> None:
    assert find_cycle({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == ["a", "b", "c", "a"]


def test_a_node_that_reads_itself_is_a_cycle() -> None:
    assert find_cycle({"x": [], "a": ["a"]}) == ["a", "a"]


def test_a_diamond_is_no_cycle() -> None:
    assert find_cycle({"top": ["left", "right"], "left": ["base"], "right": ["base"], "base": []}) is None


def test_a_long_chain_does_not_exhaust_the_stack_of_the_cycle_search() -> None:
    reads = {str(i): [str(i + 1)] for i in range(5000)} | {"5000": ["0"]}
    cycle = find_cycle(reads)
    assert cycle is not None
    assert len(cycle) == 5002


def test_a_chain_of_many_nodes_does_not_exhaust_the_stack_of_the_order() -> None:
    names = [str(i) for i in range(20_000)]
    reads = {name: [source] for name, source in zip(names[1:], names, strict=False)} | {"0": []}
    assert topological_order(reads) == names
    assert topological_order(dict(reversed(reads.items()))) == names


def test_upstream_is_everything_needed() -> None:
    assert upstream({"c": ["b"], "b": ["a"], "a": [], "x": []}, "c") == {"a", "b"}


graphs = st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), max_size=8).map(
    lambda raw: {str(k): [str(v) for v in values if v in raw] for k, values in raw.items()}
)


@given(graphs)
def test_either_a_real_cycle_is_found_or_every_node_comes_after_what_it_reads(reads: dict[str, list[str]]) -> None:
    cycle = find_cycle(reads)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(second in reads[first] for first, second in itertools.pairwise(cycle))
        return
    order = topological_order(reads)
    assert sorted(order) == sorted(reads)
    assert all(order.index(source) < order.index(name) for name in reads for source in reads[name])
