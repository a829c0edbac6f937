"""The time of a plan by what the probe measured, and the iterations that a budget leaves to its trainings."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from artifacts.errors import ConfigError
from stages.planning import rules
from stages.planning.records import EVALUATED, PREDICTED, REVIEWED, DataFacts, Measured, Plan, Trial, Wishes

AGAIN, DELIVERY = "the choice once more", "its scores, all masks, the export and the page"  # parts of `run own`


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
    if wishes.budget_s is not None:
        iterations, all_of_them = _within(plan, iterations, wishes, sum(others.values()), trials)
    seconds = {name: trial.seconds(iterations[name]) for name, trial in trials.items()}
    iterations.pop(AGAIN, None)
    parts = {name: round(count, 1) for name, count in (seconds | others).items()}
    starts = {name: trial.seconds(0) for name, trial in measured.trials.items()}
    total = round(sum(parts.values()), 1)
    return replace(plan, iterations=iterations, seconds=parts, starts_s=starts, total_s=total), all_of_them


def _other_seconds(plan: Plan, data: DataFacts, wishes: Wishes, measured: Measured) -> dict[str, float]:
    """What everything but the trainings takes, by name: steps, scores, the starts of processes, and what follows."""

    def seconds(key: str, *splits: str) -> float:
        return measured.paces[key].seconds(images_of(data, splits)) if key in measured.paces else 0.0

    steps = [step for step in plan.steps if not step.trains]
    found = {step.name: seconds(step.name, *step.splits) for step in steps}
    scored = "holdout" if wishes.model else "val"
    networks = len(plan.segmenters) if images_of(data, [scored]) else 0
    if networks:
        found["scores"] = networks * (seconds(PREDICTED, scored) + seconds(EVALUATED, scored))
    commands = 1 if wishes.model else len(plan.steps) + 2 * networks
    found["starting"] = commands * measured.process_s
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
    plan: Plan, iterations: dict[str, int], wishes: Wishes, others: float, trials: dict[str, Trial]
) -> tuple[dict[str, int], bool]:
    """Fewer iterations, each training shortened alike, and whether the budget allowed them all."""
    assert wishes.budget_s is not None
    starts = sum(trial.seconds(0) for trial in trials.values())
    wanted = sum(iterations[name] * trial.step_s for name, trial in trials.items())
    part = (wishes.budget_s * rules.SAFETY - wishes.spent_s - others - starts) / wanted
    least = {name: min(count, rules.WORTH_STARTING) for name, count in iterations.items()}
    smallest = max(least[name] / count for name, count in iterations.items())
    if part < smallest:
        needed = (wishes.spent_s + starts + smallest * wanted + others) / rules.SAFETY
        also = f", {wishes.spent_s:.0f} s for checking, preparing and measuring" if wishes.spent_s else ""
        raise ConfigError(
            f"a budget of {wishes.budget_s:.0f} s is too small for {plan.method}: {rules.WORTH_STARTING} steps of each "
            f"of {len(least)} trainings, their start-up and the predictions{also} need {math.ceil(needed)} s",
            f"give more time, {wishes.named('method', 'supervised')}, or a smaller network",
        )
    fewer = {name: max(math.floor(count * min(part, 1)), least[name]) for name, count in iterations.items()}
    return fewer, part >= 1
