"""The recipe `own`: from the steps of a plan to nodes that are compared on the holdout, and those of the choice.

raw = with_plan(recipe_values(path), plan, choosing=True)          # the networks of the plan, scored on the holdout
raw = with_choice(raw, plan, "self-training", True, 300, True)              # and the choice, scored on val
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from artifacts.json_items import Anything, Shape
from stages.planning.records import Plan, Wishes
from stages.planning.rules import LEAST_AGAIN, MANY_OTHERS, SAFETY
from stages.planning.timing import AGAIN, DELIVERY, elapsed, up_to_choice_s

DATA, ALL_MASKS, FINAL = "data", "data-all-masks", "final"
ALL_SPLITS = ["train", "holdout", "val", "weak", "unlabelled", "test"]
RESAMPLES = 2000  # of the images of val, for the interval, and of those of the holdout, for the choice
SURE = 0.9  # of the holdouts: when they overrule what is favoured


class OwnStep(Shape):
    """A node that the plan adds."""

    name: str
    stage: str
    inputs: dict[str, str]
    config: Anything


class OwnPlan(Shape):
    """What of a plan the recipe needs; recorded in the workspace, so that a run that goes on has the same plan.

    key: what the plan was made for. segmenters: the networks to compare, the baseline first. predict: the settings of
    predictions. choices: (what, value, reason, source) of each decision. budget_s: None: none; spent_s: of it, when the
    plan was made. seconds: predicted, by part; starts_s: of each training, without its steps.
    """

    key: str
    steps: list[OwnStep]
    segmenters: list[str]
    predict: Anything
    choices: list[list[str]]
    remarks: list[str]
    budget_s: float | None
    spent_s: float
    seconds: dict[str, float]
    starts_s: dict[str, float]

    def after_choice_s(self) -> float:
        """Predicted, without the training of the choice."""
        return self.seconds[DELIVERY]

    def up_to_choice_s(self, jobs: int) -> float:
        """Predicted, with so many nodes at a time."""
        return up_to_choice_s(self.seconds, self._reads(), self.segmenters, jobs)

    def all_s(self, jobs: int) -> float:
        return self.up_to_choice_s(jobs) + self.seconds.get(AGAIN, 0.0) + self.after_choice_s()

    def passed_s(self, took: Mapping[str, float], jobs: int) -> float:
        """The time that nodes up to the choice took, of which `took` has the seconds, with so many at a time."""
        reads = self._reads()
        for one in self.segmenters:
            reads |= {predictions_of(one): [one], scores_of(one): [predictions_of(one)]}
        return elapsed(took, reads, jobs)

    def _reads(self) -> dict[str, list[str]]:
        return {step.name: [*step.inputs.values()] for step in self.steps}


def own_plan(plan: Plan, key: str, wishes: Wishes, spent_s: float) -> OwnPlan:
    steps = [
        OwnStep(name=step.name, stage=step.stage, inputs=dict(step.inputs), config=plan.config(step))
        for step in plan.steps
    ]
    return OwnPlan(
        key=key,
        steps=steps,
        segmenters=list(plan.segmenters),
        predict=dict(plan.sections["predict"]),
        choices=[[choice.what, choice.value, choice.reason, choice.source] for choice in plan.choices],
        remarks=list(plan.remarks),
        budget_s=wishes.budget_s,
        spent_s=round(spent_s, 1),
        seconds=dict(plan.seconds),
        starts_s=dict(plan.starts_s),
    )


def iterations_again(plan: OwnPlan, chosen: str, took: Mapping[str, float], jobs: int = 1) -> int:
    """How many iterations the budget leaves to train the choice again; 0 where they are too few to be worth it.

    took: seconds of each node up to the choice, all its runs together, `jobs` at a time. They tell how busy the machine
    was, too.
    """
    planned = int(next(step for step in plan.steps if step.name == chosen).config["iterations"])
    if plan.budget_s is None:
        return planned
    passed = plan.passed_s(took, jobs)
    busy = max(passed / plan.up_to_choice_s(jobs), 1.0)
    left = plan.budget_s - plan.spent_s - passed - busy * plan.after_choice_s()
    start = plan.starts_s[chosen]
    fit = math.floor((SAFETY * left - start) / (max(took[chosen] - start, 0.1) / planned))
    return 0 if fit < LEAST_AGAIN * planned else min(fit, planned)


def favoured_of(segmenters: Sequence[str], others: int) -> str:
    """What to take where the holdout does not tell: the first network (the baseline) with few images without masks."""
    return segmenters[0 if others < MANY_OTHERS else -1]


def choose(scores: Mapping[str, float], favoured: str, sure_of: Callable[[str], float]) -> tuple[str, str, float]:
    """(the network to take, the one with the highest score, in what share of drawn holdouts that one is above).

    The highest is taken if it is `favoured`, or above it in at least `SURE` of the holdouts; `sure_of` tells the share.
    """
    best = max(scores, key=lambda name: (scores[name], name == favoured))
    sure = 1.0 if best == favoured else sure_of(best)
    return (best if sure >= SURE else favoured), best, sure


def predictions_of(segmenter: str) -> str:
    """The node of a network's masks of the holdout."""
    return f"{segmenter}-holdout"


def scores_of(segmenter: str) -> str:
    """The node of a network's scores on the holdout."""
    return f"{predictions_of(segmenter)}-scores"


def with_plan(raw: Mapping[str, Any], plan: OwnPlan, choosing: bool) -> dict[str, Any]:
    """The recipe with the steps of the plan; choosing: and with the scores of its networks on the holdout."""
    nodes: dict[str, Any] = dict(raw["nodes"])
    nodes |= {step.name: {"stage": step.stage, "inputs": step.inputs, "config": step.config} for step in plan.steps}
    for segmenter in plan.segmenters if choosing else ():
        nodes |= _scored(predictions_of(segmenter), segmenter, DATA, "holdout", plan, {})
    rows = [
        {"label": segmenter, "nodes": {"holdout": scores_of(segmenter)}, "costs": {"up_to": segmenter}}
        for segmenter in plan.segmenters
    ]
    table = {
        "title": "Your images: mean IoU, percent",
        "metric": "mean_iou",
        "columns": ["holdout", "val"],
        "notes": [
            "holdout: images with masks that nothing above was trained on. What the rules favour is "
            "chosen, unless another is surely better on them."
        ],
        "rows": rows if choosing else [],
    }
    return {**raw, "nodes": nodes, "table": table}


def with_choice(
    raw: Mapping[str, Any], plan: OwnPlan, chosen: str, has_masks: bool, again: int, has_val: bool
) -> dict[str, Any]:
    """The recipe of `with_plan` with the nodes after the choice.

    has_masks: images and masks are reviewed by the choice. again: iterations with which it is trained again, with the
    masks of the holdout too; 0: it is not. has_val: it is scored on val.
    """
    nodes, table = dict(raw["nodes"]), dict(raw["table"])
    step = next(step for step in plan.steps if step.name == chosen)
    final, data = chosen, DATA
    if again:
        final, data = FINAL, ALL_MASKS
        prepared = nodes[DATA]["config"]
        nodes[ALL_MASKS] = {"stage": "prepare-data", "config": {**prepared, "holdout": ""}}
        config = {**step.config, "iterations": again}
        nodes[FINAL] = {"stage": step.stage, "inputs": {**step.inputs, "data": ALL_MASKS}, "config": config}
    if has_val:
        scored = _scored(f"{final}-val", final, data, "val", plan, {"bootstrap": RESAMPLES})
        nodes |= scored
        label = f"{chosen}, with the masks of the holdout" if again else f"{chosen}, on val"
        row = {"label": label, "nodes": {"val": [*scored][-1]}, "costs": {"up_to": final}}
        table["rows"] = [*table["rows"], row]
    nodes["predictions"] = {
        "stage": "predict",
        "inputs": {"data": data, "segmenter": final},
        "config": {**plan.predict, "splits": ALL_SPLITS, "output": "masks", "overlays": "${overlays}"},
    }
    if has_masks:
        scales = {"scales": plan.predict["scales"]} if "scales" in plan.predict else {}
        nodes["review"] = {"stage": "review", "inputs": {"data": data, "segmenter": final}, "config": scales}
    return {**raw, "nodes": nodes, "table": table if table["rows"] else None}


def _scored(name: str, segmenter: str, data: str, split: str, plan: OwnPlan, how: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of a network's masks on a split and of their scores."""
    predicting = {**plan.predict, "splits": [split], "output": "masks"}
    return {
        name: {"stage": "predict", "inputs": {"data": data, "segmenter": segmenter}, "config": predicting},
        f"{name}-scores": {
            "stage": "evaluate",
            "inputs": {"data": data, "predictions": name},
            "config": {"splits": [split], **how},
        },
    }
