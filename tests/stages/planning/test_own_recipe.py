"""What `run own` takes, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stages.planning.own_recipe import choose, favoured_of


def share(sure: float) -> Callable[[str], float]:
    return lambda name: sure


@pytest.mark.parametrize(
    ("first", "second", "sure", "chosen"),
    [
        (0.5, 0.6, 0.9, "second"),  # surely better
        (0.5, 0.6, 0.89, "first"),
        (0.6, 0.5, 0.0, "first"),  # the favoured one is the best: nothing is drawn
        (0.5, 0.5, 0.0, "first"),
    ],
)
def test_another_than_the_favoured_network_has_to_be_surely_better(
    first: float, second: float, sure: float, chosen: str
) -> None:
    best = "second" if second > first else "first"
    expected = (chosen, best, sure if best == "second" else 1.0)
    assert choose({"first": first, "second": second}, "first", share(sure)) == expected
    assert choose({"second": second, "first": first}, "first", share(sure)) == expected


def test_the_baseline_is_favoured_where_few_images_have_no_mask() -> None:
    assert favoured_of(["supervised", "self-training"], 119) == "supervised"
    assert favoured_of(["supervised", "self-training"], 120) == "self-training"
    assert favoured_of(["retrained"], 5) == "retrained"
