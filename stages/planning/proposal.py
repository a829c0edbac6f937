"""`make_plan`: from the fingerprint of a data set, a machine and wishes to a plan. A pure function; loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError, DataError
from artifacts.text import did_you_mean
from stages.planning import pipelines, rules
from stages.planning.records import GIB, Choice, DataFacts, Machine, Measured, Plan, Step, Wishes
from stages.planning.rules import NETWORKS, CropRule, MethodRule, NetworkRule


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
    network, weights, network_choices, remarks = _network(machine, wishes)
    view = _View.of(data, machine, wishes)
    steps = _steps(rule, data, data_name, view)
    segmenters = tuple(step.name for step in steps if step.trains and step.stage == "train" and step.name != "dsrg")
    least = rules.LEAST_BATCH.get(rule.pipeline, rules.LEAST_BATCH_OTHERS)
    batch, batch_choice = _batch(data, machine, wishes, least, measured)
    sections = _sections(rule, network, weights, view, batch, data)
    plan = Plan(
        method=rule.method,
        choices=(),
        sections=sections,
        steps=steps,
        segmenters=segmenters,
        iterations={step.name: _useful(step, data, batch, wishes) for step in steps if step.trains},
        batch_size=batch,
        least_batch=least,
        remarks=(*remarks, *_remarks(data, rule, wishes)),
    )
    plan, time_choice = _timed(plan, data, rule, wishes, measured)
    choices = (
        Choice("method", rule.method, rule.reason, rule.source),
        *network_choices,
        *view.choices,
        batch_choice,
        time_choice,
        *_speed(plan, measured),
        _optimizer_choice(network, sections["train"]["optimizer"]),
        *_machine_choices(machine),
    )
    return replace(_with_iterations(plan), choices=choices)


# ------------------------------------------------------------------------------------------------- data and method


def _refuse_unusable(data: DataFacts) -> None:
    """DataError where there is nothing to learn, or nothing to learn from."""
    if data.long is None:
        raise DataError(f"the data set {data.name} has no images", "prepare it again: semiseg prepare-data --help")
    if not data.foreground or len(data.classes) < 2:
        raise DataError(
            f"the data set {data.name} has one class, {data.classes[0] if data.classes else '-'}: there is nothing to "
            "tell apart",
            "name the background, too, as the first class of the class table; the rest of a photo belongs to it",
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
        from stages.methods.settings import learning_from

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
            f"--method {rule.method}, or leave --method out",
        )
    if given.pipeline == "labels" and not data.image_labels:
        raise DataError(
            f"method {given.method} needs image-level labels, and the data set {data.name} has none",
            f"--method {rule.method}, or leave --method out",
        )
    return replace(given, reason="as given", source="--method")


def _steps(rule: MethodRule, data: DataFacts, name: str, view: _View) -> tuple[Step, ...]:
    if rule.pipeline == "supervised":
        return pipelines.supervised(name)
    if rule.pipeline == "self-training":
        return pipelines.self_training(name, data)
    if rule.pipeline == "online":
        return pipelines.online(rule.method, name, data)
    return pipelines.from_labels(name, view.dsrg())


# ------------------------------------------------------------------------------------------------- network


def _network(machine: Machine, wishes: Wishes) -> tuple[NetworkRule, str, list[Choice], list[str]]:
    """The network, where its weights come from, why, and remarks."""
    from stages.networks.config import PRESETS

    if wishes.network and wishes.network not in PRESETS:
        meant = did_you_mean(wishes.network, PRESETS, list_known=False)
        raise ConfigError(f"--network {wishes.network}: not a preset{meant}", f"one of {', '.join(PRESETS)}")
    given = wishes.network
    file = wishes.weights if wishes.weights not in ("", "imagenet", "none") else ""
    if file and not Path(file).expanduser().is_file():
        raise ConfigError(f"--weights: there is no file {file}", "a file of weights, imagenet (downloads) or none")
    backbone = PRESETS[given]["backbone"] if given else _backbone_of(Path(file).name) if file else ""
    if file and not backbone:
        raise ConfigError(
            f"the name of {file} does not say which network the weights are of",
            f"name it: --network {', '.join(rule.preset for rule in NETWORKS[:-1])}",
        )
    rule = _rule(machine, wishes, backbone)
    rule = replace(rule, preset=given or rule.preset)
    weights, why, remarks = _weights(rule, machine, wishes, file)
    chosen = Choice(
        "network",
        rule.preset,
        "as given" if given else f"the weights are of {backbone}" if file else rule.reason,
        "--network" if given else "--weights" if file else rule.source,
    )
    return rule, weights, [chosen, Choice("weights", weights, why, "--weights" if wishes.weights else OWN_WEIGHTS)], [
        *remarks
    ]


OWN_WEIGHTS = rules.OWN_DATA


def _rule(machine: Machine, wishes: Wishes, backbone: str) -> NetworkRule:
    """The row for a given backbone; else the first one that suits the machine and has the weights that are wanted."""
    if backbone:
        like = next((rule for rule in NETWORKS if rule.backbone == backbone), NETWORKS[0])
        return like if like.backbone == backbone else replace(like, backbone=backbone, classifier=None)
    fitting = [rule for rule in NETWORKS if rule.holds(machine)]
    if wishes.weights == "imagenet":
        return fitting[0]
    has = [rule for rule in fitting if rule.backbone in machine.cached] if wishes.weights == "" else []
    return has[0] if has else NETWORKS[-1]


def _backbone_of(file: str) -> str:
    """The backbone that a file of weights is named after; "" if none."""
    from stages.networks.config import BACKBONES

    plain = file.lower().replace("-", "_")
    found = [name for name in BACKBONES if name in plain or name.replace("_", "") in plain.replace("_", "")]
    return max((name for name in found if name != "tiny"), key=len, default="")


def _weights(rule: NetworkRule, machine: Machine, wishes: Wishes, file: str) -> tuple[str, str, list[str]]:
    """What network.weights says, why, and remarks."""
    if file:
        return str(Path(file).expanduser().absolute()), "as given", []
    if rule.backbone == "tiny":
        random = "random weights: pretrained ones of mobilenet_v2 make a much better start with few masks"
        hint = "--weights FILE, or --weights imagenet, which downloads them"
        if wishes.weights == "none":
            return "none", "as given", []
        return "none", "no pretrained weights were found on this machine", [f"{random} ({hint})"]
    if wishes.weights == "imagenet" and rule.backbone not in machine.cached:
        return "imagenet", "as given; torchvision downloads them once", []
    if rule.backbone in machine.cached and wishes.weights != "none":
        return "imagenet", "in torchvision's cache already: nothing is downloaded", []
    if wishes.weights in ("imagenet", "none"):
        return wishes.weights, "as given", []
    raise ConfigError(
        f"no weights of {rule.backbone} were found on this machine",
        "--weights FILE, --weights imagenet (downloads them), or --weights none",
    )


# ------------------------------------------------------------------------------------------------- crop and scale


class _View:
    """How large the network sees images and objects: the crop, and the factor on the images."""

    def __init__(self, crop: int, factor: float, long: float, choices: Sequence[Choice]) -> None:
        self.crop, self.factor, self.long, self.choices = crop, factor, long, tuple(choices)

    @classmethod
    def of(cls, data: DataFacts, machine: Machine, wishes: Wishes) -> _View:
        assert data.long is not None and data.short is not None
        long, short = data.long.median, data.short.median
        rule = next(rule for rule in rules.CROPS if rule.holds(machine, long))
        factor, why, source = _factor(data, rule, long, short)
        seen = f"{short:g} x {long:g} pixels" + (f", seen at a scale of {factor:g}" if factor != 1 else "")
        largest = max(data.long.high * factor, rules.LEAST_SIDE)
        crop, crop_why = rule.crop, f"{rule.reason}; images of {seen}"
        if largest < rule.crop:
            crop, crop_why = 16 * math.ceil(largest / 16), f"images of {seen} are no larger"
        crop_source = rule.source
        if wishes.crop_size is not None:
            crop, crop_why, crop_source = wishes.crop_size, "as given", "--crop-size"
        return cls(
            crop,
            factor,
            long,
            [
                Choice("crop_size", str(crop), crop_why, crop_source),
                Choice("scale of images", f"{factor:g}", why, source),
            ],
        )

    def scales(self) -> list[float]:
        low, high = rules.SCALES
        return [round(low * self.factor, 4), round(high * self.factor, 4)]

    def dsrg(self) -> dict[str, Any]:
        """Maps with about the cells of DSRG's, and a CRF that is as wide on them: 12 where 41 cells are the image."""
        stride = 4 if self.crop < 256 else 8
        return {"map_stride": stride, "crf_scale": round(12 * 41 * stride / (self.factor * self.long), 2)}

    def crf(self) -> dict[str, Any]:
        return {"scale": round(500 / self.long, 3), "labels": "tags", "splits": ["weak"]}


def _factor(data: DataFacts, rule: CropRule, long: float, short: float) -> tuple[float, str, str]:
    """The factor on the sides of images, why, and where the rule comes from."""
    if long < rules.LEAST_SIDE:
        factor = min(rules.LEAST_SIDE / long, rules.LARGEST_SCALE)
        return _rounded(factor), f"images of {long:g} pixels have few cells of {rules.CELL}", rules.REASONED
    if rule.image_side is None or long <= 1.2 * rule.image_side:
        return 1.0, "images are as large as the crop is made for", rule.source
    whole = rule.image_side / long
    small = data.objects.quarter * math.sqrt(short * long) if data.objects else None
    if small is not None and small * whole < rules.CELL:
        factor = min(rules.CELL / small, 1.0)
        why = f"a quarter of the objects are smaller than {small:.0f} pixels: they keep {factor * small:.0f}"
        return _rounded(factor), why, rules.REASONED
    return _rounded(whole), f"images become {rule.image_side} pixels long: a crop shows most of one", rule.source


def _rounded(factor: float) -> float:
    """Three digits, rounded up: a small object keeps its cell."""
    digits = 2 - math.floor(math.log10(factor))
    return math.ceil(factor * 10**digits) / 10**digits


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


def _timed(
    plan: Plan, data: DataFacts, rule: MethodRule, wishes: Wishes, measured: Measured | None
) -> tuple[Plan, Choice]:
    """The plan with iterations that fit the budget and the time they take, as far as that was measured."""
    main = plan.trainings()[-1]
    source = rules.PASSES[main.trains].source if wishes.iterations is None else "--iterations"
    reason = _passes_in_words(main, data) if wishes.iterations is None else "as given"
    if measured is not None:
        fixed = _fixed_seconds(plan, data, measured)
        if wishes.budget_s is not None:
            plan, fits = _within(plan, rule, wishes.budget_s, fixed, measured)
            if not fits:
                reason, source = f"as many as fit the budget of {wishes.budget_s:.0f} s", "measured"
        seconds = {name: round(trial.seconds(plan.iterations[name]), 1) for name, trial in measured.trials.items()}
        share = rules.TRAINING_SHARE.get(rule.pipeline, 1.0)
        total = round(sum(seconds.values()) / share + fixed, 1)
        plan = replace(plan, seconds=seconds, total_s=total)
    values = ", ".join(f"{count:,} {name}" for name, count in plan.iterations.items())
    return plan, Choice("iterations", values, reason, source)


def _speed(plan: Plan, measured: Measured | None) -> list[Choice]:
    """The speed of the last training and of predicting, where it was measured."""
    if measured is None:
        return []
    trial = measured.trials[plan.trainings()[-1].name]
    reason = f"a step takes {trial.step_s:.3g} s, predicting an image {measured.predict_image_s:.2g} s"
    return [Choice("speed", f"{trial.batch_size / trial.step_s:.3g} images/s", reason, "measured")]


def _fixed_seconds(plan: Plan, data: DataFacts, measured: Measured) -> float:
    """Predictions: those of the steps, and of holdout and val with each network that is compared."""
    others, scored = data.image_labels + data.unlabelled, data.val + data.holdout
    runs = sum(step.stage == "predict" for step in plan.steps)
    views = [1 + bool(step.settings.get("flip")) for step in plan.steps if step.stage == "predict"]
    images = others * sum(views) + scored * len(plan.segmenters)
    return (runs + len(plan.segmenters)) * measured.predict_start_s + images * measured.predict_image_s


def _within(
    plan: Plan, rule: MethodRule, budget: float, fixed: float, measured: Measured
) -> tuple[Plan, bool]:
    """The plan with fewer iterations, each training shortened alike, and whether the budget allowed them all.

    ConfigError where the budget is too small to train at all.
    """
    share = rules.TRAINING_SHARE.get(rule.pipeline, 1.0)
    left = (budget * rules.SAFETY - fixed) * share - sum(trial.seconds(0) for trial in measured.trials.values())
    wanted = sum(plan.iterations[name] * trial.step_s for name, trial in measured.trials.items())
    part = left / wanted
    iterations = {name: math.floor(count * min(part, 1)) for name, count in plan.iterations.items()}
    if min(iterations.values()) < rules.WORTH_STARTING:
        least = wanted * rules.WORTH_STARTING / min(plan.iterations.values())
        needed = ((least + budget * rules.SAFETY * share - fixed * share - left) / share + fixed) / rules.SAFETY
        raise ConfigError(
            f"a budget of {budget:.0f} s is too small for {rule.method}: {rules.WORTH_STARTING} steps of each of "
            f"{len(iterations)} trainings, their start-up and the predictions need {math.ceil(needed)} s",
            "give more time, --method supervised, a smaller --network or --crop-size",
        )
    return replace(plan, iterations=iterations), part >= 1


def _passes_in_words(step: Step, data: DataFacts) -> str:
    passes = rules.PASSES[step.trains]
    if step.trains == "labels":
        return f"{passes.others:g} passes over {data.image_labels:,} labelled images, at least {rules.LEAST_ITERATIONS}"
    words = f"{passes.masks:g} passes over {data.masks:,} masks"
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
    rule: MethodRule, network: NetworkRule, weights: str, view: _View, batch: int, data: DataFacts
) -> dict[str, dict[str, Any]]:
    """The settings of each stage, as `--config` takes them; without method and iterations, which follow."""
    from stages.networks.config import BACKBONES

    own: dict[str, Any] = {"preset": network.preset, "weights": weights}
    if weights == "none" and BACKBONES[network.backbone].batch_norm:
        own["freeze_batch_norm"] = False
    training = {
        "batch_size": batch,
        "crop_size": view.crop,
        "augmentation": {"scale": view.scales()},
        "precision": "auto",
    }
    sections: dict[str, dict[str, Any]] = {
        "train": {"network": own, **training, "optimizer": _optimizer(network.optimizer, batch)},
        "predict": {"splits": ["val"], "output": "masks", "scales": [view.factor]},
    }
    if rule.pipeline == "labels":
        if network.classifier is None:
            raise ConfigError(
                f"there is no classifier with the backbone of {network.preset}, which image-level labels alone need",
                f"--network {', '.join(rule.preset for rule in NETWORKS)}",
            )
        sections["train-classifier"] = {
            "network": {**own, "preset": network.classifier},
            **training,
            "optimizer": _optimizer(network.classifier_optimizer, batch),
            "score_split": "val" if data.val else "train",
        }
        sections["seeds"] = {"cam": {"scales": [view.factor, round(1.5 * view.factor, 4)]}}
        sections["crf"] = view.crf()
    return sections


def _optimizer(base: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """sgd: the learning rate follows the batch. adamw: the same rate was measured with batches of 8 and 16."""
    if base["name"] != "sgd":
        return dict(base)
    return {**base, "lr": float(f"{base['lr'] * batch / rules.SGD_BATCH:.4g}")}


def _optimizer_choice(network: NetworkRule, optimizer: Mapping[str, Any]) -> Choice:
    reason = "the same for batches of 8 and 16" if optimizer["name"] != "sgd" else "lr follows the batch"
    if optimizer["new_lr_factor"] != 1:
        reason += f"; new layers learn {optimizer['new_lr_factor']} times as fast as pretrained ones"
    return Choice("optimizer", f"{optimizer['name']}, lr {optimizer['lr']:g}", reason, network.optimizer_source)


def _machine_choices(machine: Machine) -> list[Choice]:
    arithmetic = "bf16" if machine.bf16 else "fp32"
    why = "bf16 on a GPU that has it, else fp32"
    return [
        Choice("precision", arithmetic, why, "stages/engine/device.py, auto"),
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


def _remarks(data: DataFacts, rule: MethodRule, wishes: Wishes) -> list[str]:
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
