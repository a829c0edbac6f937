"""`make_plan`: from the fingerprint of a data set, a machine and wishes to a plan. A pure function; loads no torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from artifacts.errors import ConfigError, DataError
from artifacts.text import amount, did_you_mean
from stages.methods.settings import learning_from
from stages.networks.config import BACKBONES
from stages.planning import pipelines, rules
from stages.planning.image_view import ImageView, choose_view
from stages.planning.network_choice import ChosenNetwork, choose_network, optimizer_choice, optimizer_for
from stages.planning.records import GIB, PREDICTED, Choice, DataFacts, Machine, Measured, Plan, Step, Wishes
from stages.planning.rules import NETWORKS, MethodRule
from stages.planning.timing import timed


def make_plan(
    data: DataFacts,
    machine: Machine,
    wishes: Wishes | None = None,
    measured: Measured | None = None,
    data_name: str = "data",
) -> Plan:
    """The plan for a data set on a machine.

    Without `measured` the batch is the useful one and the number of iterations what the images deserve; with it, the
    batch is the one that fits, and the iterations those that the budget allows.

    Raises DataError where nothing can be learned from the data, ConfigError for a wish that cannot be had, and for a
    budget that is too small.
    """
    wishes = wishes or Wishes()
    _refuse_unusable(data)
    rule = _method(data, wishes)
    network, view = choose_network(machine, wishes), choose_view(data, machine, wishes)
    steps = _steps(rule, data, data_name, view)
    segmenters = tuple(step.name for step in steps if step.trains and step.stage == "train" and step.name != "dsrg")
    least = rules.LEAST_BATCH.get(rule.pipeline, rules.LEAST_BATCH_OTHERS)
    batch, batch_choice = _batch(data, machine, wishes, least, measured)
    sections = _sections(rule, network, view, batch, machine, wishes)
    plan = Plan(
        method=rule.method,
        choices=(),
        sections=sections,
        steps=steps,
        segmenters=segmenters,
        iterations={step.name: _useful(step, data, batch, wishes) for step in steps if step.trains},
        batch_size=batch,
        least_batch=least,
        remarks=(*network.remarks, *_remarks(data)),
    )
    plan, time_choice = _timed(plan, data, wishes, measured)
    choices = (
        Choice("method", rule.method, rule.reason, rule.source),
        *network.choices,
        *view.choices,
        batch_choice,
        time_choice,
        *_speed(plan, measured),
        optimizer_choice(network.rule, sections["train"]["optimizer"]),
        *_machine_choices(machine, wishes),
    )
    return replace(_with_iterations(plan), choices=choices)


# ------------------------------------------------------------------------------------------------- data and method


def _refuse_unusable(data: DataFacts) -> None:
    """DataError where there is nothing to learn, or nothing to learn from."""
    if data.long is None:
        raise DataError(f"the data set {data.name} has no images", "prepare it again: semiseg prepare-data --help")
    if not data.foreground or len(data.classes) < 2:
        alone = "name the background, too, as the first class of the class table; the rest of a photo belongs to it"
        raise DataError(
            f"the data set {data.name} has one class, {data.classes[0] if data.classes else '-'}: there is nothing to "
            "tell apart",
            alone if data.foreground else "name the classes of the objects, too, below the background",
        )
    if data.masks:
        return
    scored = data.val + data.holdout
    if not data.image_labels:
        all_of = "the only mask is" if scored == 1 else f"all {scored} masks are"
        where = f": {all_of} in val or holdout, which are not trained on" if scored else ""
        raise DataError(
            f"the data set {data.name} has neither masks nor image-level labels to learn from{where}",
            "prepare it with fewer images in val" if scored > 1 else "paint masks of a few images, or label them",
        )
    if not data.has_background:
        raise DataError(
            f"the data set {data.name} has image-level labels alone and no class background, which finding objects by "
            "labels needs",
            "paint masks of a few images",
        )
    if data.label_sets == 1:
        raise DataError(
            f"all {data.image_labels} labelled images of {data.name} have the same labels: nothing tells a classifier "
            "what makes the classes different",
            "add images that do not show them all, or paint masks of a few images",
        )


def _method(data: DataFacts, wishes: Wishes) -> MethodRule:
    rule = next(rule for rule in rules.METHODS if rule.holds(data))
    if wishes.method in ("", rule.method):
        return rule
    given = next((rule for rule in rules.METHODS if rule.method == wishes.method), None)
    if given is None:
        known = sorted({*learning_from(["masks", "images"]), *(rule.method for rule in rules.METHODS)})
        if wishes.method not in known:
            meant = did_you_mean(wishes.method, known, list_known=False)
            raise ConfigError(
                f"method {wishes.method!r} cannot be planned{meant}",
                f"one of {', '.join(known)}; others need artifacts that recipes make (semiseg run)",
            )
        given = MethodRule(wishes.method, "online", lambda data: True, "", "")
    needs_masks = given.pipeline != "labels"
    others = data.image_labels + data.unlabelled
    if (needs_masks and not data.masks) or (given.pipeline != "supervised" and not others):
        lacks = "masks" if needs_masks and not data.masks else "images without masks"
        raise DataError(
            f"method {given.method} needs {lacks}, and the data set {data.name} has none of them",
            f"{wishes.named('method', rule.method)}, or leave it out",
        )
    if given.pipeline == "labels" and not data.image_labels:
        raise DataError(
            f"method {given.method} needs image-level labels, and the data set {data.name} has none",
            f"{wishes.named('method', rule.method)}, or leave it out",
        )
    return replace(given, reason="as given", source="--method")


def _steps(rule: MethodRule, data: DataFacts, name: str, view: ImageView) -> tuple[Step, ...]:
    if rule.pipeline == "supervised":
        return pipelines.supervised(name)
    if rule.pipeline in ("self-training", "matched"):
        return pipelines.self_training(name, data, rule.pipeline == "matched")
    if rule.pipeline == "online":
        return pipelines.online(rule.method, name, data)
    return pipelines.from_labels(name, view.dsrg())


# ------------------------------------------------------------------------------------------------- batch


def _batch(
    data: DataFacts, machine: Machine, wishes: Wishes, least: int, measured: Measured | None
) -> tuple[int, Choice]:
    useful = wishes.batch_size or rules.USEFUL_BATCH
    trained = data.masks + data.image_labels + data.unlabelled
    while useful > least and wishes.batch_size is None and useful > 2 * trained:
        useful //= 2
    if measured is None:
        reason, source = "useful; whether it fits was not measured", rules.BATCH_SOURCE
        if wishes.batch_size:
            reason, source = "as given", "--batch-size"
        return useful, Choice("batch_size", str(useful), reason, source)
    most = max(trial.memory for trial in measured.trials.values())
    reason = f"a training needs {_gib(most)} with it, {_gib(machine.memory)} may be used"
    if measured.batch_size < useful:
        reason = f"the largest that fits: {reason}"
    return measured.batch_size, Choice("batch_size", str(measured.batch_size), reason, "measured")


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"


# ------------------------------------------------------------------------------------------------- iterations and time


def _useful(step: Step, data: DataFacts, batch: int, wishes: Wishes) -> int:
    """The iterations that the images are worth."""
    if wishes.iterations is not None:
        return wishes.iterations
    passes, half = rules.PASSES[step.trains], batch / 2
    if step.trains == "pseudo":
        wanted = max(passes.masks * data.masks / half, passes.others * (data.image_labels + data.unlabelled) / half)
    else:
        wanted = (passes.masks * data.masks + passes.others * data.image_labels) / batch
    return min(max(math.ceil(wanted), rules.LEAST_ITERATIONS), rules.MOST_ITERATIONS)


def _timed(plan: Plan, data: DataFacts, wishes: Wishes, measured: Measured | None) -> tuple[Plan, Choice]:
    """The plan with iterations that fit the budget and the time they take, as far as that was measured."""
    main = plan.trainings()[-1]
    source = rules.PASSES[main.trains].source if wishes.iterations is None else "--iterations"
    reason = _passes_in_words(main, data) if wishes.iterations is None else "as given"
    if measured is not None:
        plan, all_of_them = timed(plan, data, wishes, measured)
        if not all_of_them:
            reason, source = f"as many as fit the budget of {wishes.budget_s:.0f} s", "measured"
    values = ", ".join(f"{count:,} {name}" for name, count in plan.iterations.items())
    return plan, Choice("iterations", values, reason, source)


def _speed(plan: Plan, measured: Measured | None) -> list[Choice]:
    """The speed of the last training and of predicting, where it was measured."""
    if measured is None:
        return []
    trial = measured.trials[plan.trainings()[-1].name]
    predicting = measured.paces[PREDICTED].image_s
    reason = f"a step takes {trial.step_s:.3g} s, predicting an image {predicting:.2g} s"
    return [Choice("speed", f"{trial.batch_size / trial.step_s:.3g} images/s", reason, "measured")]


def _passes_in_words(step: Step, data: DataFacts) -> str:
    passes = rules.PASSES[step.trains]
    if step.trains == "labels":
        words = f"{passes.others:g} passes over {amount(data.image_labels, 'labelled image')}"
    else:
        words = f"{passes.masks:g} passes over {amount(data.masks, 'mask')}"
    if step.trains == "pseudo":
        words += f" or {passes.others:g} over {data.image_labels + data.unlabelled:,} other images, what is more"
    return f"{words}, at least {rules.LEAST_ITERATIONS}"


def _with_iterations(plan: Plan) -> Plan:
    """The sections hold the iterations of the last training of their stage; other steps name their own."""
    sections = {stage: dict(section) for stage, section in plan.sections.items()}
    for step in plan.trainings():
        sections[step.stage]["iterations"] = plan.iterations[step.name]
    last = plan.trainings()[-1]
    sections["train"]["method"] = last.settings["method"]
    steps = []
    for step in plan.steps:
        own = dict(step.settings)
        if step is last:
            own.pop("method")
        if step.trains and plan.iterations[step.name] != sections[step.stage]["iterations"]:
            own["iterations"] = plan.iterations[step.name]
        steps.append(replace(step, settings=own))
    return replace(plan, sections=sections, steps=tuple(steps))


# ------------------------------------------------------------------------------------------------- sections


def _sections(
    rule: MethodRule, network: ChosenNetwork, view: ImageView, batch: int, machine: Machine, wishes: Wishes
) -> dict[str, dict[str, Any]]:
    """The settings of each stage, as `--config` takes them; without method and iterations, which follow."""
    chosen = network.rule
    own: dict[str, Any] = {"preset": chosen.preset, "weights": network.weights}
    if network.weights == "none" and BACKBONES[chosen.backbone].batch_norm:
        own["freeze_batch_norm"] = False
    training = {
        "batch_size": batch,
        "crop_size": view.crop,
        "augmentation": {"scale": view.scales()},
        "precision": wishes.precision or ("bf16" if machine.bf16 and not machine.is_gpu else "auto"),
    }
    scales = {"scales": [view.factor]}
    sections: dict[str, dict[str, Any]] = {
        "train": {"network": own, **training, "optimizer": optimizer_for(chosen.optimizer, batch), "inference": scales},
        "predict": {"splits": ["val"], "output": "masks", **scales},
    }
    if rule.pipeline == "labels":
        if chosen.classifier is None:
            raise ConfigError(
                f"there is no classifier with the backbone of {chosen.preset}, which image-level labels alone need",
                wishes.named("network", ", ".join(rule.preset for rule in NETWORKS)),
            )
        sections["train-classifier"] = {
            "network": {**own, "preset": chosen.classifier},
            **training,
            "optimizer": optimizer_for(chosen.classifier_optimizer, batch),
        }
        sections["seeds"] = {"cam": {"scales": [view.factor, round(1.5 * view.factor, 4)]}}
        sections["crf"] = view.crf()
    return sections


def _machine_choices(machine: Machine, wishes: Wishes) -> list[Choice]:
    if wishes.precision:
        arithmetic = Choice("precision", wishes.precision, "of trainings, as given", "--precision")
    else:
        why = "of trainings; bf16 where the GPU or the processor has instructions for it, else fp32"
        source = "docs/results.md, Arithmetic of CPUs"
        arithmetic = Choice("precision", "bf16" if machine.bf16 else "fp32", why, source)
    return [
        arithmetic,
        Choice("memory format", "channels_last", "always; MobileNetV2 needs a quarter less time", "the training loop"),
        Choice("workers", str(workers(machine)), _why_workers(machine), rules.REASONED),
    ]


def workers(machine: Machine) -> int:
    """Processes that read images, or run the CRF: all cores, where the memory holds them."""
    if machine.is_gpu:
        return machine.cores
    return max(min(machine.cores, int(machine.memory // rules.PREDICTING)), 1)


def _why_workers(machine: Machine) -> str:
    few = workers(machine) < machine.cores
    return f"each needs about {rules.PREDICTING >> 20} MiB" if few else f"{machine.cores} cores"


def _remarks(data: DataFacts) -> list[str]:
    remarks = []
    if not data.val:
        remarks.append("no masks in val: nothing can be scored; paint masks of some images that are not trained on")
    if data.val and not data.holdout and data.masks:
        remarks.append("no holdout: methods compared on val look better there than they are (prepare-data, holdout)")
    rare = [name for name in data.foreground if data.masks and 0 < data.class_images.get(name, 0) < 5]
    absent = [name for name in data.foreground if data.class_images and not data.class_images.get(name)]
    if data.masks and absent:
        remarks.append(f"in no training mask: {', '.join(absent)}")
    if rare:
        remarks.append(f"in fewer than 5 training masks: {', '.join(rare)}")
    if data.long and data.long.median >= 3000:
        remarks.append("images of 3,000 pixels and more: reading them takes most of a step; smaller copies would do")
    return remarks
