"""The time of a plan by what the probe measured, and the iterations that a budget leaves to its trainings."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from artifacts.errors import ConfigError
from stages.planning import rules
from stages.planning.records import EVALUATED, PREDICTED, REVIEWED, DataFacts, Measured, Plan, Wishes

SCORES, STARTING = "scores", "starting"
AGAIN, DELIVERY = "the choice once more", "its scores, all masks, the export and the page"  # parts of `run own`
FINE = 1 << 40  # in so many equal steps the part of the iterations is found that a budget allows


def images_of(data: DataFacts, splits: Collection[str]) -> int:
    """The images of these splits; those of weak without a label count as unlabelled."""
    counts = {"train": data.masks, "weak": data.image_labels, "unlabelled": data.unlabelled}
    counts |= {"holdout": data.holdout, "val": data.val}
    return sum(counts.get(split, 0) for split in splits)


def timed(plan: Plan, data: DataFacts, wishes: Wishes, measured: Measured) -> tuple[Plan, bool]:
    """The plan with the iterations that the budget allows and with its seconds; and whether it allowed all of them.

    ConfigError where the budget is too small to train at all.
    """
    trials, others = dict(measured.trials), _other_seconds(plan, data, wishes, measured)
    longest = max(plan.segmenters, key=lambda name: trials[name].seconds(plan.iterations[name]))
    iterations, all_of_them = dict(plan.iterations), True
    if wishes.model and data.holdout:
        trials[AGAIN], iterations[AGAIN] = trials[longest], iterations[longest]
    reads = {step.name: [*step.inputs.values()] for step in plan.steps}

    def parts(iterations: Mapping[str, float]) -> dict[str, float]:
        return {name: trial.seconds(iterations[name]) for name, trial in trials.items()} | others

    def total(seconds: Mapping[str, float]) -> float:
        before = up_to_choice_s(seconds, reads, plan.segmenters, wishes.jobs)
        return before + seconds.get(AGAIN, 0.0) + seconds.get(DELIVERY, 0.0)

    if wishes.budget_s is not None:
        iterations, all_of_them = _within(plan, iterations, wishes, lambda fewer: total(parts(fewer)))
    seconds = {name: round(count, 1) for name, count in parts(iterations).items()}
    iterations.pop(AGAIN, None)
    starts = {name: trial.seconds(0) for name, trial in measured.trials.items()}
    whole = round(total(seconds), 1)
    return replace(plan, iterations=iterations, seconds=seconds, starts_s=starts, total_s=whole), all_of_them


def up_to_choice_s(
    seconds: Mapping[str, float], reads: Mapping[str, Collection[str]], segmenters: Sequence[str], jobs: int
) -> float:
    """The time of all steps and of the scores of their networks.

    seconds: of the parts of a plan; reads: the names of what each of its steps is made from.
    """
    scores = {f"scores of {name}": [name] for name in segmenters}
    nodes = {name: seconds[name] for name in reads}
    nodes |= dict.fromkeys(scores, seconds.get(SCORES, 0.0) / len(segmenters))
    return seconds[STARTING] + elapsed(nodes, {**reads, **scores}, jobs)


def elapsed(seconds: Mapping[str, float], reads: Mapping[str, Collection[str]], jobs: int) -> float:
    """From the start of the first node to the end of the last, if `jobs` are made at a time.

    As `run --jobs` does it, they start in their order, each after those of them that it reads.
    """
    now, waiting, ends = 0.0, list(seconds), dict[str, float]()
    while waiting or ends:
        unmade = {*waiting, *ends}
        for name in [name for name in waiting if unmade.isdisjoint(reads[name])][: jobs - len(ends)]:
            waiting.remove(name)
            ends[name] = now + seconds[name]
        now = ends.pop(min(ends, key=ends.__getitem__))
    return now


def _other_seconds(plan: Plan, data: DataFacts, wishes: Wishes, measured: Measured) -> dict[str, float]:
    """What everything but the trainings takes, by name: steps, scores, the starts of processes, and what follows."""

    def seconds(key: str, *splits: str) -> float:
        return measured.paces[key].seconds(images_of(data, splits)) if key in measured.paces else 0.0

    steps = [step for step in plan.steps if not step.trains]
    found = {step.name: seconds(step.name, *step.splits) for step in steps}
    scored = "holdout" if wishes.model else "val"
    networks = len(plan.segmenters) if images_of(data, [scored]) else 0
    if networks:
        found[SCORES] = networks * (seconds(PREDICTED, scored) + seconds(EVALUATED, scored))
    commands = 1 if wishes.model else len(plan.steps) + 2 * networks
    found[STARTING] = commands * measured.process_s
    if wishes.model:
        everything = ("train", "weak", "unlabelled", "holdout", "val")
        found[DELIVERY] = sum(
            (
                seconds(PREDICTED, "val") + seconds(EVALUATED, "val") if data.val else 0.0,
                seconds(PREDICTED, *everything),
                seconds(REVIEWED, *everything),
                rules.DELIVERY_S,
            )
        )
    return found


def _within(
    plan: Plan, iterations: dict[str, int], wishes: Wishes, total: Callable[[Mapping[str, float]], float]
) -> tuple[dict[str, int], bool]:
    """Fewer iterations, each training shortened alike, and whether the budget allowed them all.

    total: the seconds of everything that is left to do, with these iterations.
    """
    budget_s = wishes.budget_s
    assert budget_s is not None
    least = {name: min(count, rules.WORTH_STARTING) for name, count in iterations.items()}
    smallest = max(least[name] / count for name, count in iterations.items())

    def needed(part: float) -> float:
        return (wishes.spent_s + total({name: part * count for name, count in iterations.items()})) / rules.SAFETY

    if needed(smallest) > budget_s:
        also = f", {wishes.spent_s:.0f} s for checking, preparing and measuring" if wishes.spent_s else ""
        raise ConfigError(
            f"a budget of {budget_s:.0f} s is too small for {plan.method}: {rules.WORTH_STARTING} steps of each "
            f"of {len(least)} trainings, their start-up and the predictions{also} need {math.ceil(needed(smallest))} s",
            f"give more time, {wishes.named('method', 'supervised')}, or a smaller network",
        )
    if needed(1.0) <= budget_s:
        return iterations, True
    part = (bisect.bisect(range(FINE), budget_s, key=lambda fine: needed(fine / FINE)) - 1) / FINE
    return {name: max(math.floor(count * part), least[name]) for name, count in iterations.items()}, False
