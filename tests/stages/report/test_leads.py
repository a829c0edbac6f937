"""Who leads in a table, by hand."""

from __future__ import annotations

import pytest

from stages.pipeline.table import Row, Table
from stages.report.figures import Figure, Results
from stages.report.leads import leads_of


def results(figures: dict[str, dict[str, list[float]]]) -> Results:
    """Of row -> column -> runs."""
    columns = list(next(iter(figures.values())))
    rows = [Row(label, {column: [] for column in columns}, None) for label in figures]
    found = {
        label: {column: Figure({f"{label}-s{k}": v for k, v in enumerate(runs)}, []) for column, runs in by.items()}
        for label, by in figures.items()
    }
    return Results(Table("T", "mean_iou", columns, rows), found, dict.fromkeys(figures))


def test_a_lead_is_over_the_next_and_the_first_row_and_says_whether_runs_overlap() -> None:
    found = leads_of(
        results({"base": {"val": [40.0, 42.0]}, "near": {"val": [50.0, 53.0]}, "top": {"val": [52.0, 54.0]}})
    )
    (lead,) = found
    assert (lead.highest, lead.mean, lead.runs) == (("top",), 53.0, 2)
    assert (lead.second.label, lead.second.points, lead.second.apart) == ("near", pytest.approx(1.5), False)
    assert lead.first is not None
    assert (lead.first.label, lead.first.points, lead.first.apart) == ("base", pytest.approx(12.0), True)
    assert lead.words == "val: top 53.0, +1.5 above near (the runs overlap), +12.0 above base (no runs overlap)"


def test_rows_that_are_shown_equal_lead_together_and_one_run_has_no_spread() -> None:
    single, level = leads_of(
        results(
            {
                "base": {"a": [60.0], "b": [10.0]},
                "one": {"a": [59.0], "b": [20.04]},
                "two": {"a": [], "b": [19.96]},
            }
        )
    )
    assert (single.highest, single.first, single.second.label) == (("base",), None, "one")
    assert single.words == "a: base 60.0, +1.0 above one (one run)"
    assert level.words == "b: one = two 20.0, +10.0 above base (one run)"
    assert leads_of(results({"base": {"a": [60.0]}, "one": {"a": [60.01]}})) == []  # nobody leads
