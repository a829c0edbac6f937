"""The values that decide whether a shipped recipe reproduces a published run, beside the public code they come from.

All files named in comments are of these repositories: UniMatch and UniMatch-V2 (LiheYoung), ST-PlusPlus (LiheYoung),
TorchSemiSeg (charlesCXK), semisup-semseg (sud0301), DST-CBC (voldemortX). The traps are those of released code: random
mirroring that is off (14), a ramp counted in other epochs (12), a threshold of .95 on Cityscapes (17).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from semiseg_cli.recipe_commands import shipped_recipes
from stages.engine.batch import Batch
from stages.engine.method import Setup, Sources
from stages.engine.streams import MaskFolder
from stages.methods import load_method
from stages.methods.settings import TrainConfig
from stages.networks.config import NetworkConfig
from stages.pipeline.recipe import Recipe, read_recipe

VOC = 10_582  # images of VOC's train set with SBD
CITYSCAPES = 2_975
BLENDED = {16: 32, 8: 34, 4: 40, 2: 60}  # share -> epochs: TorchSemiSeg's README, its config.py has 34 at 1/8
FOLDERS = ["data=devkit", "lists=lists"]


def recipe(name: str, profile: str | None = None, *settings: str) -> Recipe:
    return read_recipe(shipped_recipes()[name], profile, settings)


def trained(made: Recipe) -> dict[str, TrainConfig]:
    """The configs of all trainings, by node."""
    return {name: node.config for name, node in made.nodes.items() if node.stage.name == "train"}


def step(config: TrainConfig, labels: Path | None = None) -> dict[str, int]:
    """Images of a step by stream, as the method itself shares its batch out; `labels`: a folder with b.png, c.png."""
    folders = {"weak_labels": MaskFolder(labels, None)} if labels else {}
    given = frozenset({"masks", "weak_labels", "confidence"})
    sources = Sources(strong=["a"], weak=["b", "c"], available=given, folders=folders)
    streams = load_method(config.method.name).streams(config.method, sources, config.batch_size)
    return {name: stream.batch_size for first, stream in streams.items() for name in (first, *stream.apart)}


def steps(epochs: int, images: int, a_step: int) -> float:
    return epochs * images / a_step


def alike(*configs: TrainConfig, but: tuple[str, ...] = ()) -> bool:
    """Whether the trainings differ in method, batch and what is named alone."""
    rows = [config.model_dump(exclude={"method", "batch_size", *but}) for config in configs]
    return all(row == rows[0] for row in rows)


def check_sgd(config: TrainConfig, backbone: float, new: float, decay: float, schedule: str = "poly") -> None:
    """SGD with momentum .9, one rate for weights and biases, weight decay on all layers, no warm-up."""
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.bias_lr_factor) == ("sgd", 0.9, 1)
    assert (optimizer.lr, optimizer.lr * optimizer.new_lr_factor) == pytest.approx((backbone, new))
    assert optimizer.weight_decay == decay
    assert optimizer.decay_biases
    assert (config.schedule.name, config.schedule.power, config.schedule.warmup) == (schedule, 0.9, 0)


def check_crops(
    config: TrainConfig, side: int, scale: tuple[float, float] | None, scales: tuple[float, ...] = ()
) -> None:
    """Random scale, crop and mirroring, and no colours on the labelled images."""
    augmentation = config.augmentation
    assert (config.crop_size, augmentation.mode, augmentation.scales) == (side, "crop", scales)
    assert scale is None or augmentation.scale == scale
    assert augmentation.flip
    assert augmentation.brightness == augmentation.contrast == augmentation.saturation == 0


def check_deeplabv3plus(
    network: NetworkConfig, backbone: str, stride: int, rates: tuple[int, ...], dropout: float = 0
) -> None:
    """Dilations, 256 channels and BatchNorm that is trained in backbone and head, from ImageNet."""
    assert (network.backbone, network.head, network.weights) == (backbone, "deeplabv3plus", "imagenet")
    assert (network.output_stride, network.rates(), network.head_channels) == (stride, rates, 256)
    assert (network.head_norm, network.freeze_batch_norm, network.neck_layers) == ("batch", False, 0)
    assert network.dropout == dropout


def check_strong_view(strong: Any) -> None:
    """dataset/semi.py of UniMatch, UniMatch-V2 and ST-PlusPlus: jitter .8 of .5, .5, .5, .25, grey .2, blur .5."""
    assert (strong.jitter, strong.grey, strong.blur, strong.blur_sigma) == (0.8, 0.2, 0.5, (0.1, 2.0))
    assert (strong.brightness, strong.contrast, strong.saturation, strong.hue) == (0.5, 0.5, 0.5, 0.25)


# --- voc-classic ---


def test_voc_classic_is_unimatchs_code() -> None:
    rows = trained(recipe("voc-classic", None, *FOLDERS, "labelled=[92]"))
    supervised, fixmatch, unimatch = (rows[f"train-{row}-n92-s0"] for row in ("supervised", "fixmatch", "unimatch"))
    assert len(rows) == 3
    assert alike(*rows.values())
    # configs/pascal.yaml: crop_size 321, lr .001, lr_multi 10, resnet101, dilations 6 12 18; unimatch.py: SGD, 1e-4
    check_crops(unimatch, 321, (0.5, 2.0))
    check_sgd(unimatch, 1e-3, 1e-2, 1e-4)
    check_deeplabv3plus(unimatch.network, "resnet101", 16, (6, 12, 18))
    assert unimatch.hard_examples is None  # criterion CELoss
    # batch_size 2 on 4 GPUs, labelled and unlabelled each
    assert step(unimatch) == step(fixmatch) == {"strong": 8, "unlabelled": 8, "partner": 8}
    assert step(supervised) == {"strong": 8}
    # epochs 80, of the unlabelled list: between the shortest and the longest of the five lists
    assert steps(80, VOC - 1464, 8) < unimatch.iterations < steps(80, VOC - 92, 8)
    assert unimatch.iterations == pytest.approx(steps(80, VOC - 92, 8), rel=0.05)
    # conf_thresh .95; loss (x + .25 s1 + .25 s2 + .5 fp) / 2, Dropout2d(.5); fixmatch.py: (x + s) / 2
    for method in (fixmatch.method, unimatch.method):
        assert (method.threshold, method.weight, method.mixing.style) == (0.95, 0.5, "unimatch")
        check_strong_view(method.strong)
        assert method.teacher is None
    assert (unimatch.method.feature_weight, unimatch.method.feature_dropout) == (0.5, 0.5)


def test_voc_classic_with_dinov2_is_unimatch_v2s_code() -> None:
    rows = trained(recipe("voc-classic", "dinov2", *FOLDERS, "weights=pretrained", "labelled=[92]"))
    supervised, fixmatch, unimatch = (rows[f"train-{row}-n92-s0"] for row in ("supervised", "fixmatch", "unimatch-v2"))
    assert len(rows) == 3
    assert alike(*rows.values())
    # configs/pascal.yaml: crop_size 518, lr 5e-6, lr_multi 40; unimatch_v2.py: AdamW, betas .9 .999, .01 on everything
    check_crops(unimatch, 518, (0.5, 2.0))
    optimizer, schedule = unimatch.optimizer, unimatch.schedule
    assert (optimizer.name, optimizer.betas, optimizer.weight_decay) == ("adamw", (0.9, 0.999), 0.01)
    assert (optimizer.lr, optimizer.lr * optimizer.new_lr_factor) == pytest.approx((5e-6, 2e-4))
    assert (optimizer.decay_biases, optimizer.bias_lr_factor) == (True, 1)
    assert (schedule.name, schedule.power, schedule.warmup) == ("poly", 0.9, 0)
    network = unimatch.network
    assert (network.backbone, network.head, network.head_channels) == ("dinov2_base", "dpt", 128)
    # batch_size 4 on 4 GPUs, labelled and unlabelled each
    assert step(unimatch) == step(fixmatch) == {"strong": 16, "unlabelled": 16, "partner": 16}
    assert step(supervised) == {"strong": 16}
    # 60 epochs of the unlabelled list; a process drops its last, incomplete batch of 4
    assert unimatch.iterations == 60 * (math.ceil((VOC - 92) / 4) // 4) == 39_300
    # conf_thresh .95; loss (x + (s1 + s2) / 2) / 2; ema_ratio .996 of parameters and buffers, model_ema.eval()
    for method in (fixmatch.method, unimatch.method):
        assert (method.threshold, method.weight, method.mixing.style) == (0.95, 0.5, "unimatch")
        check_strong_view(method.strong)
        assert (method.teacher.decay, method.teacher.average, method.teacher.mode) == (0.996, "floats", "eval")
    assert unimatch.method.whole == 0.5


# --- voc-blended ---


@pytest.mark.parametrize(("profile", "backbone"), [(None, "resnet50"), ("resnet101", "resnet101")])
def test_voc_blended_is_cpss_code(profile: str | None, backbone: str) -> None:
    rows = trained(recipe("voc-blended", profile, *FOLDERS, "share=[8]"))
    supervised, *methods = (rows[f"train-{row}-8-s0"] for row in ("supervised", "mean-teacher", "cps", "gct"))
    assert len(rows) == 4
    assert alike(*rows.values())
    # exp.voc/voc8.res50v3+.*/config.py: 512, train_scale_array; dataloader.py mirrors
    check_crops(supervised, 512, None, (0.5, 0.75, 1.0, 1.5, 1.75, 2.0))
    check_deeplabv3plus(supervised.network, backbone, 16, (6, 12, 18))
    # learning_rate .0025 times 4 processes, 1e-4, group_weight: none on biases and BatchNorm, all layers at one rate.
    # Each loss is divided by 4 and the gradients are averaged over the 4: a quarter of the rate, four times the decay
    optimizer, schedule = supervised.optimizer, supervised.schedule
    assert (optimizer.name, optimizer.momentum, optimizer.decay_biases) == ("sgd", 0.9, False)
    assert optimizer.lr == pytest.approx(0.0025 * 4 / 4)
    assert (optimizer.new_lr_factor, optimizer.bias_lr_factor) == (1, 1)
    assert optimizer.weight_decay == pytest.approx(1e-4 * 4)
    assert (schedule.name, schedule.power, schedule.warmup) == ("poly", 0.9, 0)
    # batch_size 8, labelled and unlabelled each
    assert step(supervised) == {"strong": 8}
    for config in methods:
        assert (step(config)["strong"], step(config)["unlabelled"]) == (8, 8)
    assert supervised.hard_examples is None


@pytest.mark.parametrize(("share", "epochs"), BLENDED.items())
def test_voc_blended_has_cpss_iterations_at_every_share(share: int, epochs: int) -> None:
    rows = trained(recipe("voc-blended", None, *FOLDERS, f"share=[{share}]"))
    published = epochs * ((VOC - VOC // share) // 8)  # config.py: niters_per_epoch
    assert {config.iterations for config in rows.values()} == {39_680}
    assert published == pytest.approx(39_680, abs=350)


@pytest.mark.parametrize("profile", [None, "resnet101"])
def test_the_methods_of_voc_blended_are_those_of_cpss_code(profile: str | None) -> None:
    rows = trained(recipe("voc-blended", profile, *FOLDERS, "share=[8]"))
    # 1.5 in the paper, as a mean over padding, too; CPS+CutMix/config.py: three boxes whose areas sum to .25 to .5
    cps = rows["train-cps-8-s0"].method
    assert (cps.cutmix, cps.mixing.style, cps.ignore_padding) == (True, "french", True)
    assert cps.weight == pytest.approx(1.5 * shown_share((375, 500), 512, rows["train-cps-8-s0"]), rel=0.08)
    assert (cps.mixing.boxes, cps.mixing.share) == (3, (0.25, 0.5))
    # MeanTeacher/config.py: unsup_weight 100, ema_decay .99; train.py: MSE of softmax, all images, no ramp
    mean_teacher = rows["train-mean-teacher-8-s0"].method
    assert (mean_teacher.weight, mean_teacher.ramp, mean_teacher.images) == (100, 0, "all")
    assert (mean_teacher.consistency, mean_teacher.reduction) == ("softmax", "mean")
    assert (mean_teacher.teacher.decay, mean_teacher.teacher.average, mean_teacher.teacher.mode) == (
        0.99,
        "parameters",
        "train",
    )
    assert not mean_teacher.teacher.warmup  # network.py: mul_(ema_decay) from the first step on
    # GCT/config.py: dc_ssl_scale 100, fc_ssl_scale 1, dc_threshold .6, mu .5, nu 1, fd_scale 10; gct_util.py: .1
    gct = rows["train-gct-8-s0"].method
    assert (gct.weight, gct.flaw_correction, gct.detector_weight) == (100, 1, 10)
    assert (gct.threshold, gct.visible, gct.mu, gct.dilations) == (0.6, 0.1, 0.5, 1)
    assert (gct.flaw_detector.optimizer.name, gct.flaw_detector.optimizer.betas) == ("adam", (0.9, 0.99))
    # fd_lr 1e-4 times 4 processes; Adam takes the same step whatever its loss is divided by
    assert gct.flaw_detector.optimizer.lr == pytest.approx(1e-4 * 4)


def shown_share(size: tuple[int, int], crop: int, config: TrainConfig) -> float:
    """Share of a crop that shows the image, not padding: mean over the scales."""
    shares = [
        math.prod(min(round(side * scale), crop) for side in size) / crop**2 for scale in config.augmentation.scales
    ]
    return sum(shares) / len(shares)


def test_the_ramp_of_gct_counts_epochs_of_the_unlabelled_list() -> None:
    config = trained(recipe("voc-blended", None, *FOLDERS, "share=[8]"))["train-gct-8-s0"]
    published = 3 * ((VOC - VOC // 8) // 8)  # GCT/config.py: dc_rampup_epochs, of 1,157 steps
    assert config.method.ramp * config.iterations == pytest.approx(published, rel=0.01)


def test_voc_blended_leaves_out_what_its_lists_do_not_name() -> None:
    nodes = recipe("voc-blended", None, *FOLDERS, "share=[8]", "methods=[]", "guided=[]").nodes
    assert {name for name in nodes if name.startswith("train-")} == {"train-supervised-8-s0", "train-cps-8-s0"}


# --- cityscapes ---

CITY_ROWS = {
    None: ("supervised", "cps", "fixmatch", "unimatch"),
    "hrnet": ("supervised", "cps", "fixmatch", "unimatch"),
    "dinov2": ("supervised", "fixmatch", "unimatch-v2"),
}


def city(profile: str | None) -> dict[str, TrainConfig]:
    confident = {"dinov2": "confident=[fixmatch,unimatch-v2]"}.get(str(profile), "confident=[fixmatch,unimatch]")
    given = ["weights=pretrained"] if profile == "dinov2" else []
    rows = trained(recipe("cityscapes", profile, *FOLDERS, "share=[16]", confident, *given))
    return {name.removeprefix("train-").removesuffix("-16-s0"): config for name, config in rows.items()}


@pytest.mark.parametrize("profile", CITY_ROWS)
def test_all_rows_of_cityscapes_are_alike(profile: str | None) -> None:
    rows = city(profile)
    assert set(rows) == set(CITY_ROWS[profile])
    assert alike(*rows.values())
    # UniMatch configs/cityscapes.yaml and UniMatch-V2's: batch_size 2 on 4 GPUs, labelled and unlabelled each
    for name, config in rows.items():
        assert step(config)["strong"] == 8
        assert name == "supervised" or step(config)["unlabelled"] == 8


@pytest.mark.parametrize("profile", CITY_ROWS)
def test_cityscapes_takes_as_many_hard_pixels_a_labelled_crop_as_published(profile: str | None) -> None:
    for config in city(profile).values():
        # both configs: OHEM, thresh .7, min_kept 200000 in each process, which has two labelled crops
        assert config.hard_examples is not None
        assert config.hard_examples.threshold == 0.7
        assert config.hard_examples.min_kept == step(config)["strong"] * 200_000 / 2


@pytest.mark.parametrize("row", ["cps", "fixmatch", "unimatch"])
def test_the_hard_examples_of_cityscapes_are_of_the_labelled_images_alone(row: str) -> None:
    config = city(None)[row]
    losses = {}
    for kind, hard in {
        "all": None,
        "hard": config.hard_examples.model_copy(update={"threshold": 1e-3, "min_kept": 5}),
    }.items():
        network = NetworkConfig.model_validate({"preset": "tiny", "dropout": 0.0})
        method = load_method(row)(config.method, Setup(network, 19, 0, 10, hard_examples=hard))
        method.networks.train()
        losses[kind] = method.losses({name: drawn(index) for index, name in enumerate(step(config))}, 0)
    changed = {term for term in losses["all"] if not torch.equal(losses["all"][term], losses["hard"][term])}
    assert changed == {term for term in losses["all"] if term.startswith("supervised")}


def drawn(seed: int) -> Batch:
    """Two images of noise; labels of which the network knows some."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (2, 3, 33, 33), generator=random, dtype=torch.uint8)
    label = torch.randint(19, (2, 33, 33), generator=random)
    valid = torch.ones(2, 33, 33, dtype=torch.bool)
    return Batch([f"{seed}a", f"{seed}b"], pixels / 128 - 1, pixels, label, valid, torch.zeros(2, 18))


@pytest.mark.parametrize("profile", [None, "hrnet"])
def test_cityscapes_is_unimatchs_code(profile: str | None) -> None:
    rows = city(profile)
    config = rows["unimatch"]
    # configs/cityscapes.yaml: crop_size 801, lr .005, lr_multi 1, epochs 240, conf_thresh 0
    check_crops(config, 801, (0.5, 2.0))
    check_sgd(config, 5e-3, 5e-3, 1e-4)
    if profile is None:
        check_deeplabv3plus(config.network, "resnet101", 16, (6, 12, 18))
    assert steps(240, CITYSCAPES // 2, 8) < config.iterations < steps(240, CITYSCAPES - 186, 8)
    assert config.iterations == pytest.approx(steps(240, CITYSCAPES - 186, 8), rel=0.05)
    for name in ("fixmatch", "unimatch"):
        method = rows[name].method
        assert (method.threshold, method.weight, method.mixing.style) == (0, 0.5, "unimatch")
        check_strong_view(method.strong)
    assert (rows["cps"].method.cutmix, rows["cps"].method.weight) == (True, 6)  # CPS's paper


def test_cityscapes_with_dinov2_is_unimatch_v2s_code() -> None:
    rows = city("dinov2")
    config = rows["unimatch-v2"]
    # configs/cityscapes.yaml: crop_size 798, lr 5e-6, lr_multi 40, epochs 180, conf_thresh .95
    check_crops(config, 798, (0.5, 2.0))
    optimizer, schedule = config.optimizer, config.schedule
    assert (optimizer.name, optimizer.weight_decay, optimizer.decay_biases) == ("adamw", 0.01, True)
    assert (optimizer.lr, optimizer.lr * optimizer.new_lr_factor) == pytest.approx((5e-6, 2e-4))
    assert (schedule.name, schedule.power, schedule.warmup) == ("poly", 0.9, 0)
    assert (config.network.backbone, config.network.head) == ("dinov2_base", "dpt")
    assert config.iterations == pytest.approx(steps(180, CITYSCAPES - 186, 8), rel=0.02)
    assert {rows[name].method.threshold for name in ("fixmatch", "unimatch-v2")} == {0.95}
    assert config.method.teacher.decay == 0.996


@pytest.mark.parametrize(("profile", "side"), [(None, 801), ("hrnet", 801), ("dinov2", 798)])
def test_cityscapes_is_scored_in_windows_of_the_crops_side(profile: str | None, side: int) -> None:
    given = ["weights=pretrained"] if profile == "dinov2" else []
    nodes = recipe("cityscapes", profile, *FOLDERS, *given).nodes.values()
    assert {node.config.window for node in nodes if node.stage.name in ("predict", "select")} == {side}


# --- self-training ---

ST_ROWS = ("train-teacher-s0", "train-st-s0", "student-s0", "train-stpp-s0")


def enlarged(labelled: int, others: int) -> int:
    """dataset/semi.py: the labelled list as often as it takes to be as long as the others, and the others."""
    return labelled * math.ceil(others / labelled) + others


def test_self_training_is_sts_code(tmp_path: Path) -> None:
    rows = trained(recipe("self-training", "paper", "data=devkit", "labelled=list.txt"))
    teacher, st, first, last = (rows[name] for name in ST_ROWS)
    assert len(rows) == 4
    assert alike(*rows.values(), but=("iterations", "snapshots"))
    # train.py: 321, lr .001 at a batch of 16, head times 10, SGD 1e-4 on everything, poly .9, epochs 80
    check_crops(teacher, 321, (0.5, 2.0))
    check_sgd(teacher, 1e-3, 1e-2, 1e-4)
    # model/backbone/resnet.py: layer3 and layer4 dilated; model/semseg/deeplabv3plus.py: 12 24 36, Dropout2d(.5)
    check_deeplabv3plus(teacher.network, "resnet101", 8, (12, 24, 36), dropout=0.5)
    assert step(teacher) == {"strong": 16}
    for name in "bc":
        (tmp_path / f"{name}.png").touch()
    for config in (st, first, last):
        assert sorted(step(config, tmp_path).values()) == [8, 8]
    unlabelled = VOC - 1464
    assert teacher.iterations == steps(80, 1464, 16)
    assert st.iterations == last.iterations == steps(80, enlarged(1464, unlabelled), 16) == 96_830
    assert first.iterations == steps(80, enlarged(1464, unlabelled // 2), 16) == 52_075
    # dataset/semi.py: colours, blur and a hole on images with pseudo labels
    for config in (st, first, last):
        check_strong_view(config.method.strong)
        strong = config.method.strong
        assert (strong.cutout, strong.cutout_area, strong.cutout_ratio) == (0.5, (0.02, 0.4), 0.3)


def test_self_training_has_sts_steps_in_sts_order() -> None:
    nodes = recipe("self-training", "paper", "data=devkit", "labelled=list.txt").nodes
    # train.py: checkpoints at one third, two thirds and the end; the better half of the list is reliable
    assert nodes["train-teacher-s0"].config.snapshots == 3
    assert nodes["ranks-s0"].config.share == 0.5
    # model/semseg/base.py: five scales and their mirror images, softmax summed
    for name in ("pseudo-s0", "half-s0", "all-s0"):
        config = nodes[name].config
        assert (config.scales, config.flip, config.merge) == ((0.5, 0.75, 1.0, 1.5, 2.0), True, "probabilities")
    assert nodes["half-s0"].inputs["segmenter"] == nodes["pseudo-s0"].inputs["segmenter"] == "train-teacher-s0"
    # the reliable half keeps the teacher's labels, the other half gets those of the first student
    assert (nodes["all-s0"].inputs["segmenter"], nodes["all-s0"].inputs["keep"]) == ("student-s0", "half-s0")
    for name in ST_ROWS[1:]:
        assert "initial" not in nodes[name].inputs  # init_basic_elems: every student starts from ImageNet


# --- dmt ---


def dmt() -> Recipe:
    return recipe("dmt", "paper", "data=devkit", "seeds=[0,12]")


def test_dmt_is_its_code() -> None:
    rows = {name: config for name, config in trained(dmt()).items() if name.endswith("-s0")}
    starts = [rows[f"train-{name}-s0"] for name in ("a0", "b0")]
    rounds = [rows[f"train-{model}{number}-s0"] for model in "ab" for number in range(1, 6)]
    baseline = rows["train-baseline-s0"]
    assert len(rows) == 13
    assert alike(*starts, baseline, but=("seed", "iterations"))
    assert alike(*rounds, but=("seed",))
    # main.py: scale .5 to 1.5, mirrored, SGD, lr .002, one rate, 5e-4, poly .9; dmt-voc-20-1.sh: rounds with lr .001
    for config in rows.values():
        check_crops(config, 321, (0.5, 1.5))
        network = config.network
        assert (network.backbone, network.head, network.output_stride) == ("resnet101", "aspp", 8)
        assert (network.head_channels, network.rates(), network.freeze_batch_norm) == (0, (6, 12, 18, 24), False)
    for config in (*starts, baseline):
        check_sgd(config, 2e-3, 2e-3, 5e-4)
        assert step(config) == {"strong": 8}
    for config in rounds:
        check_sgd(config, 1e-3, 1e-3, 5e-4)
        assert sorted(step(config).values()) == [1, 7]
        assert step(config)["strong"] == 1
        assert (config.method.gamma_agree, config.method.gamma_differ, config.method.weight) == (5, 5, 1)
    # dmt-voc-20-1.sh: 134 epochs of the labelled list, then 4 of the other one in each round
    labelled = VOC // 20
    assert {config.iterations for config in starts} == {8_860}
    assert starts[0].iterations == pytest.approx(steps(134, labelled, 8), rel=0.001)
    assert rounds[0].iterations == pytest.approx(steps(4, VOC - labelled, 7), rel=0.001)
    assert baseline.iterations == starts[0].iterations + 5 * rounds[0].iterations


@pytest.mark.parametrize(("seed", "other"), [("0", 100), ("12", 1012)])
def test_dmt_has_five_rounds_of_growing_shares(seed: str, other: int) -> None:
    nodes = dmt().nodes
    for number, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0), start=1):  # dmt-voc-20-1.sh: rates
        for model, teacher in ("ab", "ba"):
            node, before = nodes[f"train-{model}{number}-s{seed}"], f"{teacher}{number - 1}-s{seed}"
            assert node.inputs["initial"] == f"train-{model}{number - 1}-s{seed}"
            assert node.inputs["weak_labels"] == f"labels-{before}"
            assert nodes[f"labels-{before}"].config.share == share
            assert nodes[f"labels-{before}"].inputs["predictions"] == f"guesses-{before}"
            assert nodes[f"guesses-{before}"].inputs["segmenter"] == f"train-{before}"
            assert node.config.seed == (int(seed) if model == "a" else other)
    assert (nodes[f"train-a0-s{seed}"].config.seed, nodes[f"train-b0-s{seed}"].config.seed) == (int(seed), other)


# --- s4gan ---


def test_s4gan_is_its_code() -> None:
    rows = trained(recipe("s4gan", "paper", "data=devkit"))
    supervised, s4gan = rows["train-supervised-s0"], rows["train-s4gan-s0"]
    assert alike(supervised, s4gan)
    # train_s4GAN.py: 321, 40,000 steps, SGD 2.5e-4, head times 10, 5e-4, poly .9, batch 8 of each kind
    # data/voc_dataset.py: scale .5 + {0 ... 11} / 10 and mirroring, when asked for
    check_crops(s4gan, 321, None, tuple(round(0.5 + tenth / 10, 1) for tenth in range(12)))
    check_sgd(s4gan, 2.5e-4, 2.5e-3, 5e-4)
    assert s4gan.iterations == 40_000
    assert (step(s4gan)["strong"], step(s4gan)["unlabelled"], step(supervised)) == (8, 8, {"strong": 8})
    network = s4gan.network
    assert (network.backbone, network.head, network.output_stride) == ("resnet101", "aspp", 8)
    assert (network.head_channels, network.weights) == (0, "imagenet")
    assert network.freeze_batch_norm == "affine"  # model/deeplabv2.py: requires_grad False, model.train()
    # LAMBDA_FM .1, LAMBDA_ST 1, THRESHOLD_ST .6, no warm-up; Adam 1e-4, betas .9 .99
    method, discriminator = s4gan.method, s4gan.method.discriminator.optimizer
    assert (method.feature_matching, method.weight, method.threshold, method.warmup) == (0.1, 1, 0.6, 0)
    assert (discriminator.name, discriminator.lr, discriminator.betas) == ("adam", 1e-4, (0.9, 0.99))


def test_mlmt_is_its_code_as_near_as_the_settings_allow() -> None:
    config = recipe("s4gan", "paper", "data=devkit").nodes["train-mlmt-s0"].config
    # train_mlmt.py: whole images at 320 x 320, mirrored
    assert (config.crop_size, config.augmentation.mode, config.augmentation.flip) == (320, "resize", True)
    # SGD .03, momentum .9, Nesterov, 1e-5 on all, cosine to eta_min 1e-4
    check_sgd(config, 0.03, 0.03, 1e-5, "cosine")
    assert config.optimizer.nesterov
    assert config.optimizer.lr * config.schedule.last == pytest.approx(1e-4, rel=0.01)
    # models.resnet101(pretrained=True) in train mode, no dropout
    network = config.network
    assert (network.backbone, network.weights) == ("resnet101", "imagenet")
    assert (network.freeze_batch_norm, network.dropout) == (False, 0)
    # 100 epochs of int(.125 * 10,582) labelled images, 16 a step, the last batch of an epoch smaller; 80 others
    assert step(config) == {"strong": 16, "unlabelled": 80}
    assert config.iterations == 100 * math.ceil(int(0.125 * VOC) / 16)
    # w_cons: 0 up to epoch 10, 1 from epoch 60 on; ema_decay .999; ColorJitter(.4, .4, .4, .1), blur of every image
    method, strong = config.method, config.method.strong
    assert (method.weight, method.start, method.ramp, method.teacher.decay) == (1, 0.1, 0.5, 0.999)
    assert method.teacher.warmup  # update_ema_variables: min(1 - 1 / (step + 1), .999)
    assert method.mirror == 0.5  # TransformTwice: RandomHorizontalFlip in both views, each for itself
    assert (strong.jitter, strong.blur, strong.blur_sigma, strong.grey) == (1, 1, (0.1, 2.0), 0)
    assert (strong.brightness, strong.contrast, strong.saturation, strong.hue) == (0.4, 0.4, 0.4, 0.1)


def test_s4gans_classes_are_filtered_as_in_its_code() -> None:
    nodes = recipe("s4gan", "paper", "data=devkit").nodes
    for row in ("supervised", "s4gan"):
        assert nodes[f"predict-{row}-mlmt-s0"].config.class_threshold == 0.2  # evaluate.py
        assert nodes[f"predict-{row}-mlmt-s0"].inputs["classifier"] == "train-mlmt-s0"


@pytest.mark.parametrize("profile", [None, "paper"])
def test_the_costs_of_s4gan_count_the_classifier(profile: str | None) -> None:
    table = recipe("s4gan", profile, *(["data=devkit"] if profile else []), "seeds=[0]").table
    assert table is not None
    # the segmenter last: its images/s are shown
    assert [row.costs for row in table.rows] == [
        [["train-mlmt-s0", f"train-{row}-s0"]] for row in ("supervised", "s4gan")
    ]
