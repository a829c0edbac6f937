"""The time of `run own`: what a plan predicts, what a budget leaves, and what is left for the choice; by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from artifacts.errors import ConfigError
from stages.planning.own_recipe import OwnPlan, iterations_again, own_plan
from stages.planning.proposal import make_plan
from stages.planning.records import GIB, DataFacts, Machine, Measured, Pace, Spread, Trial, Wishes
from stages.planning.rules import DELIVERY_S, SAFETY
from stages.planning.timing import AGAIN, DELIVERY, elapsed

SIDE = Spread(100, 100, 100, 100)
DATA = DataFacts(
    "own", ("background", "cat"), masks=40, unlabelled=60, holdout=10, val=20, short=SIDE, long=SIDE, objects=SIDE
)
MACHINE = Machine(memory=8 * GIB, cores=2)
PACES = {"pseudo-labels": Pace(2, 0.5), "predict": Pace(1, 0.1), "evaluate": Pace(0, 0.05), "review": Pace(3, 0.2)}
TRIALS = {
    "supervised": Trial(16, GIB, 0.5, start_s=4, first_s=1, end_s=1),
    "self-training": Trial(16, GIB, 1.0, start_s=4, first_s=1, end_s=1),
}
MEASURED = Measured(16, TRIALS, process_s=5, paces=PACES)
OWN = Wishes(weights="none", iterations=100, model=True)


def test_every_part_of_a_run_has_its_time():
    plan = make_plan(DATA, MACHINE, OWN, MEASURED)
    assert plan.seconds == {
        "supervised": 6 + 50,
        "self-training": 6 + 100,
        AGAIN: 6 + 100,  # the longer one
        "pseudo-labels": 2 + 60 * 0.5,
        "scores": 2 * (1 + 10 * 0.1 + 10 * 0.05),  # both networks on the holdout
        "starting": 5,
        # val predicted and scored, all 130 images predicted and reviewed
        DELIVERY: (1 + 2 + 1) + (1 + 13) + (3 + 26) + DELIVERY_S,
    }
    assert plan.total_s == sum(plan.seconds.values())


def test_without_a_holdout_nothing_is_trained_again():
    assert AGAIN not in make_plan(replace(DATA, holdout=0), MACHINE, OWN, MEASURED).seconds


def test_commands_start_a_process_each():
    plan = make_plan(DATA, MACHINE, replace(OWN, model=False), MEASURED)
    assert plan.seconds["starting"] == 5 * (3 + 2 * 2)  # two trainings, pseudo labels; masks and scores of two networks
    assert DELIVERY not in plan.seconds


@pytest.mark.parametrize("spent", [0, 30])
def test_a_budget_counts_what_was_spent_and_what_follows_the_choice(spent: int):
    plan = make_plan(DATA, MACHINE, replace(OWN, budget_s=250, spent_s=spent), MEASURED)
    assert plan.total_s is not None
    assert 240 * SAFETY - spent < plan.total_s <= 250 * SAFETY - spent


def test_the_least_budget_is_named_and_is_enough():
    with pytest.raises(ConfigError, match=r"30 s for checking, preparing and measuring need (\d+) s") as caught:
        make_plan(DATA, MACHINE, replace(OWN, budget_s=60, spent_s=30), MEASURED)
    assert "--set method=supervised" in str(caught.value.hint)
    needed = int(caught.value.message.split()[-2])
    assert make_plan(DATA, MACHINE, replace(OWN, budget_s=needed, spent_s=30), MEASURED).iterations["supervised"] == 20


# ------------------------------------------------------------------------------------------------- side by side

ONLINE = replace(OWN, method="fixmatch")  # reads no baseline: both trainings can run at a time
BOTH = replace(MEASURED, trials={"supervised": TRIALS["supervised"], "fixmatch": TRIALS["self-training"]})


def test_nodes_start_in_their_order_each_after_what_it_reads():
    seconds = {"a": 5.0, "b": 2.0, "c": 4.0, "d": 1.0}
    reads = {"a": ["data"], "b": [], "c": ["b"], "d": ["a", "c"]}
    assert [elapsed(seconds, reads, jobs) for jobs in (1, 2, 3)] == [12, 7, 7]  # b and c beside a, then d
    assert elapsed(seconds, dict.fromkeys(seconds, ()), 2) == 6  # c after b beside a, d after a


def test_nodes_side_by_side_take_less_time_and_a_chain_does_not():
    chain, alone, both = (
        make_plan(DATA, MACHINE, replace(wishes, jobs=jobs), measured)
        for wishes, measured, jobs in ((OWN, MEASURED, 2), (ONLINE, BOTH, 1), (ONLINE, BOTH, 2))
    )
    assert chain.total_s == sum(chain.seconds.values()) - 2.5  # the baseline is scored beside the pseudo labels
    assert alone.total_s == sum(alone.seconds.values())
    assert alone.seconds == both.seconds
    assert both.total_s == alone.total_s - 56 - 2.5  # the baseline beside the longer training, and its scores
    own = own_plan(both, "key", ONLINE, 0.0)
    assert (own.all_s(1), own.all_s(2)) == (alone.total_s, both.total_s)


def test_a_budget_leaves_more_steps_to_trainings_side_by_side():
    one, two = (make_plan(DATA, MACHINE, replace(ONLINE, budget_s=250, jobs=jobs), BOTH).iterations for jobs in (1, 2))
    assert one["fixmatch"] < two["fixmatch"] < 100
    own = own_plan(make_plan(DATA, MACHINE, ONLINE, BOTH), "key", replace(ONLINE, budget_s=320), 0.0)
    took = {"supervised": 56.0, "fixmatch": 106.0}
    assert [own.passed_s(took, jobs) for jobs in (1, 2)] == [162, 106]
    assert iterations_again(own, "fixmatch", took, 1) < iterations_again(own, "fixmatch", took, 2)


# ------------------------------------------------------------------------------------------------- after the choice


def planned(budget: float | None, spent: float = 20.0) -> OwnPlan:
    wishes = replace(OWN, budget_s=budget)
    return own_plan(make_plan(DATA, MACHINE, OWN, MEASURED), "key", wishes, spent)


TOOK = {"supervised": 56.0, "self-training": 106.0, "pseudo-labels": 32.0}  # as predicted, the rest is not counted


def test_without_a_budget_the_choice_is_trained_as_planned():
    assert iterations_again(planned(None), "supervised", {**TOOK, "supervised": 9e9}) == 100


def test_a_budget_that_is_large_enough_lowers_nothing():
    assert iterations_again(planned(3600), "self-training", TOOK) == 100


def test_what_is_left_decides_worked_by_hand():
    """Of 370 s 20 and 194 are over, 60 are kept for what follows: 96. Nine tenths of it, less 6 to start: 80 steps."""
    follows = 1 + 2 + 1 + 14 + 29 + DELIVERY_S
    budget = 20 + 194 + follows + 96
    assert iterations_again(planned(budget), "self-training", TOOK) == int(0.9 * 96 - 6)


def test_too_little_time_takes_the_choice_as_it_is():
    assert iterations_again(planned(20 + 194 + 57 + 30), "self-training", TOOK) == 0
    assert iterations_again(planned(100), "self-training", TOOK) == 0  # over already


def test_a_machine_that_was_slower_than_predicted_gets_fewer_steps():
    slow = {name: 1.5 * seconds for name, seconds in TOOK.items()}
    quick, late = (iterations_again(planned(460), "self-training", took) for took in (TOOK, slow))
    assert quick == 100
    assert late < 100
