"""Means, spreads, missing runs and the sentence on the order of rows."""

from __future__ import annotations

import pytest

from stages.pipeline.table import Figure, Row, Table, order_sentence


def table(*order: str) -> Table:
    rows = [Row(label, {"ours": []}, None) for label in ("a", "b", "c")]
    return Table("T", "mean_iou", ["ours"], rows, list(order))


def figures(**runs: list[float]) -> dict[str, dict[str, Figure]]:
    return {
        label: {"ours": Figure({f"{label}{i}": value for i, value in enumerate(values)}, [])}
        for label, values in runs.items()
    }


def test_mean_and_spread_of_runs() -> None:
    figure = Figure({"s0": 40.0, "s1": 46.0, "s2": 43.0}, [])
    assert figure.mean == pytest.approx(43.0)
    assert figure.spread == (40.0, 46.0)
    assert Figure({"s0": 40.0}, []).spread is None
    assert Figure({}, ["s0"]).mean is None


def test_the_papers_order_is_said_when_it_is_met() -> None:
    sentence = order_sentence(table("b", "a", "c"), figures(a=[50], b=[60], c=[40]), "ours")
    assert sentence == "Order of the rows (ours): b 60.0 > a 50.0 > c 40.0: the paper's order."


def test_every_swapped_pair_is_named_when_it_is_not() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50], b=[40], c=[60]), "ours")
    assert sentence is not None
    assert "not the paper's order: c is above a; c is above b" in sentence


def test_overlapping_runs_are_named() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50, 60], b=[51, 53], c=[10, 11]), "ours")
    assert sentence is not None
    assert sentence.endswith("the paper's order (the runs of a and b overlap).")


def test_level_rows_do_not_count_as_the_papers_order() -> None:
    sentence = order_sentence(table("a", "b", "c"), figures(a=[50.01], b=[50.02], c=[40]), "ours")
    assert sentence is not None
    assert sentence.endswith("c 40.0: not against the paper's order, but a and b are level.")


def test_missing_rows_are_named_instead_of_compared() -> None:
    sentence = order_sentence(table("a", "b"), figures(a=[50], b=[], c=[1]), "ours")
    assert sentence == "Order of the rows (ours): not yet known, b missing."


def test_without_a_published_order_nothing_is_said() -> None:
    assert order_sentence(table(), figures(a=[1], b=[2], c=[3]), "ours") is None
